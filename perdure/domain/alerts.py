"""What people should know of an unfinished job before it is too late, and how AWS Batch would take each of its ends.

Pure: everything is judged from the job as it is known, at a given time. An alert is a state and not an event: it stands
as long as what it says is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from perdure.domain.budget import BudgetColour, predicted
from perdure.domain.jobs import FINISHED_STATES, Attempt, Job, JobState
from perdure.domain.retries import ENDED_BY_US, HandOver, would_retry
from perdure.domain.standing import failed_rehearsal
from perdure.domain.unprotected import own_reason
from perdure.domain.values import Frozen, format_duration

VOLUME_PATIENCE = timedelta(minutes=10)
CONTAINER_START_TIMEOUT = timedelta(minutes=16)
"""What perdure-install sees to on every node (ECS_CONTAINER_START_TIMEOUT); `perdure doctor` tells of a node with less.
Many a sound start takes longer than ECS's own three minutes: one whose volume comes from another zone."""
START_MARGIN = timedelta(minutes=2)
TIMEOUT_MARGIN = timedelta(minutes=15)
LAPSED = timedelta(minutes=10)
"""An instance that is still there so long after its deadline was not taken back after all."""
FAILURES_IN_A_ROW = 2
ERROR, WARNING = "error", "warning"


class Verdict(Frozen):
    """What Batch would do after one kind of end: `reclaim`, `hand over`, `failed start` or `own failure`.

    `rule` is the retry rule that decides, in words (rule 2, `Host EC2*`), whether or not an attempt is left.
    """

    ending: str
    retried: bool
    rule: str
    message: str


class Alert(Frozen):
    """`code` is short and stable, for programs; `level` is `error` (work will be lost, or the job ends) or `warning`.
    `since`: when it became true, as far as that is known."""

    code: str
    level: str
    message: str
    since: datetime | None = None


def verdicts(job: Job) -> list[Verdict]:
    """How Batch's retry rules, and the attempts left, would treat the job's ends. Empty for a finished job."""
    if job.state in FINISHED_STATES:
        return []
    host = job.attempts[-1].instance_id if job.attempts else "i-…"
    ended = "Essential container in task exited"
    return [
        _verdict(job, "reclaim", "A reclaim (`Host EC2 …`)", None, None, f"Host EC2 (instance {host}) terminated."),
        _verdict(job, "hand over", f"Our hand-over (exit code {ENDED_BY_US})", ENDED_BY_US, None, ended),
        _verdict(job, "failed start", "A failed start", None, "CannotCreateContainerError", "Task failed to start"),
        _verdict(job, "own failure", "A failure of its own (exit code 1)", 1, None, ended),
    ]


def _verdict(
    job: Job, ending: str, words: str, exit_code: int | None, reason: str | None, status_reason: str
) -> Verdict:
    asked, rule = would_retry(job.retry, exit_code=exit_code, reason=reason, status_reason=status_reason)
    left = _attempts_left(job)
    if not asked:
        return Verdict(ending=ending, retried=False, rule=rule, message=f"{words} would NOT be retried: {rule}.")
    if left == 0:
        allowed = job.retry.attempts
        why = "AWS Batch gives the job one attempt" if allowed == 1 else f"no attempt is left of {allowed}"
        said = f"{words} would NOT be retried: {why}."
        return Verdict(ending=ending, retried=False, rule=rule, message=said)
    return Verdict(ending=ending, retried=True, rule=rule, message=f"{words} would be retried: {rule}.")


def _attempts_left(job: Job) -> int:
    if job.attempts_left is not None:
        return job.attempts_left
    made = job.attempts[-1].attempt if job.attempts else 1
    return max(0, job.retry.attempts - made)


def timeout_left_seconds(job: Job, now: datetime) -> float | None:
    """Until Batch ends the running attempt for its time-out, which nothing retries; 0.0 when that has passed. None: the
    job has no time-out, or nothing runs. Batch counts from the container's start, and again for each attempt."""
    running = _running(job)
    if running is None or job.timeout_seconds is None:
        return None
    return max(0.0, (_deadline(running, job.timeout_seconds) - now).total_seconds())


def _deadline(running: Attempt, timeout_seconds: int) -> datetime:
    begun = running.batch_started_at or running.started_at or running.accepted_at
    return begun + timedelta(seconds=timeout_seconds)


