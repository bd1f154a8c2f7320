"""What the end of a container, of an outage or of the whole job means. Pure: time is an argument."""

from __future__ import annotations

from datetime import datetime

from perdure.contracts.control import BatchAttempt, BatchJob
from perdure.contracts.protection import AttachRequest, Verdict
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.endings import HOST_LOST, Ending, ended_by_itself
from perdure.domain.jobs import Attempt, JobState, Outage
from perdure.domain.outages import Milestones, outage_phases, work_lost_seconds
from perdure.domain.retries import HandOver
from perdure.domain.unprotected import NO_AGENT
from workflows.batch_times import batch_attempt
from workflows.job_state import JobProgress, Stage


def choose_verdict(progress: JobProgress, request: AttachRequest, batch: BatchJob, now: datetime) -> Verdict:
    """FRESH or RESTORE for the newest container, by how the attempt before it ended."""
    if request.attempt == 1 and progress.job.epoch == 1:
        return Verdict.FRESH
    before = _ending_of(progress, request.attempt - 1, batch)
    if ended_by_itself(before):
        _forget_the_past(progress)
        code = "" if before.exit_code is None else f" with exit code {before.exit_code}"
        message = f"The attempt before ended by itself{code}: attempt {request.attempt} starts clean."
        progress.tell(now, "fresh", message, "warning")
        return Verdict.FRESH
    _note_loss(progress, progress.job.attempts[:-1], batch, now)
    return Verdict.RESTORE


def hear_batch(progress: JobProgress, batch: BatchJob, now: datetime) -> None:
    """What Batch says of the job while a container of it should be, or was, somewhere."""
    progress.know_batch(batch)
    if batch.final:
        finish(progress, batch, now)
        return
    current = progress.current
    if current is None or progress.stage in {Stage.PREPARING, Stage.AWAITING}:
        return
    shown = batch_attempt(batch, current.attempt)
    over = (shown is not None and shown.stopped_at is not None) or (
        batch.status in {"SUBMITTED", "PENDING", "RUNNABLE"} and progress.stage in {Stage.RUNNING, Stage.EXITED}
    )
    if not over:
        return
    ending = _ending_of(progress, current.attempt, batch)
    if current.end is None:
        end = "exited" if ended_by_itself(ending) else "node lost" if current.started_at else "replaced"
        progress.change_current(ended_at=(shown.stopped_at if shown else None) or now, end=end)
    progress.stage = Stage.AWAITING
    if not ended_by_itself(ending):
        _note_loss(progress, progress.job.attempts, batch, now)
        progress.show(state=JobState.RESTORE_VOLUME_UNREADY)
    progress.tell(now, "waiting", f"Batch will start the job again; it is {batch.status} now.")


def _note_loss(progress: JobProgress, attempts: list[Attempt], batch: BatchJob, now: datetime) -> None:
    """Open the outage of a container that a lost node took with it, unless it is already known."""
    lost = next((one for one in reversed(attempts) if one.started_at is not None), None)
    if lost is None or any(outage.epoch == lost.epoch for outage in progress.job.outages):
        return
    shown = batch_attempt(batch, lost.attempt)
    death = (shown.stopped_at if shown else None) or lost.ended_at or now
    open_outage(progress, lost.epoch, death, now)
    progress.tell(now, "node lost", f"{lost.instance_id} was lost with the job on it.", "warning", lost.epoch)


def _ending_of(progress: JobProgress, number: int, batch: BatchJob) -> Ending:
    """How attempt `number` of Batch's count ended, in Batch's words and in its nodes'."""
    ours = [attempt for attempt in progress.job.attempts if attempt.attempt == number]
    shown = batch_attempt(batch, number) or BatchAttempt()
    return Ending(
        started=any(attempt.started_at is not None for attempt in ours),
        handed_over=any(attempt.end == "handed over" for attempt in ours),
        exit_reported=any(attempt.end == "exited" for attempt in ours),
        exit_code=shown.exit_code,
        reason=shown.reason,
        status_reason=shown.status_reason,
    )


def _forget_the_past(progress: JobProgress) -> None:
    """Nothing that was saved is used again."""
    attempts = progress.job.attempts
    if len(attempts) > 1 and attempts[-2].end == "node lost":
        attempts = [*attempts[:-2], attempts[-2].model_copy(update={"end": "exited"}), attempts[-1]]
    # An outage still open ended unseen; how long it was stays unknown.
    outages = [
        one if one.ended_at else one.model_copy(update={"ended_at": attempts[-1].accepted_at})
        for one in progress.job.outages
    ]
    progress.show(checkpoints=[], attempts=attempts, outages=outages)
    progress.show(quarantined=[])
    progress.failed_rungs, progress.failed_on = {}, {}
    progress.quarantined, progress.milestones = [], Milestones()
    progress.clean_epoch = progress.job.epoch


