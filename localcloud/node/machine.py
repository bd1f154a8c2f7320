"""What a node sees of the machine: its own /run, /dev/disk, host name and disk, and nobody else's mounts.

Called once by the node's init, in fresh mount, pid, uts, ipc and network namespaces with private propagation.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from localcloud.linux import MountEntry, bind, mount, mount_table, unmount
from perdure.settings import CRIU_PREFIX

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
    foreign = foreign_mounts(mount_table(), stacks, _needed_paths())
    pool = [point for point in foreign if mask_folder.is_relative_to(point)]
    _let_go([point for point in foreign if point not in pool])
    mount("tmpfs", Path("/run"), "tmpfs", options="mode=755")
    for folder in (STATE, DISK_LINKS, OWN / "docker", *LAYERS):
        folder.mkdir(parents=True, exist_ok=True)
    mount("tmpfs", DISK_LINKS, "tmpfs", options="mode=755")
    (DISK_LINKS / "by-id").mkdir()
    bind(state_folder, STATE)
    bind(docker_folder, OWN / "docker")
    bind(mask_folder, LAYERS[0], read_only=True)
    bind(Path("/"), LAYERS[1], read_only=True)
    _let_go(pool)


def _let_go(points: list[Path]) -> None:
    for point in points:
        with contextlib.suppress(OSError):  # went with one above it
            unmount(point, lazily=True)


def foreign_mounts(table: list[MountEntry], stacks: Path, needed: list[Path]) -> list[Path]:
    """Inherited mounts that a node must let go, deepest first: it would pin volumes, layers and namespaces of others.

    Those are everything below the stacks' folders, on loop devices, overlays and namespace files, unless a `needed`
    path lies on it.
    """
    return [
        entry.point
        for entry in reversed(table)
        if (
            entry.point.is_relative_to(stacks)
            or entry.source.startswith("/dev/loop")
            or entry.kind in {"overlay", "nsfs"}
        )
        and not any(path.is_relative_to(entry.point) for path in needed)
    ]


def _needed_paths() -> list[Path]:
    code = Path(__file__).resolve().parents[2]
    system = [Path("/"), Path("/proc"), Path("/sys"), Path("/dev")]
    return [*system, code, Path(sys.prefix).resolve(), CRIU_PREFIX.resolve()]
