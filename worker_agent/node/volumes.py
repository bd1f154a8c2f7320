"""Job volumes on this instance: wait for the device, put a file system on a blank one, mount it, unmount it.

Attaching and detaching are the control worker's: the agent has no rights on EC2 (docs/security.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import CommandFailed, VolumeDamaged, VolumeFailed
from perdure.domain.zone_snapshots import VolumeUse
from perdure.image.disk import syncfs
from perdure.image.mounts import Mount, mounts_below, read_mounts
from perdure.waiting import until_async
from worker_agent.engine.commands import run
from worker_agent.node.file_systems import Mounting, mount_xfs

DEVICES = Path("/dev/disk/by-id")
_POLL = 0.05
_SHORT = 30.0
_MKFS = 300.0
_DEVICE_PATIENCE = 60.0
"""Seconds for udev to show a volume that EC2 calls attached."""
_LEAST_LEFT = 512 << 20
_BUSY_PATIENCE = 10.0
"""Seconds in which the last user of a volume lets go of it (a keeper, a dying process)."""


@dataclass(frozen=True)
class MountedVolume:
    """Seconds by step: until it was there, for a look at how its last instance left it (0.0: unmounted), and for the
    mount. `remark`: what that look found, a sentence for people; empty: nothing to tell."""

    attached: float
    checked: float = 0.0
    mounted: float = 0.0
    remark: str = ""


def device_link(volume_id: str) -> Path:
    """Where udev shows an attached EBS volume. Source: EBS user guide, "Amazon EBS and NVMe"; rule of AL2023."""
    if not re.fullmatch(r"vol-[0-9a-f]{1,64}", volume_id):
        raise VolumeFailed(f"{volume_id[:80]!r} is not the id of an EBS volume")
    return DEVICES / f"nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"


async def mount_volume(
    volume_id: str, point: Path, *, may_format: bool, forced: bool = False, cold: bool = False
) -> MountedVolume:
    """Mount the attached volume at `point`. Idempotent. With `may_format` a device without a sound file system gets
    one: only for a clean start, for on what cannot be read there may be checkpoints. `forced`, `cold`: see mount_xfs.

    VolumeDamaged. VolumeFailed: no such device in time, no file system on it, another mount in its place, or a program
    said no.
    """
    begun = time.monotonic()
    device = await _device(volume_id)
    seen = time.monotonic()
    there, source = await asyncio.to_thread(_mounted_at, point)
    if there is not None and source == device:
        return MountedVolume(attached=seen - begun)
    if there is not None:
        raise VolumeFailed(f"{there.source} is mounted at {point}, where {volume_id} ({device}) belongs")
    try:
        point.mkdir(parents=True, exist_ok=True)
        found = await _mount(volume_id, device, point, may_format=may_format, forced=forced, cold=cold)
    except (CommandFailed, OSError) as problem:
        raise VolumeFailed(f"{volume_id} was not mounted at {point}: {problem}") from problem
    mounted = time.monotonic() - seen - found.checked
    return MountedVolume(seen - begun, found.checked, mounted, found.remark)


async def _mount(volume_id: str, device: Path, point: Path, *, may_format: bool, forced: bool, cold: bool) -> Mounting:
    if await _file_system(device):
        try:
            return await mount_xfs(volume_id, device, point, forced=forced, cold=cold)
        except VolumeDamaged as problem:
            if not may_format:
                raise
            await _format(device, "-f")
            await mount_xfs(volume_id, device, point, forced=False, cold=False)
            return Mounting(remark=f"The job starts clean, so its volume got a new file system: {problem}.")
    if not may_format:
        said = f"{volume_id} ({device}) shows no file system, and a checkpoint is to be restored from it"
        raise VolumeFailed(f"{said}: it is left as it is")
    await _format(device)
    return await mount_xfs(volume_id, device, point, forced=False, cold=False)


async def _format(device: Path, *options: str) -> None:
    await run(["mkfs.xfs", "-q", *options, "-m", "reflink=1", str(device)], limit_seconds=_MKFS)


def _mounted_at(point: Path) -> tuple[Mount | None, Path | None]:
    """What is mounted there, and of which device. Blocks."""
    mounted = next((mount for mount in read_mounts()[::-1] if mount.point == str(point)), None)
    return mounted, Path(mounted.source).resolve() if mounted else None


async def _device(volume_id: str) -> Path:
    link = device_link(volume_id)
    try:
        await until_async(link.exists, _DEVICE_PATIENCE, _POLL)
    except TimeoutError as late:
        raise VolumeFailed(f"{volume_id} did not appear as {link} within {_DEVICE_PATIENCE:g} s") from late
    return link.resolve()


async def _file_system(device: Path) -> str:
    """Its type; "" only for a device that holds nothing known at all (blkid's status 2)."""
    try:
        return (await run(["blkid", "-p", "-o", "value", "-s", "TYPE", str(device)], limit_seconds=_SHORT)).strip()
    except CommandFailed as problem:
        if problem.status == 2:
            return ""
        raise


def volume_use(point: Path) -> VolumeUse | None:
    """How the volume mounted there is used; None where that is no block device. Blocks."""
    size = os.statvfs(point)
    number = os.stat(point).st_dev
    try:
        # Field 7: sectors of 512 bytes that were written (the kernel's Documentation/block/stat.rst).
        fields = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    except FileNotFoundError:
        return None
    used = (size.f_blocks - size.f_bfree) * size.f_frsize
    return VolumeUse(used_bytes=used, written_bytes=int(fields[6]) * 512)


async def grow_file_system(point: Path) -> bool:
    """Give the file system the rest of its device, where the volume was made larger. Whether it was. CommandFailed;
    OSError where nothing is mounted any more. Idempotent; the file system stays in use meanwhile."""
    if not await asyncio.to_thread(_left_of_device, point):
        return False
    await run(["xfs_growfs", str(point)], limit_seconds=_SHORT)
    return True


def _left_of_device(point: Path) -> bool:
    """Is the device much larger than its file system? A log and headers are less than a twentieth of it. Blocks."""
    number = os.stat(point).st_dev
    try:
        sectors = int(Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size").read_text())
    except FileNotFoundError:
        return False
    device, size = sectors * 512, os.statvfs(point)
    return device - size.f_blocks * size.f_frsize > max(_LEAST_LEFT, device // 20)


async def unmount_volume(point: Path) -> None:
    """Flush and unmount the volume at `point`, and remove the empty mount point. Idempotent.

    VolumeFailed if something is mounted below it, or still uses it after some seconds.
    """
    below = [mount for mount in await asyncio.to_thread(mounts_below, point) if mount.point != str(point)]
    if below:
        raise VolumeFailed(f"{point} was not unmounted: {below[0].point} is mounted on it")
    end = time.monotonic() + _BUSY_PATIENCE
    while (await asyncio.to_thread(_mounted_at, point))[0] is not None:
        try:
            await asyncio.to_thread(syncfs, point)
            await run(["umount", str(point)], limit_seconds=_MKFS)
        except (CommandFailed, OSError) as problem:
            if time.monotonic() > end:
                raise VolumeFailed(f"{point} was not unmounted: {problem}") from problem
            await asyncio.sleep(_POLL * 4)
    with contextlib.suppress(OSError):  # not empty or not there: nothing of ours
        point.rmdir()
