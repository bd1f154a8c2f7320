"""What a node sees of the machine: its own /run, /dev/disk, host name and disk, and nobody else's mounts.

Called once by the node's init, in fresh mount, pid, uts, ipc and network namespaces with private propagation.
"""

from __future__ import annotations

import socket
from pathlib import Path

from localcloud.foreign import foreign_mounts, let_go, needed_paths
from localcloud.linux import bind, mount, mount_table

STATE = Path("/var/lib/perdure")
"""The agent's folder: on a real instance it lies on the root volume."""
DISK_LINKS = Path("/dev/disk")
OWN = Path("/run/localcloud")
"""What plays the instance's own parts: docker/ (bundles and layers), mask and root (read-only layers)."""
LAYERS = [OWN / "mask", OWN / "root"]


def furnish(*, state_folder: Path, docker_folder: Path, mask_folder: Path, host_name: str, stacks: Path) -> None:
    """Arrange the node's mounts. The three folders lie on the stack's pool, which `stacks` (all stacks' folders) holds.

    Raises OSError.
    """
    socket.sethostname(host_name)
    foreign = foreign_mounts(mount_table(), stacks, needed_paths())
    pool = [point for point in foreign if mask_folder.is_relative_to(point)]
    let_go([point for point in foreign if point not in pool])
    mount("tmpfs", Path("/run"), "tmpfs", options="mode=755")
    for folder in (STATE, DISK_LINKS, OWN / "docker", *LAYERS):
        folder.mkdir(parents=True, exist_ok=True)
    mount("tmpfs", DISK_LINKS, "tmpfs", options="mode=755")
    (DISK_LINKS / "by-id").mkdir()
    bind(state_folder, STATE)
    bind(docker_folder, OWN / "docker")
    bind(mask_folder, LAYERS[0], read_only=True)
    bind(Path("/"), LAYERS[1], read_only=True)
    let_go(pool)
