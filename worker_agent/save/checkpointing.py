"""One checkpoint at a time per job: whoever asks gets the one that runs, or starts it.

The dump belongs to the agent and not to who asked: an activity that is cancelled or loses its server leaves it running.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable

import structlog

from perdure.contracts.protection import ReportKind
from perdure.domain.budget import NEIGHBOURS
from perdure.domain.checkpoints import Checkpoint, CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, JobEnded, NotCheckpointable, PerdureError
from perdure.domain.values import format_duration
from worker_agent.container import stored_job
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.engine import Taking, keep_log, thaw, used_rootfs_bytes
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.node.volumes import volume_use
from worker_agent.tell.reporting import Reporter

log = structlog.get_logger()

MEMORY = "memory"
"""The step in which a checkpoint waits for the memory of a lazily restored job."""
_TAKE_OVER = 10.0
"""Seconds that a wish waits for an agent that has just started to take a job over from its predecessor."""
_WORTH_TELLING = 0.2
"""Part of the interval by which it must change for people to be told."""


class Checkpoints:
    """Takes checkpoints and reports every one of them, and every failure, exactly once."""

    def __init__(
        self, jobs: ProtectedJobs, reporter: Reporter, committed: Callable[[ProtectedJob, Checkpoint], None]
    ) -> None:
        """`committed` hears of each that is not the final one; it returns at once."""
        self._jobs = jobs
        self._reporter = reporter
        self._committed = committed

    async def take(self, job: ProtectedJob, kind: CheckpointKind, request_id: str = "") -> Checkpoint:
        """A committed checkpoint of this container, begun now, or the one that runs now. Asked again under the same
        `request_id`, the answer is the same: no clock of another machine is compared with ours.

        CheckpointFailed, or another PerdureError of the engine, when there is none; the job then runs on, but for
        JobEnded, which is no failure.
        """
        newest = job.record.newest
        if newest is not None and request_id and request_id == job.record.answered:
            return newest
        await _taken_over(job)
        if job.dump is None or job.dump.done():
            if job.gone.is_set() and not job.record.ending:
                raise JobEnded
            if not job.runs:
                raise CheckpointFailed("the job does not run on this node now")
            if job.final is not None:
                raise CheckpointFailed("the instance is being taken back: the final checkpoint comes instead")
            job.dump = asyncio.create_task(self._take(job, kind))
            job.dump.add_done_callback(lambda done: done.cancelled() or done.exception())
        checkpoint = await asyncio.shield(job.dump)
        if request_id:
            job.note(answered=request_id)
        return checkpoint

    async def _take(self, job: ProtectedJob, kind: CheckpointKind) -> Checkpoint:
        job.beat_at, job.hurried = time.monotonic(), False
        try:
            checkpoint = await self.commit(job, kind, job.settings.dump_limit_seconds)
            self._committed(job, checkpoint)
            return checkpoint
        except asyncio.CancelledError:
            if job.final is None:
                raise
            raise CheckpointFailed("the instance is being taken back: the final checkpoint comes instead") from None
        except JobEnded as problem:
            log.info("the job ended before it was saved", job_id=job.record.job_id, reason=str(problem.__cause__))
            raise
        except PerdureError as problem:
            if not job.gone.is_set():
                job.refusal = str(problem) if isinstance(problem, NotCheckpointable) else job.refusal
                await self.failed(job, kind, problem)
            raise

    async def failed(self, job: ProtectedJob, kind: CheckpointKind, problem: PerdureError) -> None:
        """Tell that there is no checkpoint, and why."""
        await self._reporter.report(
            job,
            ReportKind.CHECKPOINT_FAILED,
            key=uuid.uuid4().hex[:12],
            reason=str(problem),
            error=type(problem).__name__,
            level="warning",
            checkpoint_kind=kind,
        )

    async def commit(
        self, job: ProtectedJob, kind: CheckpointKind, limit_seconds: float, commit_by: float | None = None
    ) -> Checkpoint:
        """Take one now, committed by `commit_by` (monotonic seconds) if that is given, and report it. Failures are the
        caller's to report."""
        settings = job.settings
        await self._whole(job, limit_seconds, commit_by)

        def at_step(name: str) -> None:
            job.step = name

        taking = job.taking = Taking(limit_seconds, commit_by, at_step)
        in_store = job.store is not None
        try:
            manifest = await taking.take(
                job.container,
                job.identity(),
                kind=kind,
                # Those before it are in the store.
                keep=1 if in_store else settings.keep,
                reserve_bytes=settings.reserve_mib << 20,
                full_every=settings.full_every,
                predump=settings.predump,
            )
        finally:
            job.step = ""
            job.taking = None
        job.refusal = ""
        checkpoint = await self._store(job, manifest, taking.commit_by) if in_store else manifest.summary()
        checkpoint = beside_neighbours(job, self._jobs, checkpoint)
        was = job.interval_seconds
        job.learn(checkpoint)
        job.note(newest=checkpoint, answered="")
        await self._tell_interval(job, was)
        if settings.diagnosis:
            await asyncio.to_thread(keep_log, job.container, "dump", "it went well")
        await measure(job)
        await self._reporter.report(
            job,
            ReportKind.CHECKPOINT,
            key=str(checkpoint.number),
            checkpoint=checkpoint,
            max_rootfs_bytes=job.record.max_rootfs_bytes,
            volume_use=await asyncio.to_thread(volume_use, job.job_root),
        )
        return checkpoint

    @staticmethod
    async def _whole(job: ProtectedJob, limit_seconds: float, commit_by: float | None) -> None:
        """Until all memory of a lazily restored job is there: what is missing would be missing in the checkpoint.
        TooLate, CheckpointFailed."""
        if not job.record.lazily:
            return
        now = asyncio.get_running_loop().time()
        left = limit_seconds if commit_by is None else min(limit_seconds, commit_by - now)
        job.step = MEMORY
        try:
            await lazy.whole(job.container, limit_seconds=left, number=job.record.restoring)
        finally:
            job.step = ""

    async def _tell_interval(self, job: ProtectedJob, was: float) -> None:
        now = job.interval_seconds
        if abs(now - was) > _WORTH_TELLING * was:
            every = format_duration(round(now))
            said = f"Checkpoints are taken every {every} now, so that a final one fits into a notice."
            await self._reporter.remark(job, said, "info")

    async def _store(self, job: ProtectedJob, manifest: Manifest, commit_by: float | None) -> Checkpoint:
        """Only what is in the store is a checkpoint. If it does not get there, the job runs on."""
        job.step = "upload"
        try:
            checkpoint = await stored_job.put(job, manifest, commit_by)
        except BaseException:
            if manifest.kind is CheckpointKind.FINAL and not job.gone.is_set():
                await thaw(job.container)
            raise
        finally:
            job.step = ""
        if manifest.kind is not CheckpointKind.FINAL:
            await stored_job.prune(job)
            job.unread = manifest.number
        return checkpoint


def beside_neighbours(job: ProtectedJob, jobs: Iterable[ProtectedJob], checkpoint: Checkpoint) -> Checkpoint:
    """With the seconds that the instance's other jobs need for their own way to the same store: after a notice all of
    them are on it at once. A job volume is its job's alone."""
    if job.store is None:
        return checkpoint
    others = [one.record.newest for one in jobs if one is not job and one.runs and one.store == job.store]
    seconds = sum(newest.phases.get("upload", 0.0) for newest in others if newest is not None)
    return checkpoint.model_copy(update={"phases": {**checkpoint.phases, NEIGHBOURS: seconds}})


async def _taken_over(job: ProtectedJob) -> None:
    """An agent that has just started knows of its jobs before it has looked at them."""
    if not job.started.is_set() and not job.gone.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.started.wait(), _TAKE_OVER)


async def measure(job: ProtectedJob) -> None:
    """Note how large the container's root layer is, if it is the largest yet."""
    try:
        size = await asyncio.to_thread(used_rootfs_bytes, job.job_root)
    except OSError as problem:
        log.warning("the root layer was not measured", job_id=job.record.job_id, reason=str(problem))
        return
    if size > job.record.max_rootfs_bytes:
        job.note(max_rootfs_bytes=size)
