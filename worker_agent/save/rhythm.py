"""What the agent does by itself, whoever is away: checkpoints in rhythm, the reserve, starts that nobody waits for.

Nobody else keeps the rhythm. The plan says the interval, `apply_checkpoint_settings` changes it, and the job's workflow
hears of each checkpoint once it is committed. Time is this machine's monotonic clock; no other clock counts.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog

from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import CommandFailed, JobEnded, JobRootBusy, PerdureError
from worker_agent import engine
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.node.volumes import grow_file_system
from worker_agent.save.checkpointing import Checkpoints
from worker_agent.save.endings import Endings
from worker_agent.save.examinations import Examinations
from worker_agent.save.hand_over import HandOvers
from worker_agent.save.reading_back import ReadingBack
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_TICK = 0.5
_SHORTEST = 0.02
"""Seconds between two looks at the clock, at most and at least."""
_RESERVE_EVERY = 5.0
_ABANDONED = 60.0
"""Seconds without a runtime that waits, after which a container that was never created is given up."""


class Rhythm:
    """One loop over the protected jobs of this node."""

    def __init__(
        self,
        foundation: Foundation,
        checkpoints: Checkpoints,
        endings: Endings,
        hand_overs: HandOvers,
    ) -> None:
        self._node = foundation.node
        self._jobs = foundation.jobs
        self._reporter = foundation.reporter
        self._checkpoints = checkpoints
        self._endings = endings
        self._hand_overs = hand_overs
        self._examinations = Examinations(foundation.reporter)
        self._reading_back = ReadingBack(foundation.reporter)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._room_at = 0.0

    async def keep(self) -> None:
        """For ever."""
        while True:
            room = time.monotonic() - self._room_at > _RESERVE_EVERY
            if room:
                self._room_at = time.monotonic()
                await self._hand_overs.report_again()
                self._keep_page_sinks()
            for job in self._jobs:
                self._reading_back.look(job)
                name = job.record.container_id
                if name in self._busy:
                    continue
                if job.runs and job.final is None and (left_until_due(job) <= 0 or room):
                    self._begin(name, self._look_after(job))
                elif self._hand_overs.overstayed(job):
                    self._begin(name, self._hand_overs.let_run_again(job))
                elif self._abandoned(job):
                    self._begin(name, self._give_up(job))
            await asyncio.sleep(self._until_next_look())

    def hurry(self) -> None:
        """AWS recommends leaving this instance: every running job gets a checkpoint at once."""
        for job in self._jobs:
            job.hurried = job.runs and job.settings.enabled

    def _keep_page_sinks(self) -> None:
        """One for each job, so that no notice waits until a program is loaded; never more than processors, because each
        holds 18 MiB. After a notice they are for the final checkpoints alone, which need the processors."""
        if not self._node.interrupted.is_set():
            jobs = sum(job.runs and job.settings.enabled for job in self._jobs)
            self._node.page_sinks.keep(min(jobs, os.cpu_count() or 1))

    def _until_next_look(self) -> float:
        """Seconds; to the very instant at which a checkpoint is due, so that no interval grows."""
        waiting = [job for job in self._jobs if job.record.container_id not in self._busy and job.runs]
        return max(_SHORTEST, min([_TICK, *(left_until_due(job) for job in waiting)]))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._busy[name] = task
        task.add_done_callback(lambda done: self._end(name, done))

    def _end(self, name: str, done: asyncio.Task[None]) -> None:
        self._busy.pop(name, None)
        if not done.cancelled() and (problem := done.exception()) is not None:
            log.error("the rhythm of a job broke", container=name[:12], exc_info=problem)

    async def _look_after(self, job: ProtectedJob) -> None:
        if left_until_due(job) <= 0:
            try:
                await self._checkpoints.take(job, CheckpointKind.PERIODIC)
            except JobEnded:
                return
            except PerdureError as problem:
                log.warning("a periodic checkpoint failed", job_id=job.record.job_id, reason=str(problem))
            self._keep_page_sinks()  # it took the one that was loaded, and a notice may come at any moment
        await self._grow(job)
        await self._keep_reserve(job)
        await self._examinations.look(job)

    async def _grow(self, job: ProtectedJob) -> None:
        """The control worker may have made the volume larger."""
        if job.record.plan is None or job.record.plan.volume_id is None:
            return
        try:
            if await grow_file_system(job.job_root):
                log.info("the file system of a job volume has grown", job_id=job.record.job_id)
        except (CommandFailed, OSError) as problem:
            log.warning("the file system of a job volume did not grow", job_id=job.record.job_id, problem=str(problem))

    async def _keep_reserve(self, job: ProtectedJob) -> None:
        """The job writes on its own volume: the oldest checkpoints go before its space does."""
        try:
            dropped = await asyncio.to_thread(engine.keep_reserve, job.job_root, job.settings.reserve_mib << 20)
        except (JobRootBusy, OSError):
            return  # a checkpoint is at work or wants to be, and sees to it itself
        if dropped:
            gone = ", ".join(map(str, dropped))
            await self._reporter.remark(job, f"The job volume is nearly full: checkpoints {gone} were dropped.")

    def _abandoned(self, job: ProtectedJob) -> bool:
        if job.record.pid or job.gone.is_set():
            return False
        limit = self._node.settings.container_start_timeout + _ABANDONED if job.handed_out else _ABANDONED
        return time.monotonic() - max(job.heard, job.handed_out) > limit

    async def _give_up(self, job: ProtectedJob) -> None:
        log.warning("a container was never created", container=job.record.container_id[:12])
        await self._endings.undo(job)


def left_until_due(job: ProtectedJob) -> float:
    """Seconds until the next periodic checkpoint is due: at or below 0 it is. Counted from when the last one was begun,
    whatever became of it, or from the start; infinite while there is no rhythm."""
    if job.hurried:
        return 0.0
    if job.interval_seconds <= 0 or job.record.started_at is None:
        return float("inf")
    if job.beat_at is None:
        job.beat_at = _last_beat(job, job.record.started_at)
    return job.beat_at + job.interval_seconds - time.monotonic()


def _last_beat(job: ProtectedJob, started_at: datetime) -> float:
    """When the rhythm began or a predecessor of this agent took the last checkpoint, on our monotonic clock. This
    machine's own wall clock tells how long ago that is; one that was set back must not stop the rhythm."""
    newest = job.record.newest
    since = newest.frozen_at if newest is not None and newest.epoch == job.epoch else started_at
    return time.monotonic() - max(0.0, (datetime.now(UTC) - since).total_seconds())
