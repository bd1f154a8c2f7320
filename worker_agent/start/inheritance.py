"""The containers that an earlier agent of this node had under protection: thawed, watched, and their story continued.

The agent may end at any moment (an upgrade, a crash) and its containers run on. What it knew of them lies on disk.
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from perdure.domain.errors import FreezerFailed, PerdureError
from worker_agent import engine
from worker_agent.container.network import sweep_networks
from worker_agent.container.protected_jobs import ProtectedJob, start_ticks
from worker_agent.rehearse.rehearsals import Rehearsals
from worker_agent.save.endings import Endings
from worker_agent.save.hand_over import HandOvers
from worker_agent.start.starting import Starter
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()


class Inheritance:
    """What the agent's predecessor left. Called once for each container, beside everything else."""

    def __init__(
        self,
        foundation: Foundation,
        starter: Starter,
        endings: Endings,
        hand_overs: HandOvers,
        rehearsals: Rehearsals,
    ) -> None:
        self._node = foundation.node
        self._reporter = foundation.reporter
        self._starter = starter
        self._endings = endings
        self._hand_overs = hand_overs
        self._rehearsals = rehearsals

    async def sweep_networks(self, known: set[str]) -> None:
        """Remove the network namespaces of containers that ended while no agent looked: of all that are not `known`."""
        try:
            await sweep_networks(self._node.settings.run_dir / "networks", known)
        except (PerdureError, OSError) as problem:
            log.error("what is left of a job's network was not removed", reason=str(problem))

    async def take_over(self, job: ProtectedJob) -> None:
        """Go on with one container. Never raises: one container's fault must not keep the agent from serving others."""
        try:
            await self._rehearsals.inherit(job)
            await self._go_on_with(job)
        except Exception:
            log.exception("a container was not taken over", container=job.record.container_id[:12])

    async def _go_on_with(self, job: ProtectedJob) -> None:
        record = job.record
        started, stands = job.mark("started"), job.mark("restored") or job.mark("created")
        log.info("taken over", job_id=record.job_id, container=record.container_id[:12], started=started is not None)
        pid = int((stands or {}).get("pid") or record.pid)
        if not pid:
            return  # never created: the runtime asks again, or nobody does and it is given up
        known = record.pid_started
        if not _is_alive(pid, known) or not job.has_init(pid):
            job.note(pid=pid)
            if started is not None:
                await self._note_start(job)
            job.started.set()
            job.start_told.set()
            self._endings.ended(job)
            return
        self._endings.watch(job)
        if record.final is not None:
            # Saved, and the predecessor ended before the hand-over was over: the job must not run on past it.
            job.started.set()
            job.start_told.set()
            if record.handed_over is None:
                self._hand_overs.start(job)
            return
        await self._thaw(job)
        if started is None:
            return
        await self._note_start(job)
        job.started.set()
        job.start_told.set()
        self._hand_overs.started(job)

    async def _note_start(self, job: ProtectedJob) -> None:
        if job.record.started_at is None:
            await self._starter.note_start(job, datetime.now(UTC))

    async def _thaw(self, job: ProtectedJob) -> None:
        try:
            remarks = await engine.thaw_and_clean(job.container)
        except (PerdureError, OSError) as problem:
            remarks = [f"what the agent's predecessor left was not all cleaned: {problem}"]
            log.error("not cleaned", job_id=job.record.job_id, reason=str(problem))
        for remark in remarks:
            await self._reporter.remark(job, remark)


def _is_alive(pid: int, ticks: int) -> bool:
    """The process exists, and is the one that started then (0: not known)."""
    try:
        return start_ticks(pid) == ticks or ticks == 0
    except (OSError, FreezerFailed):
        return False
