"""START HERE. The life of one AWS Batch job under Perdure, from its first container to its last exit code.

A container of the job appears on some instance; its agent asks `attach` and gets a plan: start clean, or go on from a
checkpoint. While the job runs, the agent takes its checkpoints in the plan's rhythm, and this workflow hears of each.
When AWS takes the instance back, the agent freezes the job at once; this workflow joins in, frees the job's volume, and
waits for Batch to start the next container somewhere else. When Batch says that the job is over, the volume goes.

A job that runs well costs no timer and no question: this workflow sleeps until somebody signals. That a silent node is
dead, the reconciler finds (workflows/reconciliation.py).

`run` is the story. Around it: job_state (what is known), job_preparation (a container's plan), job_checkpoints (what is
asked of the node), job_configuration (what the node is told), job_reports and job_rehearsals (what nodes say),
job_endings (what an end means), job_volume (the volume's way to the next node), volume_end (its end), zone_snapshots
(what shortens its way to another zone), job_store (the end of a job that has none), job_records and job_display (what
people see).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.protection import (
        AttachReply,
        AttachRequest,
        CheckpointTaken,
        Doubt,
        NodeReport,
        TakeCheckpoint,
        Verdict,
    )
    from perdure.domain.errors import UnknownJob
    from perdure.domain.jobs import Job
    from perdure.domain.nodes import Notice
    from workflows.instance_leaving import leave_instance
    from workflows.job_checkpoints import final_wanted, grant_wishes, take_final_checkpoint
    from workflows.job_configuration import ConfigurationCourier
    from workflows.job_endings import finish_unknown, hear_batch
    from workflows.job_preparation import prepare_container, refuse_if_ended
    from workflows.job_questions import caused_by, describe_job, in_words
    from workflows.job_records import JobRecorder
    from workflows.job_reports import SELDOM, SOON, hear_doubt, hear_notice, hear_report
    from workflows.job_state import JobProgress, JobStart, Stage
    from workflows.job_store import put_away_store
    from workflows.job_volume import free_volume
    from workflows.options import ATTACH_PATIENCE, RENEW_AFTER, RENEW_STANDING_AFTER
    from workflows.racing import Overtaken, while_wanted
    from workflows.resumption import take_over, wants_to_take_over
    from workflows.volume_end import drop_left_volume, put_away_volume
    from workflows.volume_growth import grow_volume
    from workflows.zone_snapshots import drop_zone_snapshots, take_zone_snapshot

STILL_WANTED = timedelta(seconds=4)
"""Between two looks at Batch while a container waits for its plan. A job that its owner ended waits no longer than this
for its refusal."""


@workflow.defn(name=names.JOB_PROTECTION)
class JobProtection:
    """Workflow `batch-job/<job id>`, started by the first container's `attach`."""

    @workflow.init
    def __init__(self, start: JobStart) -> None:
        self._progress = start.carried or JobProgress(job=Job(job_id=start.job_id, created_at=workflow.now()))
        self._heard = 0
        """Rises with everything heard that may change what to do next."""
        self._asking = 0
        """Containers that wait for an answer to `attach`."""
        self._closing = False

    @workflow.run
    async def run(self, start: JobStart) -> Job:
        """Guard the job until Batch says that it is over."""
        progress, recorder = self._progress, JobRecorder(self._progress)
        background = [
            asyncio.create_task(work)
            for work in (
                recorder.keep_shown(),
                recorder.keep_recorded(),
                recorder.keep_passing(),
                ConfigurationCourier(progress).run(),
                self._watch_waiting_container(),
            )
        ]
        while not progress.finished:
            await self._renew_when_long()
            try:
                match progress.stage:
                    case Stage.PREPARING:
                        await prepare_container(progress)
                        progress.trouble = ""
                    case Stage.STARTING:
                        await self._await_start()
                    case Stage.RUNNING:
                        await self._guard_running_job()
                    case Stage.AWAITING | Stage.EXITED:
                        await self._await_next_container()
            except Overtaken:
                continue
            except (ActivityError, ChildWorkflowError) as problem:
                await self._live_with(problem)
        await (put_away_volume(progress) if progress.store is None else put_away_store(progress))
        while progress.left_volumes:
            await drop_left_volume(progress)
        await drop_zone_snapshots(progress)
        self._closing = True
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() and recorder.up_to_date)
        for task in background:
            task.cancel()
        return progress.job

    # ---- the stages of a container --------------------------------------------------------------------------------

    async def _await_start(self) -> None:
        """The node has its plan and starts the container: it reports, or dies without a word."""
        mark = self._heard
        if final_wanted(self._progress):
            await self._join_final_checkpoint()
        elif not await self._listen(mark, SOON, "has the container started?"):
            await self._ask_batch()

    async def _guard_running_job(self) -> None:
        """All is well until somebody signals: no timer runs, unless Batch is to be asked."""
        progress, mark = self._progress, self._heard
        left = None if progress.look_at is None else progress.look_at - workflow.now()
        if final_wanted(progress):
            await self._join_final_checkpoint()
        elif None in progress.wishes.values():
            await grant_wishes(progress)
        elif progress.grow_to:
            await grow_volume(progress)
        elif progress.snapshot_due:
            await take_zone_snapshot(progress)
        elif progress.left_volumes and left is None:
            await drop_left_volume(progress)
        elif left is None or left > timedelta(0):
            await self._listen(mark, left, "ask Batch")
        else:
            await self._ask_batch()
            progress.look_at = None
            if progress.doubtful:
                progress.look_at = workflow.now() + min(SOON * 2**progress.looks, SELDOM)
                progress.looks = min(progress.looks + 1, 8)

    async def _join_final_checkpoint(self) -> None:
        if not await take_final_checkpoint(self._progress):
            await self._listen(self._heard, timedelta(seconds=2), "join the final checkpoint again")

    async def _await_next_container(self) -> None:
        """Nothing runs: free the volume, then ask Batch whether the job is over until a container arrives."""
        progress, mark, stage = self._progress, self._heard, self._progress.stage
        if progress.takes_over:
            await take_over(progress)
            return
        if progress.release:
            await free_volume(progress, lambda work: while_wanted(work, lambda: progress.stage is stage, cancel=True))
            return
        if progress.leaves:
            await leave_instance(progress)
            return
        await self._ask_batch()
        if progress.stage is stage and mark == self._heard:
            first, most = (1, 15) if stage is Stage.EXITED else (30, 120) if progress.unprotected else (15, 30)
            seconds = min(first * 2**progress.looks, most)
            progress.looks = min(progress.looks + 1, 8)
            await self._listen(mark, timedelta(seconds=seconds), f"{stage}: ask Batch again")

    # ---- what is heard --------------------------------------------------------------------------------------------

    @workflow.update
    async def attach(self, request: AttachRequest) -> AttachReply:
        """A container appeared on a node. Key: (instance_id, container_id). Answers WAIT after 20 s: ask again under a
        new update id."""
        progress = self._progress
        if progress.finished:
            return self._refused("the job is over")
        if wants_to_take_over(progress, request) and not await self._knows_what_it_inherits():
            return AttachReply(verdict=Verdict.WAIT, reason="what it goes on from", attempts_made=request.attempt)
        before = progress.job.epoch
        epoch = progress.accept(request, workflow.now())
        if epoch is not None and epoch != before:
            self._hear()
        self._asking += 1
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._closing or self._answer(epoch) is not None, timeout=ATTACH_PATIENCE
            )
        self._asking -= 1
        return self._answer(epoch) or AttachReply(
            verdict=Verdict.WAIT,
            reason=progress.trouble or str(progress.job.state),
            epoch=epoch or 0,
            # A node that must stop waiting decides by these.
            retry=progress.retry,
            attempts_made=request.attempt,
        )

    async def _knows_what_it_inherits(self) -> bool:
        """Before the first epoch is given: a resumed job's go on from its predecessor's."""
        self._hear()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._closing or not self._progress.takes_over, timeout=ATTACH_PATIENCE
            )
        return not self._progress.takes_over

    def _answer(self, epoch: int | None) -> AttachReply | None:
        """The last word for the container of that epoch, once there is one."""
        if self._progress.job.epoch != epoch:
            return self._refused("a newer container of this job has been accepted")
        if self._progress.reply is None and self._progress.finished:
            return self._refused("the job is over")
        return self._progress.reply

    def _refused(self, reason: str) -> AttachReply:
        return AttachReply(verdict=Verdict.REFUSED, reason=f"{reason} ({self._progress.job.state})")

    @attach.validator
    def _attach_is_for_this_job(self, request: AttachRequest) -> None:
        if request.job_id != self._progress.job.job_id:
            raise ApplicationError(f"this workflow is for job {self._progress.job.job_id}", type="Fenced")

    @workflow.update
    async def take_checkpoint(self, wish: TakeCheckpoint) -> CheckpointTaken:
        """A person wants a checkpoint now. Key: request_id."""
        progress, key = self._progress, wish.request_id
        if progress.wishes.get(key) is None and (progress.stage is not Stage.RUNNING or self._closing):
            return CheckpointTaken(failure=f"the job does not run on a node now ({progress.job.state})")
        progress.wish(key)
        self._hear()
        await workflow.wait_condition(lambda: progress.wishes[key] is not None or progress.stage is not Stage.RUNNING)
        answer = progress.wishes[key] or CheckpointTaken(failure="the job left its node before the checkpoint")
        progress.wishes[key] = answer
        return answer

    @workflow.signal
    def report(self, report: NodeReport) -> None:
        """A fact from a node."""
        if hear_report(self._progress, report, workflow.now()):
            self._hear()

    @workflow.signal
    def notice(self, notice: Notice) -> None:
        """AWS announced that an instance will go, or should be left."""
        if hear_notice(self._progress, notice, workflow.now()):
            self._hear()

    @workflow.signal
    def configuration_changed(self) -> None:
        """The system's configuration was changed; what the job's own environment says still wins."""
        self._progress.changes_heard += 1

    @workflow.signal
    def doubted(self, doubt: Doubt) -> None:
        """The reconciler holds the running container for gone, or misses its checkpoints."""
        if hear_doubt(self._progress, doubt, workflow.now()):
            self._hear()

    @workflow.query
    def job(self) -> Job:
        """The job as it is known now."""
        return self._progress.job

    def _hear(self) -> None:
        self._heard += 1
        self._progress.looks = 0

    async def _listen(self, mark: int, timeout: timedelta | None, summary: str) -> bool:
        """Whether anything was heard since `mark` was noted, waiting at most `timeout` for it (None: no timer). A
        history that gets long, of checkpoints that change nothing else, ends the waiting too."""
        if timeout is not None:
            timeout = max(timeout, timedelta(milliseconds=1))
        try:
            await workflow.wait_condition(
                lambda: self._heard != mark or self._renewable(), timeout=timeout, timeout_summary=summary
            )
        except TimeoutError:
            return False
        return True

    # ---- Batch, trouble, renewal ----------------------------------------------------------------------------

    async def _ask_batch(self) -> None:
        """Let Batch's word move the story on. No answer, or something newer heard meanwhile, changes nothing."""
        mark = self._heard
        try:
            batch = await while_wanted(describe_job(self._progress.job.job_id), lambda: self._heard == mark)
        except ActivityError as problem:
            if caused_by(problem, UnknownJob):
                finish_unknown(self._progress, workflow.now())
            return
        hear_batch(self._progress, batch, workflow.now())

    async def _watch_waiting_container(self) -> None:
        """Its owner may end the job while a container waits for its plan. The container engine does not interrupt a
        create that hangs, so we do."""

        def waits() -> bool:
            return self._asking > 0 and self._progress.stage is Stage.PREPARING

        while True:
            await workflow.wait_condition(waits)
            try:
                await workflow.wait_condition(
                    lambda: not waits(), timeout=STILL_WANTED, timeout_summary="still wanted?"
                )
            except TimeoutError:
                await refuse_if_ended(self._progress)

    async def _live_with(self, problem: ActivityError | ChildWorkflowError) -> None:
        """Nothing that fails out there ends the guard: people are told once, and it is tried again."""
        if in_words(problem) != self._progress.trouble:
            self._progress.trouble = in_words(problem)
            self._progress.tell(workflow.now(), "trouble", f"{self._progress.trouble} It is tried again.", "error")
        await self._listen(self._heard, timedelta(seconds=10), "try again")

    def _renewable(self) -> bool:
        """The history is long, and no question is in flight whose answer would be lost. Later while a job stands still:
        where something is heard at the same moment, the server refuses the renewal, and the whole history is read."""
        info, progress = workflow.info(), self._progress
        most = RENEW_AFTER if progress.stage is Stage.RUNNING else RENEW_STANDING_AFTER
        long = info.is_continue_as_new_suggested() or info.get_current_history_length() > most
        return long and None not in progress.wishes.values() and not final_wanted(progress)

    async def _renew_when_long(self) -> None:
        """Continue as new before the history gets long."""
        if not self._renewable():
            return
        self._closing = True
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(JobStart(job_id=self._progress.job.job_id, carried=self._progress))
