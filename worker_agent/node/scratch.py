"""Job roots on the instance's own disk, for jobs whose checkpoints are in a store: an XFS in a file, one for each job.

A file system of its own, and not a folder: it clones files at once whatever the instance's disk is formatted with, a
job that fills it fills nothing else, and the engine finds what it finds on a job volume.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from perdure.domain.errors import CommandFailed, VolumeFailed
from perdure.image.mounts import Mount, mounts_below, read_mounts
from worker_agent.engine.commands import run

SMALLEST = 512 << 20
"""Bytes; mkfs.xfs makes none below 300 MiB."""
_OF_FREE = 0.9
"""Part of the disk's free space that one job root may take: the instance needs some for itself."""
_LIMIT = 120.0
_SUFFIX = ".xfs"
_OPTIONS = "loop,nouuid,noatime,discard"
"""`discard`: what the job deletes is free on the instance's disk again."""


async def mount_scratch(image: Path, point: Path, *, most_bytes: int) -> dict[str, float]:
    """Mount a new, empty file system of at most `most_bytes` at `point`, unless the job's own is mounted there: what an
    ended container left in `image` is nobody's. Idempotent. Returns seconds by step. VolumeFailed: too little space,
    another mount in its place, or a program said no."""
    begun = time.monotonic()
    if await asyncio.to_thread(_is_mounted, image, point):
        return {"mounted": 0.0}
    try:
        await asyncio.to_thread(_make_image, image, most_bytes)
        await run(["mkfs.xfs", "-q", "-f", "-m", "reflink=1", str(image)], limit_seconds=_LIMIT)
        point.mkdir(parents=True, exist_ok=True)
        await run(["mount", "-t", "xfs", "-o", _OPTIONS, str(image), str(point)], limit_seconds=_LIMIT)
    except (CommandFailed, OSError) as problem:
        raise VolumeFailed(f"no job root on this instance's disk at {point}: {problem}") from problem
    return {"mounted": time.monotonic() - begun}


def drop_scratch(image: Path) -> None:
    """Give the space back. Nothing may be mounted from it any more. Idempotent. Blocks."""
    image.unlink(missing_ok=True)


def sweep_scratch(folder: Path, keep: Collection[Path] = ()) -> list[str]:
    """Drop what jobs left that have ended, but for `keep` and what is mounted; the names. Blocks."""
    if not folder.is_dir():
        return []
    in_use = {*map(str, keep), *(_backing(mount) for mount in read_mounts())}
    gone = [path for path in sorted(folder.glob(f"*{_SUFFIX}")) if str(path) not in in_use]
    for path in gone:
        path.unlink(missing_ok=True)
    return [path.name for path in gone]


def _is_mounted(image: Path, point: Path) -> bool:
    found = [mount for mount in mounts_below(point, itself=True) if mount.point == os.path.realpath(point)]
    if not found:
        return False
    if _backing(found[0]) != os.path.realpath(image):
        raise VolumeFailed(f"{found[0].source} is mounted at {point}, where {image} belongs")
    return True


def _make_image(image: Path, most_bytes: int) -> None:
    """Make the sparse file."""
    image.unlink(missing_ok=True)
    image.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = _unpromised(image.parent)
    if free * _OF_FREE < min(most_bytes, SMALLEST):
        sweep_scratch(image.parent)
        free = _unpromised(image.parent)
    size = min(most_bytes, int(free * _OF_FREE)) & ~((1 << 20) - 1)
    if size < SMALLEST:
        raise VolumeFailed(f"{image.parent} has {max(free, 0) >> 20} MiB free, too little for a job root")
    with image.open("wb") as file:
        file.truncate(size)


def _unpromised(folder: Path) -> int:
    """Bytes free on the disk, without what other jobs' roots may still come to take."""
    promised = 0
    for path in folder.glob(f"*{_SUFFIX}"):
        status = path.stat()
        promised += max(0, status.st_size - status.st_blocks * 512)
    return shutil.disk_usage(folder).free - promised


def _backing(mount: Mount) -> str:
    """The file behind a loop device; empty for any other mount."""
    if not mount.source.startswith("/dev/loop"):
        return ""
    try:
        return Path(f"/sys/block/{Path(mount.source).name}/loop/backing_file").read_text().strip()
    except OSError:
        return ""
