"""The XFS of a job volume as its last instance left it: was it unmounted there, and is it sound?

From an instance that died, or from which the volume was taken by force, it comes with a log that is not clean. The
kernel replays that at the next mount, and nothing that was flushed is lost. AWS asks for a check after a forced detach
all the same (EC2 API reference, DetachVolume, `Force`). `xfs_repair -n` can tell something only after the replay, so
the file system is mounted and unmounted first.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from perdure.domain.errors import CommandFailed, CommandTimeout, VolumeDamaged
from worker_agent.engine.commands import run

_OPTIONS = "nouuid,noatime"
"""`nouuid`: a volume made from a snapshot has the file system's UUID of its original, which may still be mounted on
the same kernel (it refuses a second one)."""
_SHORT = 30.0
_MOUNT = 300.0
"""Seconds; a replay reads the whole log, of up to 2 GiB."""
_CHECK = 20.0
"""Seconds that a job waits for a check: the restore verifies its checkpoint by checksums in any case."""
_CHECK_MIB = 1024
"""Memory for a check. Without a limit xfs_repair takes up to three quarters of the instance's."""
_LARGEST_CHECKED = 1 << 40
"""Bytes. A check reads all inodes and directories: on a larger one it would seldom end in time."""
_DAMAGE = ("Structure needs cleaning", "probably corrupted filesystem", "Bad message")
"""mount(8)'s words for EUCLEAN and EBADMSG. An older kernel says `wrong fs type … bad superblock` of sound ones."""
_LOOKED_THROUGH = "No modify flag set, skipping filesystem flush and exiting"
"""xfs_repair's last words. Without them its status 1 says only that it gave up."""
_NO_FINDING = (" ", "\t", "Phase ", "No modify flag")


class Log(StrEnum):
    """How the last instance left the log."""

    CLEAN = "clean"
    DIRTY = "dirty"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Mounting:
    """What a mount has found. `checked`: seconds for looking, the replay and the check; 0.0: nothing was wrong.
    `remark`: a sentence for people; empty where there is nothing to tell."""

    checked: float = 0.0
    remark: str = ""


async def log_state(device: Path) -> Log:
    """Was the XFS on `device` unmounted by whoever had it last? It must not be mounted now. Changes nothing."""
    # Only the beginning is wanted: it lists every change that is to be replayed, gigabytes at worst.
    asked = ["sh", "-c", 'LC_ALL=C xfs_logprint -t "$0" | head -n 12', str(device)]
    try:
        found = re.search(r"state: <(CLEAN|DIRTY)>", await run(asked, limit_seconds=_SHORT))
    except CommandFailed:
        return Log.UNKNOWN
    return Log.UNKNOWN if found is None else Log(found[1].lower())


async def mount_xfs(volume_id: str, device: Path, point: Path, *, forced: bool, cold: bool) -> Mounting:
    """Mount the XFS of the volume at `point`, after a look at how it was left. `forced`: it was taken from its last
    instance by force; `cold`: made from a snapshot a moment ago, so that each first read is slow.

    VolumeDamaged: it is not mounted then. CommandFailed, OSError.
    """
    begun = time.monotonic()
    log = await log_state(device)
    if log is not Log.DIRTY and not forced:
        await _mount(volume_id, device, point)
        return Mounting()
    skipped = await asyncio.to_thread(_not_worth_it, device, forced=forced, cold=cold)
    said = "its log is clean" if log is Log.CLEAN else "how its log was left could not be seen"
    if log is Log.DIRTY:
        since = time.monotonic()
        await _mount(volume_id, device, point)
        said = f"its log was replayed ({_since(since)})"
        skipped = skipped or await _unmount(point)
    since = time.monotonic()
    unchecked = skipped or await _check(volume_id, device)
    verdict = f"it was not checked: {unchecked}" if unchecked else f"xfs_repair found it sound ({_since(since)})"
    if not (log is Log.DIRTY and skipped):
        await _mount(volume_id, device, point)
    left = "was taken from its last instance by force" if forced else "was not unmounted by its last instance"
    return Mounting(time.monotonic() - begun, f"Volume {volume_id} {left}: {said}, and {verdict}.")


def _since(instant: float) -> str:
    return f"{time.monotonic() - instant:.1f} s"


def damaged(volume_id: str, device: Path, found: str) -> VolumeDamaged:
    """With what to do."""
    return VolumeDamaged(
        f"the file system of {volume_id} ({device}) is damaged: {found}. To go on from the checkpoints on it, take a"
        " snapshot of the volume, run `xfs_repair` on it from another instance, and let Batch start the job again"
    )


async def _mount(volume_id: str, device: Path, point: Path) -> None:
    words = {**os.environ, "LC_ALL": "C"}
    try:
        await run(["mount", "-t", "xfs", "-o", _OPTIONS, str(device), str(point)], limit_seconds=_MOUNT, env=words)
    except CommandFailed as problem:
        if any(said in problem.stderr for said in _DAMAGE):
            raise damaged(volume_id, device, problem.stderr.partition("\n")[0].strip()) from problem
        raise


async def _unmount(point: Path) -> str:
    """Why it stays mounted; empty: it is not. The job does without a check rather than without its volume."""
    try:
        await run(["umount", str(point)], limit_seconds=_MOUNT)
    except CommandFailed as problem:
        return problem.stderr.strip()[-200:]
    return ""


def _not_worth_it(device: Path, *, forced: bool, cold: bool) -> str:
    """Why a check would not pay; empty: it does. Blocks."""
    if cold and not forced:
        return "it was just made from a snapshot, so each first read is slow"
    with device.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
    return f"it has {size / (1 << 40):.1f} TiB" if size > _LARGEST_CHECKED else ""


async def _check(volume_id: str, device: Path) -> str:
    """Why nothing can be said of it; empty: it is sound. Changes nothing. VolumeDamaged."""
    if await log_state(device) is not Log.CLEAN:  # somebody else still has it mounted: xfs_repair would see ghosts
        return "its log does not show that it is unmounted"
    asked = ["sh", "-c", f'LC_ALL=C exec xfs_repair -n -m {_CHECK_MIB} "$0" 2>&1', str(device)]
    try:
        await run(asked, limit_seconds=_CHECK)
    except CommandTimeout:
        return f"that took longer than {_CHECK:g} s"
    except CommandFailed as problem:
        lines = [line for line in problem.stderr.splitlines() if line and not line.startswith(_NO_FINDING)]
        found = "; ".join(lines[:3])[:300]
        if problem.status == 1 and _LOOKED_THROUGH in problem.stderr:
            raise damaged(volume_id, device, f"xfs_repair says {found}") from problem
        return f"xfs_repair could not look at it ({found or f'status {problem.status}'})"
    return ""
