"""The job root: its layout, its lock, the lease of one epoch, and the space that checkpoints may take.

    layer/{upper,work}   the container's writable layer, as an overlay wants it
    data                 bind-mounted into the container
    volumes/             the same for each volume and scratch folder of the container
    seen/                where overlays of data and volumes are mounted while the job runs (overlay.py)
    log/                 stdout and stderr as the job wrote them
    checkpoints/<n>/     images/, files/, manifest.json
    lease.json  lock     whose it is; who works on it now

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

from perdure.domain.checkpoints import Manifest, ManifestHead, StdioOffsets
from perdure.domain.errors import Fenced, ImageInvalid, JobRootBusy, JobRootFull
from perdure.image.disk import bound_copy_on_write, fsync_folder
from perdure.image.files import TREES, walk
from perdure.image.mounts import Stop, delete_tree
from perdure.image.rollback import ASIDE
from perdure.image.store import DirectoryStore
from perdure.waiting import until
from worker_agent.engine.threads import urgently

_LAYOUT = {
    "layer": 0o755,
    "layer/upper": 0o755,
    "layer/work": 0o755,
    "data": 0o1777,
    "volumes": 0o711,
    "log": 0o700,
    "checkpoints": 0o700,
}
"""Folders and modes. The mode of `upper` is what the container sees as its `/`; `data` is for any user of it."""
_AHEAD = 32 << 20
"""Bytes asked for before they are read, on a volume that was just made from a snapshot: 64 blocks of EBS. On any other
disk it was no gain: restores took 1.0 to 1.3 times as long (1 GiB, six pairs)."""
_POLL = 0.01
_TIDIED = 10.0
"""Seconds in which who only tidies up stops: at once but for what the disk takes."""
_SETTLE = 2.0
"""Seconds that XFS may take to give deleted space back (it does so in the background)."""


def store(job_root: Path) -> DirectoryStore:
    """The checkpoints on a job root."""
    return DirectoryStore(job_root / "checkpoints")


def ensure_layout(job_root: Path) -> None:
    """Make what is missing. Idempotent; what exists keeps its mode."""
    for name, mode in _LAYOUT.items():
        folder = job_root / name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(mode)
            if name in TREES.values():
                bound_copy_on_write(folder)
    for name in ("stdout", "stderr"):
        (job_root / "log" / name).touch(mode=0o600)


def empty(job_root: Path) -> None:
    """For a clean start: no layer, no data, no output, no checkpoints. The numbers of checkpoints go on, though."""
    checkpoints = store(job_root)
    if checkpoints.root.is_dir():
        for number in [*checkpoints.sweep(), *checkpoints.numbers()]:
            checkpoints.delete(number)
    for name in ("layer", "data", "volumes", "work", "log", ASIDE):
        delete_tree(job_root / name)
    ensure_layout(job_root)


def number_from(job_root: Path, last: int) -> None:
    """The next checkpoint gets a number above `last`, which lies somewhere else."""
    store(job_root).count_from(last)


_giving_way: dict[Path, threading.Event] = {}
"""Job roots on which this agent tidies up, and what tells it that somebody waits for the lock."""


@contextlib.contextmanager
def locked(job_root: Path) -> Iterator[None]:
    """Hold the job root's lock. JobRootBusy at once if another operation holds it; it dies with its holder."""
    descriptor = _lock(job_root)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def held(job_root: Path) -> AsyncIterator[None]:
    """As `locked`, without blocking the event loop. Who only tidies up there (`keep_reserve`) stops for it."""
    taking = asyncio.ensure_future(urgently(_take_over, job_root))
    try:
        descriptor = await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(lambda done: None if done.exception() else os.close(done.result()))
        raise
    try:
        yield
    finally:
        os.close(descriptor)


def _take_over(job_root: Path) -> int:
    end = time.monotonic() + _TIDIED
    while True:
        try:
            return _lock(job_root)
        except JobRootBusy:
            holder = _giving_way.get(job_root)
            if holder is None:
                return _lock(job_root)  # it may have ended between the two looks
            if time.monotonic() > end:
                raise
            holder.set()
        time.sleep(_POLL)


