"""The node's own dockerd: how it is started. It serves nobody but this node, and dies with it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from localcloud.nodes.inside.configuration import DockerPrograms
from localcloud.nodes.inside.docker.api import DockerApi, DockerProblem
from localcloud.nodes.inside.machine import OWN

DATA = OWN / "docker" / "data"
"""Docker's data-root, on the node's folder of the stack's pool (XFS, which has d_type, as overlay2 needs)."""
SOCKET = Path("/run/docker.sock")
EXEC_ROOT = Path("/run/docker")
START_LIMIT_SECONDS = 180.0
BRIDGE = "172.30.0.1/24"
"""Of Docker's bridge, inside the node's network namespace: the same on every node, seen by none but its own jobs."""


def dockerd_command(programs: DockerPrograms, runtime: str, cgroup: str) -> list[str]:
    """The command line of a node's dockerd. `cgroup`: the group below which containers get theirs."""
    default = "perdure" if runtime != "runc" else "runc"
    ours = [f"--add-runtime={name}={runtime}" for name in ("perdure", "nvidia") if default == "perdure"]
    return [
        programs.dockerd,
        # Never the machine's own /etc/docker/daemon.json.
        f"--config-file={OWN / 'docker-daemon.json'}",
        f"--data-root={DATA}",
        f"--exec-root={EXEC_ROOT}",
        f"--pidfile={OWN / 'docker.pid'}",
        f"--host=unix://{SOCKET}",
        "--storage-driver=overlay2",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent={cgroup}",
        *ours,
        f"--default-runtime={default}",
        # Debian's docker-init is a symbolic link, which CRIU cannot bring back.
        f"--init-path={programs.init}",
        f"--bip={BRIDGE}",
        # Batch's jobs are on the host's network; rules would need modules of the machine's kernel.
        "--iptables=false",
        "--live-restore=false",
    ]


def write_settings() -> None:
    """dockerd's settings file. The command line says everything else."""
    (OWN / "docker-daemon.json").write_text(json.dumps({"features": {"buildkit": False}}))
    DATA.mkdir(parents=True, exist_ok=True)


def wait_until_it_serves(api: DockerApi, limit_seconds: float = START_LIMIT_SECONDS) -> None:
    """Raises DockerProblem when it does not answer within the limit."""
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            return api.ping()
        except DockerProblem:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
