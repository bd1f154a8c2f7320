"""File systems that a job has mounted itself: which of them no restore could mount again.

CRIU mounts by kind what the container engine does not bring (filesystems.c). It does so for what the kernel makes of
nothing (a tmpfs, /proc) and refuses others by their number; an overlay it saves and then does not find the layers of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perdure.image.mounts import Mount, read_mounts
from worker_agent.engine.looking import one_of_each

_MADE_AGAIN = {
    *("proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "binfmt_misc", "securityfs"),
    *("fusectl", "debugfs", "tracefs", "pstore", "autofs"),
}


def lost_at_a_restore(pids: Iterable[int], places: Iterable[str]) -> Iterator[tuple[int, Mount]]:
    """A process that sees such a mount, and the mount. `places`: where the container engine mounted something. Whatever
    is there, or is mounted for this program too, is not the job's doing. FUSE is preflight's. Blocks shortly."""
    known = set(places)
    for pid in one_of_each(pids, "mnt"):
        suspects = [mount for mount in read_mounts(pid) if _is_lost(mount)]
        if suspects:
            here = {mount.device for mount in read_mounts()}
            again = read_mounts(pid)  # what others mount and unmount meanwhile is nobody's
            here |= {mount.device for mount in again if mount.point == "/" or mount.point in known}
            still = {mount.device for mount in again}
            yield from ((pid, mount) for mount in suspects if mount.device in still - here)


def _is_lost(mount: Mount) -> bool:
    return mount.kind not in _MADE_AGAIN and mount.kind.partition(".")[0] not in ("fuse", "rootfs")