def open_outage(
    progress: JobProgress, epoch: int, started_at: datetime, now: datetime, final: Checkpoint | None = None
) -> None:
    """The job stands still since `started_at`, because the node of `epoch` goes or went."""
    if progress.open_outage is not None:
        return
    kind = "notice" if epoch in progress.interrupted_epochs else "no notice"
    progress.milestones = Milestones(final=final)
    outage = Outage(epoch=epoch, kind=kind, started_at=min(started_at, now))
    progress.show(outages=[*progress.job.outages, outage])


def close_outage(progress: JobProgress, restored_from: int | None, at: datetime) -> None:
    """The processes went on at `at`: account for the time they stood still, and for a protection."""
    outage, current = progress.open_outage, progress.current
    if outage is None or current is None:
        return
    restored = next((one for one in progress.job.checkpoints if one.number == restored_from), None)
    known, death = progress.milestones, outage.started_at
    if restored is not None and restored.kind is CheckpointKind.FINAL and restored.epoch == outage.epoch:
        # Its report may never have come: the freeze is the true begin, whatever Batch said of the host.
        known, death = known.model_copy(update={"final": restored}), restored.frozen_at
    kept_until = restored.frozen_at if restored else (progress.clean_since or death)
    closed = outage.model_copy(
        update={
            "started_at": death,
            "ended_at": at,
            "seconds": round(max(0.0, (at - death).total_seconds()), 3),
            "phases": outage_phases(death, at, known, restored=restored_from is not None),
            "restored_from": restored_from,
            "work_lost_seconds": work_lost_seconds(death, kept_until, progress.job.outages),
        }
    )
    lost_on = next((one.instance_id for one in progress.job.attempts if one.epoch == outage.epoch), None)
    survived = restored_from is not None and lost_on != current.instance_id
    progress.show(
        outages=[closed if one is outage else one for one in progress.job.outages],
        protections=progress.job.protections + (1 if survived else 0),
    )
    progress.milestones = Milestones()


def finish(progress: JobProgress, batch: BatchJob, now: datetime) -> None:
    """Batch will not run the job again."""
    job = progress.job
    if batch.attempts and not job.attempts and not job.unprotected:
        progress.show(unprotected=NO_AGENT)
    state = JobState.SUCCEEDED if batch.status == "SUCCEEDED" else JobState.FAILED
    if batch.terminated and state is JobState.FAILED:
        state = JobState.STOPPED
    current = progress.current
    if current is not None and current.ended_at is None:
        progress.change_current(ended_at=batch.stopped_at or now, end="exited")
    progress.stage = Stage.FINISHED
    progress.show(
        state=state,
        batch_status=batch.status,
        exit_code=batch.exit_code,
        finished_at=batch.stopped_at or now,
        attempts_left=0,
    )
    reason = f": {batch.status_reason.rstrip('.')}" if batch.status_reason and state is not JobState.SUCCEEDED else ""
    code = "" if batch.exit_code is None else f" with exit code {batch.exit_code}"
    progress.tell(now, "finished", f"The job is over ({batch.status}{code}){reason}.")
    host_lost = (batch.status_reason or "").startswith(HOST_LOST)
    # Without an attempt left, the node lets the job run on after its last checkpoint: it may still end by itself.
    by_itself = progress.way is HandOver.KEEP_ONLY and batch.exit_code is not None and not host_lost
    lost = host_lost or (current is not None and current.end == "handed over" and not by_itself)
    if state is JobState.FAILED and lost and job.checkpoints:
        progress.keep_volume = "a reclaim ended the job, and no attempt was left"
        newest = job.checkpoints[-1].number
        message = f"A reclaim ended the job for good. Checkpoint {newest} is kept: `resume` can go on from it."
        progress.tell(now, "kept", message, "error")
    elif job.diagnosis:
        progress.keep_volume = "diagnosis mode is on"


def finish_unknown(progress: JobProgress, now: datetime) -> None:
    """Batch does not know the job (any more): there is nothing to protect."""
    progress.stage = Stage.FINISHED
    progress.show(state=JobState.STOPPED, finished_at=now)
    progress.tell(now, "unknown", "AWS Batch does not know this job: Perdure lets go of it.", "warning")
    if progress.job.checkpoints:
        progress.keep_volume = "Batch forgot the job before its end was seen"
