"""Which folders of the cgroup trees a restored container sees at /sys/fs/cgroup: its own, as before.

On cgroup version 1 these are bind mounts. At a restore runc names to CRIU the cgroups that runc itself is in (1.1.5,
getCgroupMounts: /proc/self/cgroup), so the job would see the machine's limits instead of its own, and a restore failed
where it had a file of its cgroup open. What CRIU's options file says comes before what runc says.
"""

from __future__ import annotations

import json
import os

from perdure.image.mounts import Mount, read_mounts
from worker_agent.engine.container import Container

_JOINED = {
    *("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio"),
    *("perf_event", "pids", "rdma", "name=systemd"),
}
"""Trees in which runc makes a cgroup for every container (libcontainer/cgroups/fs)."""


def own_folders(container: Container) -> dict[str, str]:
    """The folder on this node for each such mount, by its place in the container; runc makes it just before CRIU
    begins. Empty on cgroup version 2, in a cgroup namespace, and where runc chooses the cgroup. OSError, ValueError:
    config.json cannot be read."""
    config = json.loads((container.bundle / "config.json").read_text())
    namespaces = config.get("linux", {}).get("namespaces") or ()
    if not container.cgroup or any(one["type"] == "cgroup" for one in namespaces):
        return {}
    places = [mount["destination"] for mount in config.get("mounts") or () if mount.get("type") == "cgroup"]
    trees = {os.path.basename(mount.point): mount.point for mount in read_mounts()[::-1] if _joined(mount)}
    return {f"{place.rstrip('/')}/{name}": tree + container.cgroup for place in places for name, tree in trees.items()}


def _joined(mount: Mount) -> bool:
    return mount.kind == "cgroup" and not _JOINED.isdisjoint(mount.options.split(","))
