"""A job whose checkpoints are in a store: its job root on this instance's disk, and the way there and back.

A job with a volume needs none of this: `job.store` is None then.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime

import structlog

from perdure.domain.checkpoints import Checkpoint, Manifest
from perdure.domain.errors import (
    CheckpointFailed,
    Fenced,
    ImageInvalid,
    JobRootFull,
    PerdureError,
    RestoreFailed,
    StoreFailed,
    StoreUnavailable,
    TooLate,
)
from perdure.image.mounts import delete_tree
from perdure.stores.bandwidth import NO_DEADLINE
from perdure.stores.stored_manifest import StoredManifest
from worker_agent import engine
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.node.scratch import drop_scratch, mount_scratch

log = structlog.get_logger()

_AT_START = 20.0
"""Seconds in which a store must have answered before a clean start: else the job runs without protection."""
_CALL_AT_START = 8.0
"""The same for one call."""


async def mount_root(job: ProtectedJob) -> dict[str, float]:
    """The job root on this instance's disk; seconds by step. VolumeFailed."""
    assert job.store is not None
    return await mount_scratch(job.scratch, job.job_root, most_bytes=job.store.scratch_gib << 30)


async def drop_root(job: ProtectedJob) -> None:
    """Nothing of the job is mounted here any more: give the space back, unless somebody wants to look at it."""
    if job.store is not None:
        if not job.settings.diagnosis:
            await asyncio.to_thread(drop_scratch, job.scratch)
        job.forget_store()


async def claim(job: ProtectedJob, *, fresh: bool) -> None:
    """The store is this container's: older ones commit nothing there any more. With `fresh`, no checkpoint of before is
    ever offered again. Fenced, the store's errors: a store that cannot be written is found out before the start."""

    def work() -> None:
        stored = job.stored.within(_CALL_AT_START) if fresh else job.stored
        stored.claim(job.epoch)
        numbers = stored.numbers()
        if fresh:
            stored.empty()
        engine.number_from(job.job_root, max(numbers, default=0))

    if not fresh:
        return await job.in_store(work)
    try:
        async with asyncio.timeout(_AT_START):
            await job.in_store(work)
    except TimeoutError as error:
        said = f"the store did not answer within {_AT_START:g} s, and the job is not kept waiting"
        raise StoreUnavailable(said) from error


async def offered(job: ProtectedJob, without: list[int]) -> list[int]:
    """The numbers of all checkpoints that can be tried, newest first. RestoreFailed, the node's fault, if the store
    does not say: nobody knows then that there are none."""
    if job.store is None:
        return await asyncio.to_thread(engine.offered, job.job_root, without)
    try:
        numbers = await job.in_store(lambda: job.stored.numbers())
    except StoreFailed as problem:
        raise RestoreFailed(str(problem), "fetch", node_fault=True) from problem
    return [number for number in numbers[::-1] if number not in without]


async def bring(job: ProtectedJob, number: int) -> None:
    """Have the checkpoint on the job root. Nothing happens if it is there. ImageInvalid: it is damaged in the store.
    RestoreFailed, the node's fault: the store is out of reach, or the disk is too small."""
    if job.store is None:
        return

    def work() -> None:
        root = job.job_root
        folder = root / "checkpoints" / str(number)
        with contextlib.suppress(ImageInvalid):
            engine.read_head(root, number)
            return
        delete_tree(folder)  # torn: an earlier try was cut short
        room = engine.free_bytes(root) - (job.settings.reserve_mib << 20)
        job.stored.fetch(number, root, folder, limit_bytes=room)

    begun = time.monotonic()
    try:
        await job.in_store(work)
    except ImageInvalid:
        raise
    except (StoreFailed, JobRootFull) as problem:
        raise RestoreFailed(f"it was not fetched: {problem}", "fetch", node_fault=True) from problem
    job.note(phases={**job.record.phases, "fetched": time.monotonic() - begun})


async def put(job: ProtectedJob, manifest: Manifest, commit_by: float | None) -> Checkpoint:
    """Bring a checkpoint that is committed on the job root into the store, by `commit_by` (monotonic seconds) if that
    is given; its summary. Then it exists. CheckpointFailed (TooLate, if the time was over), Fenced: it does not."""
    stop = threading.Event()
    folder = job.job_root / "checkpoints" / str(manifest.number)
    begun = time.monotonic()

    def work() -> Checkpoint:
        deadline = NO_DEADLINE if commit_by is None else commit_by
        stored = job.stored.put(job.job_root, folder, manifest, deadline=deadline, stop=stop)
        phases = {**manifest.phases, "upload": time.monotonic() - begun}
        sizes = stored.sizes
        log.info("stored", job_id=manifest.job_id, checkpoint=manifest.number, wrote=sizes.wrote, shares=sizes.shares)
        return _summary(stored).model_copy(update={"phases": phases, "committed_at": datetime.now(UTC)})

    job.uploading = asyncio.ensure_future(job.in_store(work))
    try:
        limit = None if commit_by is None else max(0.0, commit_by - time.monotonic())
        done, _ = await asyncio.wait([job.uploading], timeout=limit)
        if not done:
            stop.set()
            await asyncio.wait([job.uploading])
        return job.uploading.result()
    except asyncio.CancelledError:
        # What was sent is found again by the next one.
        stop.set()
        await asyncio.wait([job.uploading])
        raise
    except (Fenced, CheckpointFailed):
        raise
    except (PerdureError, OSError) as problem:
        kind = TooLate if stop.is_set() else CheckpointFailed
        raise kind(f"the checkpoint did not reach the store: {problem}", "upload") from problem
    finally:
        job.uploading = None


def _summary(stored: StoredManifest) -> Checkpoint:
    """In the store it is complete, whatever it shared on the job root, and it wrote what the store grew by."""
    sizes = {
        "holds_bytes": stored.sizes.holds,
        "written_bytes": stored.sizes.wrote,
        "shares_bytes": stored.sizes.shares,
    }
    return stored.checkpoint.summary().model_copy(update={**sizes, "full": 0})


async def prune(job: ProtectedJob) -> None:
    """Keep the newest ones, as configured. What fails is tried again by the next checkpoint."""
    try:
        await job.in_store(lambda: job.stored.prune(job.settings.keep))
    except (PerdureError, OSError) as problem:
        log.warning("old checkpoints were not deleted", job_id=job.record.job_id, reason=str(problem))


async def found(job: ProtectedJob) -> list[Checkpoint]:
    """The checkpoints that a later attempt could be restored from, oldest first, as far as they can be read now."""
    if job.store is None:
        return [head.summary() for head in await asyncio.to_thread(engine.committed, job.job_root)]

    def work() -> list[Checkpoint]:
        known = []
        for number in job.stored.numbers():
            with contextlib.suppress(ImageInvalid):
                known.append(_summary(job.stored.open(number)))
        return known

    try:
        return await job.in_store(work)
    except StoreFailed as problem:
        log.warning("the store was not looked at", job_id=job.record.job_id, reason=str(problem))
        return []