def _running(job: Job) -> Attempt | None:
    """The container in which the job runs now, as far as anybody has told."""
    newest = job.attempts[-1] if job.attempts and job.state not in FINISHED_STATES else None
    return newest if newest is not None and newest.started_at is not None and newest.ended_at is None else None


def _starting(job: Job) -> Attempt | None:
    """The container that waits for its volume, its restore or its start."""
    newest = job.attempts[-1] if job.attempts and job.state not in FINISHED_STATES else None
    return newest if newest is not None and newest.started_at is None and newest.ended_at is None else None


def alerts(job: Job, now: datetime) -> list[Alert]:
    """Everything that is wrong with the job, or soon will be; the worst first, among equals the oldest. Empty for a
    finished job."""
    if job.state in FINISHED_STATES:
        return []
    found = [alert for question in _QUESTIONS for alert in question(job, now)]
    return sorted(found, key=worst_first)


def worst_first(alert: Alert) -> tuple[bool, float]:
    """Key for sorting."""
    return alert.level != ERROR, alert.since.timestamp() if alert.since else 0.0


def _chances(job: Job, now: datetime) -> Iterator[Alert]:
    if not job.attempts:
        return  # Batch has not been asked
    since = job.attempts[-1].accepted_at
    reclaim = verdicts(job)[0]
    if job.attempts[-1].end == "handed over" and job.hand_over == HandOver.KEEP_ONLY:
        said = (
            "The job is saved and runs on until its instance goes. No attempt is left: if it does not finish before, "
        )
        said += "Batch will not start it again, but `resume` can go on from it."
        yield Alert(code="kept-only", level=ERROR, message=said, since=job.attempts[-1].ended_at)
    elif not reclaim.retried and (job.retry.attempts == 1 or _attempts_left(job) > 0):
        yield Alert(code="no-retry-on-reclaim", level=ERROR, message=reclaim.message, since=since)
    elif _attempts_left(job) == 0:
        said = f"The last of {job.retry.attempts} attempts runs: Batch will not start the job again after a reclaim."
        yield Alert(code="last-attempt", level=WARNING, message=said, since=since)


def _time_out(job: Job, now: datetime) -> Iterator[Alert]:
    running, left = _running(job), timeout_left_seconds(job, now)
    if running is None or left is None or job.timeout_seconds is None:
        return
    # A short time-out would else be near from the beginning.
    margin = min(max(0.1 * job.timeout_seconds, TIMEOUT_MARGIN.total_seconds()), 0.5 * job.timeout_seconds)
    if left < margin:
        since = _deadline(running, job.timeout_seconds) - timedelta(seconds=margin)
        said = f"Batch ends this attempt in {format_duration(round(left))}, for its time-out of "
        said += f"{format_duration(job.timeout_seconds)}; it does not retry that."
        yield Alert(code="timeout-near", level=ERROR, message=said, since=since)


def _protection(job: Job, now: datetime) -> Iterator[Alert]:
    if job.unprotected:
        since = job.attempts[-1].accepted_at if job.attempts else job.created_at
        said = f"The job is not protected: {own_reason(job.unprotected)}."
        yield Alert(code="unprotected", level=WARNING, message=said, since=since)


def _rhythm(job: Job, now: datetime) -> Iterator[Alert]:
    running = _running(job)
    if running is None or running.started_at is None or not job.interval_seconds or job.unprotected:
        return
    last = max([running.started_at, *(one.frozen_at for one in job.checkpoints)])
    overdue = last + timedelta(seconds=2 * job.interval_seconds)
    if now > overdue:
        said = f"No checkpoint for {format_duration(round((now - last).total_seconds()))}; one is due every "
        said += f"{format_duration(job.interval_seconds)}. A reclaim without notice would cost all that work."
        yield Alert(code="checkpoint-overdue", level=WARNING, message=said, since=overdue)


def _checkpoint_failures(job: Job, now: datetime) -> Iterator[Alert]:
    if job.checkpoint_failures_in_a_row and job.checkpoint_error == "JobRootFull":
        said = f"The next checkpoint will not fit: {job.checkpoint_failure}"
        yield Alert(code="checkpoint-will-not-fit", level=ERROR, message=said, since=job.checkpoint_failed_at)
    elif job.checkpoint_failures_in_a_row >= FAILURES_IN_A_ROW:
        said = f"The last {job.checkpoint_failures_in_a_row} checkpoints failed: {job.checkpoint_failure}"
        yield Alert(code="checkpoints-failing", level=WARNING, message=said, since=job.checkpoint_failed_at)