def _lock(job_root: Path) -> int:
    if not job_root.is_dir():
        raise JobRootBusy(f"{job_root} is not there: is the job volume mounted?")
    descriptor = os.open(job_root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JobRootBusy(f"another checkpoint or restore is at work on {job_root}") from error
    return descriptor


def lease_epoch(job_root: Path) -> int:
    """The epoch that may write this job root; 0 if none ever did. ImageInvalid for an unreadable lease."""
    try:
        return int(json.loads((job_root / "lease.json").read_text())["epoch"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise ImageInvalid(f"{job_root / 'lease.json'} is damaged: {error}") from error


def claim_lease(job_root: Path, epoch: int) -> None:
    """Make the job root ours, durably. Fenced if a newer epoch has it. Idempotent."""
    held = lease_epoch(job_root)
    if held > epoch:
        raise Fenced(f"{job_root} belongs to epoch {held}; epoch {epoch} may no longer write it")
    fresh = job_root / "lease.new"
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump({"epoch": epoch}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(job_root / "lease.json")
    fsync_folder(job_root)


def check_lease(job_root: Path, epoch: int) -> None:
    """Fenced unless `epoch` holds the lease."""
    held = lease_epoch(job_root)
    if held != epoch:
        raise Fenced(f"{job_root} belongs to epoch {held}, not to epoch {epoch}")


def committed(job_root: Path) -> list[ManifestHead]:
    """The committed checkpoints with a readable manifest, oldest first."""
    return store(job_root).committed()


def read_checkpoint(job_root: Path, number: int) -> Manifest:
    """The manifest of one committed checkpoint; no other is read. ImageInvalid if there is none or it is damaged."""
    return store(job_root).open(number)


def verify_pages(job_root: Path, number: int, stop: Stop, *, cold: bool = False) -> None:
    """Compare all pages of a checkpoint with its page indexes. ImageInvalid; nothing once `stop` says True. `cold`: the
    volume was just made from a snapshot. Blocks."""
    store(job_root).verify_pages(number, stop, ahead=_AHEAD if cold else 0)


def read_head(job_root: Path, number: int) -> ManifestHead:
    """Like `read_checkpoint`, without the list of files."""
    return store(job_root).head(number)


def offered(job_root: Path, without: Collection[int] = ()) -> list[int]:
    """The numbers of all committed checkpoints, newest first: the rungs of the ladder, damaged ones included, those
    of `without` left out."""
    return [number for number in store(job_root).numbers()[::-1] if number not in without]


def sweep(job_root: Path) -> list[int]:
    """Delete torn checkpoints; their numbers."""
    return store(job_root).sweep()


def cut_logs(job_root: Path, offsets: StdioOffsets) -> None:
    """Cut the job's output back to a checkpoint's offsets, so that each byte is read once.

    ImageInvalid if a log is shorter than that: part of the job's output is lost.
    """
    for name, offset in (("stdout", offsets.stdout), ("stderr", offsets.stderr)):
        path = job_root / "log" / name
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise ImageInvalid(f"{path} has {size} bytes, the checkpoint was taken at {offset}: output is missing")
        path.touch(mode=0o600)
        os.truncate(path, offset)


def used_rootfs_bytes(job_root: Path) -> int:
    """Bytes that the container's writable layer takes on disk."""
    return sum(entry.status.st_blocks * 512 for entry in walk(job_root / TREES["layer"], changing=True))


def free_bytes(job_root: Path) -> int:
    """Bytes still free on the job root."""
    size = os.statvfs(job_root)
    return size.f_bavail * size.f_frsize


def make_room(job_root: Path, needed: int, reserve: int) -> list[int]:
    """Drop the oldest checkpoints, never the newest, until `needed` bytes fit beside the reserve; the numbers dropped.

    JobRootFull if they still do not fit. A checkpoint that filled the volume would kill the job at its next write.
    """
    dropped = _drop_oldest(job_root, needed + reserve)
    free = free_bytes(job_root)
    if free < needed + reserve:
        raise JobRootFull(
            f"a checkpoint may need {needed >> 20} MiB beside a reserve of {reserve >> 20} MiB, but only "
            f"{free >> 20} MiB are free on {job_root}: use a larger job volume"
        )
    return dropped


def keep_reserve(job_root: Path, reserve: int) -> list[int]:
    """Drop the oldest checkpoints, never the newest, while less than `reserve` bytes are free; the numbers dropped.

    Holds the job root's lock (JobRootBusy), and lets go of it at once when a checkpoint is to be taken.
    """
    with locked(job_root):
        wanted = _giving_way[job_root] = threading.Event()
        try:
            return _drop_oldest(job_root, reserve, wanted.is_set)
        finally:
            del _giving_way[job_root]


def _drop_oldest(job_root: Path, wanted: int, stop: Stop | None = None) -> list[int]:
    dropped: list[int] = []
    checkpoints = store(job_root)
    while not _is_free(job_root, wanted, stop) and len(numbers := checkpoints.numbers()) > 1:
        if stop is not None and stop():
            break
        checkpoints.delete(numbers[0], stop)
        dropped.append(numbers[0])
    return dropped


def _is_free(job_root: Path, wanted: int, stop: Stop | None) -> bool:
    """Are so many bytes free, now or as soon as the file system has given deleted space back?"""
    with contextlib.suppress(TimeoutError):
        until(lambda: free_bytes(job_root) >= wanted or (stop is not None and stop()), _SETTLE, _POLL)
    return free_bytes(job_root) >= wanted
