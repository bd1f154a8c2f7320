"""Ends that Batch must not hear of: when the ECS agent may be stopped, and when it goes on.

A job whose retry rules only know `Host EC2*` is lost by its container's exit code, whatever we end it with. So nobody
tells: the ECS agent is stopped first. That silences the whole node. So it is done only once no other end on this node
needs to be told: each job is safe, or stands frozen, and no unprotected job runs beside them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from perdure.domain.errors import EcsAgentRuns
from perdure.domain.retries import HandOver
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.node.ecs_agent import EcsAgent
from worker_agent.tell.foundation import Foundation

_ALL_SAFE_BY = 20.0
"""Seconds before the deadline by which all jobs must be safe: unmounting and detaching need the rest."""
_REPORTED = 3.0
"""Seconds after the end of a container in which the ECS agent surely has reported it."""
_LOOK = 0.1


class UnseenEnds:
    """Of one node. `left` tells the seconds until the notice's deadline."""

    def __init__(self, foundation: Foundation, left: Callable[[], float]) -> None:
        self._jobs, self._left = foundation.jobs, left
        self._ecs = EcsAgent(foundation.node.settings)
        self._waiting: set[str] = set()
        """Containers that are safe, and wait for the ECS agent's stop."""
        self._told_at = float("-inf")
        """When a container was last ended for Batch to see (monotonic seconds)."""

    async def prepare(self, job: ProtectedJob) -> None:
        """Afterwards this job's container can be ended unseen. EcsAgentRuns says who still needs to be seen."""
        self._waiting.add(job.record.container_id)
        ours = {one.record.container_id for one in self._jobs}
        others = await self._ecs.other_jobs((one.record.runc_root for one in self._jobs), ours)
        if others:
            raise EcsAgentRuns(f"{len(others)} jobs without protection run on this instance, and may end by themselves")
        while waits_for := self._not_safe():
            if self._left() < _ALL_SAFE_BY:
                raise EcsAgentRuns(f"job {waits_for} on this instance was not safe in time")
            await asyncio.sleep(_LOOK)
        await asyncio.sleep(max(0.0, self._told_at + _REPORTED - time.monotonic()))
        await self._ecs.stop()

    def ended(self, at: float) -> None:
        """A container was ended by us, at that time (monotonic seconds)."""
        if self._ecs.stopped_seconds is None:
            self._told_at = at

    async def report_again(self, after_seconds: float) -> None:
        """The instance was to go and did not: its ECS agent goes on, and reports what ended meanwhile."""
        stopped = self._ecs.stopped_seconds
        if stopped is not None and stopped > after_seconds:
            await self._ecs.start_again()

    def _not_safe(self) -> str:
        """A job on this node whose end Batch may yet have to hear of; empty: there is none. EcsAgentRuns: one that runs
        on to its own end."""
        for job in self._jobs:
            record = job.record
            if job.gone.is_set() or record.container_id in self._waiting:
                continue
            if record.handed_over is HandOver.STAY_FROZEN:
                continue
            runs_on = job.final is not None and job.final.done() and not record.ending
            if record.handed_over is HandOver.KEEP_ONLY or runs_on:
                raise EcsAgentRuns(f"job {record.job_id} on this instance runs on, and may end by itself")
            return record.job_id
        return ""