def _budget(job: Job, now: datetime) -> Iterator[Alert]:
    budget = predicted(job.checkpoints) if _running(job) is not None else None
    if budget is not None and budget.colour is BudgetColour.RED:
        yield Alert(
            code="final-too-long", level=WARNING, message=budget.sentence, since=job.checkpoints[-1].committed_at
        )


def _rehearsal(job: Job, now: datetime) -> Iterator[Alert]:
    failed = failed_rehearsal(job)
    if failed is not None:
        said = f"Checkpoint {failed.number} did not come back in a rehearsal, so a reclaim may cost the job its work: "
        yield Alert(code="rehearsal-failed", level=ERROR, message=said + failed.reason, since=failed.at)


def _restores(job: Job, now: datetime) -> Iterator[Alert]:
    newest = job.checkpoints[-1] if job.checkpoints else None
    if newest is not None and newest.number in job.quarantined:
        said = f"Checkpoint {newest.number}, the newest, could not be restored and is not tried again: a reclaim now "
        said += "would go back further."
        yield Alert(code="newest-quarantined", level=WARNING, message=said, since=newest.committed_at)
    current = job.attempts[-1] if job.attempts else None
    if current is None or not current.restore_failures or current.ended_at is not None:
        return
    if newest is not None and newest.epoch == current.epoch:
        return  # a good one since
    kept = "it starts clean" if current.restored_from is None else f"it went on from checkpoint {current.restored_from}"
    many = current.restore_failures
    said = f"{many} restore{'s' if many > 1 else ''} failed on {current.instance_id}; {kept}."
    if current.started_at is None:
        said = f"{many} restore{'s' if many > 1 else ''} failed on {current.instance_id}, which did not start the job."
    yield Alert(code="restore-failed", level=WARNING, message=said, since=current.started_at or current.accepted_at)


def _start(job: Job, now: datetime) -> Iterator[Alert]:
    starting = _starting(job)
    if starting is None:
        return
    limit = starting.accepted_at + CONTAINER_START_TIMEOUT
    if now >= limit - START_MARGIN:
        retried = verdicts(job)[2]
        when = f"in {format_duration(round((limit - now).total_seconds()))}" if now < limit else "by now"
        patience = format_duration(round(CONTAINER_START_TIMEOUT.total_seconds()))
        said = f"The container on {starting.instance_id} has not started. ECS gives up {when}, {patience} after the "
        said += f"start began. {retried.message}"
        level = WARNING if retried.retried else ERROR
        yield Alert(code="start-timeout-near", level=level, message=said, since=limit - START_MARGIN)


def _volume(job: Job, now: datetime) -> Iterator[Alert]:
    if _starting(job) is None or job.state not in {JobState.VOLUME_UNREADY, JobState.RESTORE_VOLUME_UNREADY}:
        return
    # A container whose start times out is followed by another that waits for the same volume.
    since = job.attempts[-1].accepted_at
    for attempt in reversed(job.attempts):
        if attempt.started_at is not None:
            break
        since = attempt.accepted_at
    if now - since > VOLUME_PATIENCE:
        which = f"Volume {job.volume_id}" if job.volume_id else "The job's volume"
        said = f"{which} has not been there for {format_duration(round((now - since).total_seconds()))}; the job waits."
        yield Alert(code="volume-waits", level=WARNING, message=said, since=since + VOLUME_PATIENCE)


def _notice(job: Job, now: datetime) -> Iterator[Alert]:
    current = job.attempts[-1] if job.attempts else None
    if current is None or current.noticed_at is None or current.ended_at is not None:
        return
    if current.started_at is None:  # what the job has done is in its checkpoints, as before
        return
    if now > (current.notice_deadline or current.noticed_at) + LAPSED:
        return
    at = f" at {current.notice_deadline:%H:%M:%S} UTC" if current.notice_deadline else ""
    reclaim = verdicts(job)[0]
    safe = reclaim.retried and not job.unprotected and job.state is not JobState.CHECKPOINT_FAILED
    said = f"AWS takes {current.instance_id} back{at}, and the job is not safe yet."
    if not reclaim.retried:
        said += f" {reclaim.message}"
    yield Alert(code="node-noticed", level=WARNING if safe else ERROR, message=said, since=current.noticed_at)


_QUESTIONS = (
    _chances,
    _time_out,
    _protection,
    _rhythm,
    _checkpoint_failures,
    _budget,
    _rehearsal,
    _restores,
    _start,
    _volume,
    _notice,
)
