"""On a notice: every job on the node is frozen and saved at once, then handed over.

Promise 2: nothing remote stands between the notice and the freeze. The dumps of all jobs begin first; that Temporal is
told runs beside them, and what it answers only chooses the way (docs/architecture.md, "The hand-over").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog

from perdure.contracts import names
from perdure.contracts.node import CheckpointOutcome
from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.errors import JobEnded, PerdureError, TooLate
from perdure.domain.nodes import ASSUMED_NOTICE, Notice
from perdure.domain.retries import ENDS, HandOver
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.engine import end_frozen, flush, thaw
from worker_agent.rehearse.rehearsals import Rehearsals
from worker_agent.save.checkpointing import MEMORY, Checkpoints
from worker_agent.save.endings import Endings
from worker_agent.save.unseen_ends import UnseenEnds
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_BEFORE_THE_END = 5.0
"""Seconds before the deadline by which a final checkpoint must be committed."""
_LAST_TRY = 15.0
"""Seconds that must be left for another try after a failed final checkpoint."""
_MOST_TRIES = 5
_BETWEEN_TRIES = 2.0
_OVERSTAYED = 180.0
"""Seconds after the deadline at which an instance that still lives will not go."""
_CONTACT = 3.0
"""Seconds after the commit in which Temporal must have been heard of, else the job stays frozen."""


class HandOvers:
    """Final checkpoints and what follows them, one task per job."""

    def __init__(
        self, foundation: Foundation, checkpoints: Checkpoints, endings: Endings, rehearsals: Rehearsals
    ) -> None:
        self._node = foundation.node
        self._jobs = foundation.jobs
        self._reporter = foundation.reporter
        self._spool = foundation.spool
        self._checkpoints = checkpoints
        self._endings = endings
        self._rehearsals = rehearsals
        self._tasks: set[asyncio.Task[None]] = set()
        self._unseen = UnseenEnds(foundation, self._left)

    def begin(self, notice: Notice) -> None:
        """AWS takes this instance back. Returns at once; the dumps begin in this turn of the event loop."""
        log.warning("interruption notice", deadline=str(notice.deadline))
        self._node.interrupt(notice)
        self._rehearsals.cut()
        for job in self._jobs:
            if job.runs:
                if job.final is not None and job.final.done() and job.record.final is None:
                    job.final = None  # it failed on an earlier notice: this one is a new chance
                self.start(job)
        self.tell(notice)

    def tell(self, notice: Notice) -> None:
        """Let the jobs' workflows and the inventory know, without waiting for them."""
        # The jobs first: they have something to do.
        for work in [*(self._reporter.notice(job, notice) for job in self._jobs), self._reporter.node()]:
            self._beside(work)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def started(self, job: ProtectedJob) -> None:
        """A container runs from now on. On a node that is being taken back it is saved at once."""
        if self._node.interrupted.is_set() and job.runs:
            self.start(job)

    def start(self, job: ProtectedJob) -> None:
        """Save this job and hand it over, unless that is under way. What a predecessor saved is only handed over."""
        if job.final is None:
            job.final = asyncio.create_task(self._save_and_hand_over(job))

    async def join(self, job: ProtectedJob, notice: Notice, wish: HandOver) -> CheckpointOutcome:
        """The outcome for the workflow, which also says how it wants the job handed over. Waits for a container that
        is about to start."""
        if not self._node.interrupted.is_set():
            self._node.interrupt(notice)
        job.wish = wish
        job.wished.set()
        if job.final is None:
            if not job.runs and not job.record.ending:
                waiting = [asyncio.create_task(event.wait()) for event in (job.started, job.gone)]
                _, idle = await asyncio.wait(waiting, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED)
                for task in idle:
                    task.cancel()
            if not job.runs and not job.record.ending:
                said = "the job did not run on this node: there is nothing to save"
                return CheckpointOutcome(failure=said, ended=job.gone.is_set())
            self.start(job)
        assert job.final is not None
        await asyncio.shield(job.final)
        if job.record.handed_over is HandOver.STAY_FROZEN and wish in ENDS and self._left() > 0:
            await self._hand_over(job, wish)
        record = job.record
        return CheckpointOutcome(
            checkpoint=record.final, failure=job.failure, handed_over=record.handed_over, ended=job.nothing_to_save
        )

    async def let_run_again(self, job: ProtectedJob) -> None:
        """The instance was to go and did not: a job that stands frozen for it would never end."""
        async with job.lock:
            if job.record.handed_over is HandOver.STAY_FROZEN and not job.gone.is_set() and not job.record.lapsed:
                await thaw(job.container)
                job.note(lapsed=True)
                reason = "The instance was announced to go, but still lives: the job was thawed and runs on."
                await self._reporter.remark(job, reason, "error")

    async def report_again(self) -> None:
        """The instance was to go and did not: its ECS agent goes on, and reports what ended meanwhile."""
        await self._unseen.report_again(ASSUMED_NOTICE.total_seconds() + _OVERSTAYED)

    def overstayed(self, job: ProtectedJob) -> bool:
        """Does the job stand frozen although its instance should be gone for long?"""
        record = job.record
        frozen = record.handed_over is HandOver.STAY_FROZEN and not record.lapsed and not job.gone.is_set()
        return frozen and self._node.notice is not None and self._left() < -_OVERSTAYED

    def _left(self) -> float:
        notice = self._node.notice
        if notice is None:  # a predecessor saw it; it will be seen again within a second
            return _LAST_TRY
        return (notice.ends_at - datetime.now(UTC)).total_seconds()

    async def _save_and_hand_over(self, job: ProtectedJob) -> None:
        try:
            if job.record.final is None:
                final = await self._save(job)
                if final is None:
                    return
                job.note(final=final)
            way = await self._choose(job)
            await self._hand_over(job, way)
            if way is HandOver.STAY_FROZEN:
                self._beside(self._once_in_contact(job))
        except Exception:
            # The last line: a fault of ours must not end in silence, and the host dies anyway.
            log.exception("the hand-over failed", job_id=job.record.job_id)
            job.failure = job.failure or "the hand-over failed; see the agent's log"

    async def _save(self, job: ProtectedJob) -> Checkpoint | None:
        """The final checkpoint, tried again while there is time. None: the job runs on until its host goes."""
        if not job.settings.enabled:
            job.failure = "checkpoints are off for this job"
            return None
        promoted = await self._overtake(job)
        if promoted is not None:
            return promoted
        for _ in range(_MOST_TRIES):
            limit = job.settings.dump_limit_seconds
            try:
                return await self._checkpoints.commit(job, CheckpointKind.FINAL, limit, self._commit_by())
            except (JobEnded, TooLate) as error:
                problem: PerdureError = error
                break
            except PerdureError as error:
                problem = error
            log.warning("no final checkpoint yet", job_id=job.record.job_id, reason=str(problem))
            if job.gone.is_set() or self._left() < _LAST_TRY:
                break
            await asyncio.sleep(_BETWEEN_TRIES)
        job.nothing_to_save = isinstance(problem, JobEnded) or job.gone.is_set()
        job.failure = str(JobEnded() if job.nothing_to_save else problem)
        if not job.nothing_to_save:
            await self._checkpoints.failed(job, CheckpointKind.FINAL, problem)
        return None

    async def _overtake(self, job: ProtectedJob) -> Checkpoint | None:
        """A checkpoint that is being taken becomes the final one, if the job has not been let go on. None: there is
        none, or none any more, and the final one can be taken."""
        dump, taking = job.dump, job.taking
        if dump is None or dump.done():
            return None
        promoted = taking is not None and taking.promote(self._commit_by())
        for_nothing = taking is not None and not taking.worth_finishing
        if not promoted and (job.uploading is not None or for_nothing or job.step == MEMORY):
            dump.cancel()  # what an upload has sent, the final one need not send again
        await asyncio.wait([dump])
        return dump.result() if promoted and not dump.cancelled() and dump.exception() is None else None

    def _commit_by(self) -> float:
        """When a final checkpoint must be committed (monotonic seconds). What is left after it ends the container and
        frees its volume. An instance may live on for some seconds after its deadline: a try costs nothing."""
        return asyncio.get_running_loop().time() + max(self._left() - _BEFORE_THE_END, _BEFORE_THE_END)

    async def _choose(self, job: ProtectedJob) -> HandOver:
        """The workflow's wish; else what it said at attach, if it has heard of the notice: it must be there to detach
        the volume. Without contact: stay frozen, let the host die."""
        told = asyncio.create_task(self._spool.delivered(names.job_workflow_id(job.record.job_id)))
        wished = asyncio.create_task(job.wished.wait())
        await asyncio.wait([told, wished], timeout=_CONTACT, return_when=asyncio.FIRST_COMPLETED)
        in_contact = told.done() and self._spool.in_reach
        told.cancel()
        wished.cancel()
        planned = _planned(job)
        if job.wish is not None:
            return job.wish
        return planned if in_contact or planned is HandOver.KEEP_ONLY else HandOver.STAY_FROZEN

    async def _once_in_contact(self, job: ProtectedJob) -> None:
        """A job that stays frozen because nobody heard of it is handed over as planned once its workflow has heard, if
        that is inside the notice."""
        if _planned(job) in ENDS and job.wish is None:
            await self._spool.delivered(names.job_workflow_id(job.record.job_id))
            if job.wish is None and self._left() > 0 and not job.gone.is_set() and not job.record.lapsed:
                await self._hand_over(job, _planned(job))

    async def _hand_over(self, job: ProtectedJob, way: HandOver) -> None:
        async with job.lock:
            if job.record.handed_over in (way, *ENDS):
                return
            if job.gone.is_set() and not job.record.ending:
                job.failure = "the container was ended by somebody else after its final checkpoint"
                return
            reason, phases = "", {}
            if way in ENDS:
                try:
                    if way is HandOver.STOP_ECS:
                        await self._unseen.prepare(job)
                    phases = await self._end(job)
                except PerdureError as problem:
                    # The volume is still in use here, so it comes free only with the host's death.
                    way, reason = HandOver.STAY_FROZEN, str(problem)
                    log.error("the job stays frozen", job_id=job.record.job_id, reason=reason)
                    await flush(job.container)
            elif way is HandOver.KEEP_ONLY:
                # No attempt is left, so Batch will not go on from it: let the job use its last seconds, it may finish.
                await thaw(job.container)
            else:
                await flush(job.container)
            job.note(handed_over=way)
            await self._reporter.report(
                job,
                ReportKind.HANDED_OVER,
                key=way.value.replace(" ", "-"),
                reason=reason,
                hand_over=way,
                checkpoint=job.record.final,
                phases=phases,
            )

    async def _end(self, job: ProtectedJob) -> dict[str, float]:
        """End the frozen container and free its volume. Seconds by step."""
        begun = time.monotonic()
        job.note(ending=True)
        await end_frozen(job.container)
        ended = time.monotonic()
        self._unseen.ended(ended)
        await self._endings.release(job)
        return {"ended": ended - begun, "unmounted": time.monotonic() - ended}


def _planned(job: ProtectedJob) -> HandOver:
    """What the workflow said when the container came."""
    return job.record.plan.hand_over if job.record.plan else HandOver.STAY_FROZEN
