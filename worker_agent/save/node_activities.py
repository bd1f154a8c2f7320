"""What the control plane asks of this node, as Temporal activities. Join-or-start: asked twice, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from temporalio import activity

from perdure.contracts.node import (
    CheckpointOutcome,
    CheckpointRequest,
    CheckpointSettings,
    FinalCheckpointRequest,
    LogSettings,
    NodeActivities,
)
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import Fenced, JobEnded, PerdureError
from perdure.domain.nodes import Notice
from perdure.logs import apply_log_settings
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.save.checkpointing import Checkpoints
from worker_agent.save.hand_over import HandOvers

T = TypeVar("T")

_BEAT = 1.0
"""Seconds between heartbeats: a final checkpoint's activity is given up after 5 s without one."""


class AgentActivities(NodeActivities):
    """The agent's side of perdure.contracts.node."""

    def __init__(
        self,
        jobs: ProtectedJobs,
        checkpoints: Checkpoints,
        hand_overs: HandOvers,
        noticed: Callable[[Notice], None],
        *,
        log_level_fixed: bool = False,
    ) -> None:
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._hand_overs = hand_overs
        self._noticed = noticed
        self._log_level_fixed = log_level_fixed
        self._log_settings = 0

    @activity.defn(name="checkpoint")
    async def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        """Idempotent by (job_id, epoch, request_id)."""
        job = self._find(request.job_id, request.epoch)
        if job is None:
            return CheckpointOutcome(failure=f"no container of epoch {request.epoch} is on this node")
        wanted = self._checkpoints.take(job, CheckpointKind.REQUESTED, request.request_id)
        try:
            checkpoint = await _beating(job, wanted)
        except PerdureError as problem:
            return CheckpointOutcome(failure=str(problem), ended=isinstance(problem, JobEnded))
        return CheckpointOutcome(checkpoint=checkpoint)

    @activity.defn(name="apply_checkpoint_settings")
    async def apply_checkpoint_settings(self, settings: CheckpointSettings) -> None:
        """Idempotent by (job_id, epoch, number): an older one changes nothing."""
        job = self._find(settings.job_id, settings.epoch)
        if job is not None:
            job.follow(settings)

    @activity.defn(name="apply_log_settings")
    async def apply_log_settings(self, settings: LogSettings) -> None:
        """Idempotent by number: an older one changes nothing."""
        if settings.number >= self._log_settings:
            self._log_settings = settings.number
            # In a thread: old files may be removed.
            await asyncio.to_thread(
                apply_log_settings, settings.section, settings.number, level_fixed=self._log_level_fixed, on_node=True
            )

    @activity.defn(name="hear_notice")
    async def hear_notice(self, notice: Notice) -> None:
        """Idempotent by the announcement, whichever source told it first."""
        self._noticed(notice)

    @activity.defn(name="final_checkpoint")
    async def final_checkpoint(self, request: FinalCheckpointRequest) -> CheckpointOutcome:
        """Idempotent by (job_id, epoch)."""
        job = self._find(request.job_id, request.epoch)
        if job is None:
            return CheckpointOutcome(failure=f"no container of epoch {request.epoch} is on this node")
        return await _beating(job, self._hand_overs.join(job, request.notice, request.hand_over))

    def _find(self, job_id: str, epoch: int) -> ProtectedJob | None:
        newer = [job.epoch for job in self._jobs if job.record.job_id == job_id and job.epoch > epoch]
        if newer:
            raise Fenced(f"epoch {max(newer)} of {job_id} runs here; epoch {epoch} is over")
        return self._jobs.of_epoch(job_id, epoch)


async def _beating(job: ProtectedJob, work: Coroutine[Any, Any, T]) -> T:
    """Await the work with a heartbeat a second, which says what the engine does now. Cancelling ends the waiting only:
    what runs belongs to the agent."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            activity.heartbeat(job.step)
            await asyncio.wait([task], timeout=_BEAT)
        return task.result()
    finally:
        task.cancel()
