"""The disk of a stack: one sparse XFS file with reflink, mounted at <folder>/pool. Everything big lies on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from localcloud.linux import loop_devices_below, mount_table, run, unmount
from localcloud.nodes.inside.bundle import make_mask_layer
from perdure.domain.errors import CommandFailed, StackError

GIB = 1 << 30
LEAST_FREE_BYTES = 6 * GIB
LARGEST_BYTES = 512 * GIB
LEFT_TO_THE_MACHINE_BYTES = 2 * GIB


def make_pool(folder: Path) -> Path:
    """Make, format and mount <folder>/pool with the folders and the mask layer that nodes need; returns it.

    The file takes space only as it fills; its size leaves the machine 2 GiB, so that a full pool shows as a full disk
    and not as I/O errors. Raises StackError.
    """
    image, pool = folder / "pool.img", folder / "pool"
    size = min(shutil.disk_usage(folder).free - LEFT_TO_THE_MACHINE_BYTES, LARGEST_BYTES)
    pool.mkdir(exist_ok=True)
    try:
        with image.open("xb") as file:
            os.truncate(file.fileno(), size // GIB * GIB)
        run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)])
        # -o loop: the loop device frees itself when the last mount of it goes.
        run(["mount", "-o", "loop,noatime", str(image), str(pool)])
    except (CommandFailed, OSError) as problem:
        raise StackError(f"the stack's disk {image} cannot be made: {problem}") from problem
    for name in ("volumes", "snapshots", "nodes", "deleted"):
        (pool / name).mkdir()
    make_mask_layer(pool / "mask", also=(str(folder.parent),))
    return pool


def free_disks(folder: Path, limit_seconds: float = 60.0) -> None:
    """Unmount everything at or below `folder` and free every loop device whose file lies there. Idempotent.

    Raises StackError naming what is still in use after the limit: a dying mount namespace lets go a moment later.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        # Deepest and newest first: a pool under volumes, volumes under what is mounted from them.
        for entry in reversed(mount_table()):
            if entry.point.is_relative_to(folder):
                with contextlib.suppress(OSError):
                    unmount(entry.point)
        for device in loop_devices_below(folder):
            with contextlib.suppress(CommandFailed):
                run(["losetup", "--detach", str(device)])
        mounted = [str(entry.point) for entry in mount_table() if entry.point.is_relative_to(folder)]
        left = mounted + [f"{device} ({backing})" for device, backing in loop_devices_below(folder).items()]
        if not left:
            return
        if time.monotonic() > deadline:
            raise StackError(f"{left[0]} is still in use; end what uses it, then run `perdure local down` again")
        time.sleep(0.05)
