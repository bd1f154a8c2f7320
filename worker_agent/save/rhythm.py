"""What the agent does by itself, whoever is away: overdue checkpoints, the reserve, starts that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from perdure.contracts import names
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import JobRootBusy, PerdureError
from perdure.domain.jobs import Job
from worker_agent import engine
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.save.checkpointing import Checkpoints
from worker_agent.save.endings import Endings
from worker_agent.save.examinations import Examinations
from worker_agent.save.hand_over import HandOvers
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_TICK = 0.5
_RESERVE_EVERY = 5.0
_LONGEST_GRACE = 60.0
_QUESTION = 3.0
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
        client: Client,
    ) -> None:
        self._node = foundation.node
        self._jobs = foundation.jobs
        self._reporter = foundation.reporter
        self._spool = foundation.spool
        self._checkpoints = checkpoints
        self._endings = endings
        self._hand_overs = hand_overs
        self._client = client
        self._examinations = Examinations(foundation.reporter)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._room_at = 0.0

    async def keep(self) -> None:
        """For ever."""
        while True:
            room = time.monotonic() - self._room_at > _RESERVE_EVERY
            if room:
                self._room_at = time.monotonic()
            for job in self._jobs:
                name = job.record.container_id
                if name in self._busy:
                    continue
                if job.runs and job.final is None and (_overdue(job) or room):
                    self._begin(name, self._look_after(job))
                elif self._hand_overs.overstayed(job):
                    self._begin(name, self._hand_overs.let_run_again(job))
                elif self._abandoned(job):
                    self._begin(name, self._give_up(job))
            await asyncio.sleep(_TICK)

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._busy[name] = task
        task.add_done_callback(lambda done: self._end(name, done))

    def _end(self, name: str, done: asyncio.Task[None]) -> None:
        self._busy.pop(name, None)
        if not done.cancelled() and (problem := done.exception()) is not None:
            log.error("the rhythm of a job broke", container=name[:12], exc_info=problem)

    async def _look_after(self, job: ProtectedJob) -> None:
        await self._keep_reserve(job)
        await self._examinations.look(job)
        if not _overdue(job) or await self._workflow_leads(job) or not _overdue(job):
            return
        log.warning("a checkpoint is overdue and nobody asks for it", job_id=job.record.job_id)
        try:
            await self._checkpoints.take(job, CheckpointKind.PERIODIC)
        except PerdureError as problem:
            log.warning("the overdue checkpoint failed", job_id=job.record.job_id, reason=str(problem))

    async def _keep_reserve(self, job: ProtectedJob) -> None:
        """The job writes on its own volume: the oldest checkpoints go before its space does."""
        try:
            dropped = await asyncio.to_thread(engine.keep_reserve, job.job_root, job.settings.reserve_mib << 20)
        except (JobRootBusy, OSError):
            return  # a checkpoint is at work or wants to be, and sees to it itself
        if dropped:
            gone = ", ".join(map(str, dropped))
            await self._reporter.remark(job, f"The job volume is nearly full: checkpoints {gone} were dropped.")

    async def _workflow_leads(self, job: ProtectedJob) -> bool:
        """Whether the job's workflow answers: then the rhythm is its business, and its interval is the valid one."""
        if self._spool.pending() and not self._spool.in_reach:
            return False  # the server does not even take our reports
        handle = self._client.get_workflow_handle(names.job_workflow_id(job.record.job_id))
        try:
            async with asyncio.timeout(_QUESTION):
                known = await handle.query("job", result_type=Job)
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError, TimeoutError, RuntimeError):
            return False
        if known.interval_seconds is not None and known.interval_seconds != job.record.interval_seconds:
            job.note(interval_seconds=known.interval_seconds)
        # It leads, and may still be late: it is asked again after another grace.
        job.tried_at = datetime.now(UTC)
        return True

    def _abandoned(self, job: ProtectedJob) -> bool:
        if job.record.pid or job.gone.is_set():
            return False
        limit = self._node.settings.container_start_timeout + _ABANDONED if job.handed_out else _ABANDONED
        return time.monotonic() - max(job.heard, job.handed_out) > limit

    async def _give_up(self, job: ProtectedJob) -> None:
        log.warning("a container was never created", container=job.record.container_id[:12])
        await self._endings.undo(job)


def _overdue(job: ProtectedJob) -> bool:
    """Is the next periodic checkpoint late by more than the grace: half the interval, at least 1 s, at most 60 s?"""
    interval = job.interval_seconds
    if interval <= 0 or job.record.started_at is None:
        return False
    newest = job.record.newest
    since = max(
        job.record.started_at,
        newest.frozen_at if newest is not None and newest.epoch == job.epoch else job.record.started_at,
        job.tried_at or job.record.started_at,
    )
    grace = min(max(1.0, interval / 2), _LONGEST_GRACE)
    return datetime.now(UTC) - since > timedelta(seconds=interval + grace)
