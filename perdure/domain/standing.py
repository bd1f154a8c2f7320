"""How a job stands, in one sentence, and what a reclaim would do to it now. Pure."""

from __future__ import annotations

from datetime import datetime

from perdure.domain.checkpoints import Checkpoint, Rehearsal, RehearsalVerdict
from perdure.domain.jobs import FINISHED_STATES, Attempt, Job, JobState
from perdure.domain.retries import ENDED_BY_US, HandOver
from perdure.domain.unprotected import own_reason
from perdure.domain.values import Frozen

NOTICE_SECONDS = 120.0
"""Between AWS's notice and the end of the instance."""


class ReclaimNow(Frozen):
    """What would be left of the job if AWS took its instance at this moment.

    `checkpoint`: the newest that is held to be restorable, and `frozen_at` the instant that it brings back.
    `at_risk_seconds`: run time since, lost if AWS gives no notice. `final_seconds`: how long a final checkpoint would
    take, as the newest one did; None: there is none yet. With a notice it has NOTICE_SECONDS.
    """

    checkpoint: int | None
    frozen_at: datetime | None
    at_risk_seconds: float | None
    final_seconds: float | None
    notice_seconds: float = NOTICE_SECONDS


def reclaim_now(job: Job, now: datetime) -> ReclaimNow | None:
    """None: the job is finished, or has not begun."""
    if job.state in FINISHED_STATES or not job.attempts:
        return None
    newest = _safe(job)
    current = job.attempts[-1]
    kept = newest.frozen_at if newest else None
    began = max([at for at in (kept, current.started_at) if at is not None], default=None)
    runs = current.started_at is not None and current.ended_at is None
    risk = max(0.0, (now - began).total_seconds()) if runs and began else None
    took = (newest.committed_at - newest.frozen_at).total_seconds() if newest else None
    return ReclaimNow(
        checkpoint=newest.number if newest else None,
        frozen_at=kept,
        at_risk_seconds=None if risk is None else round(risk, 3),
        final_seconds=None if took is None else round(max(0.0, took), 3),
    )


class Kept(Frozen):
    """The checkpoint that a job which is over can be resumed from, or was.

    `until` (UTC): when it is deleted; None: by a person, or the job was resumed. `resumed_as`: the job that goes on
    from it; empty: which one is not known yet; None: nobody resumed it.
    """

    checkpoint: int
    until: datetime | None = None
    resumed_as: str | None = None


def standing(job: Job, now: datetime, kept: Kept | None = None) -> str:
    """One sentence about the job as it is now, for people."""
    if job.state in FINISHED_STATES:
        return _over(job, kept)
    if not job.attempts and job.unprotected:
        return f"It runs. It is not protected: {own_reason(job.unprotected)}."
    if not job.attempts:
        return "It waits for AWS Batch to start its first container."
    current = job.attempts[-1]
    if current.ended_at is not None:
        return _between_containers(job, current, now)
    if current.started_at is None:
        return _starting(job, current, now)
    return _running(job, current, now)


def _over(job: Job, kept: Kept | None) -> str:
    last = job.attempts[-1] if job.attempts else None
    took = _duration(last.ended_at or job.finished_at, job.attempts[0].accepted_at) if last else ""
    after = f" after {took}" if took else ""
    survived = f" It survived {_times(job.protections, 'reclaim')}{_lost_work(job)}." if job.protections else ""
    if job.state is JobState.SUCCEEDED:
        return f"It succeeded{after}.{survived}"
    if job.state is JobState.STOPPED:
        return f"It was stopped by somebody{after}.{survived}"
    if last is not None and _reclaimed_for_good(job, last, kept):
        return f"A reclaim took its last attempt.{_left(kept)}"
    code = "" if job.exit_code is None else f" with exit code {job.exit_code}"
    in_attempt = f" in attempt {last.attempt} of {job.retry.attempts}" if last else " before an agent saw it"
    return f"It failed{code}{in_attempt}.{survived}"


def _reclaimed_for_good(job: Job, last: Attempt, kept: Kept | None) -> bool:
    """A checkpoint stays after a failure only where a reclaim was the cause, but in diagnosis mode."""
    if kept is not None and not job.diagnosis:
        return True
    left_alone = job.hand_over == HandOver.KEEP_ONLY and last.end == "handed over"
    return last.end == "node lost" or (left_alone and job.exit_code in (None, ENDED_BY_US))


def _left(kept: Kept | None) -> str:
    if kept is None:
        return " No checkpoint of it is left."
    if kept.resumed_as is None:
        return f" Checkpoint {kept.checkpoint} is kept: `Resume` goes on from there in a new job."
    other = f"job {kept.resumed_as}" if kept.resumed_as else "another job"
    return f" It was resumed from checkpoint {kept.checkpoint} as {other}."


def _lost_work(job: Job) -> str:
    lost = sum(one.work_lost_seconds or 0.0 for one in job.outages)
    still = sum(one.seconds or 0.0 for one in job.outages)
    work = f"lost {_spoken(lost)} of work" if lost >= 1 else "lost no work"
    return f", stood still {_spoken(still)} for that and {work}"


def _between_containers(job: Job, last: Attempt, now: datetime) -> str:
    since = _duration(now, last.ended_at)
    if job.hand_over == HandOver.KEEP_ONLY and last.end == "handed over":
        return "It is saved, but no attempt is left: AWS Batch will not start it again."
    newest = _restorable(job)
    then = f"it goes on from checkpoint {newest.number}" if newest else "it starts anew"
    if last.end == "exited":
        return f"Its container ended {since} ago; AWS Batch is asked what follows."
    return f"It has waited {since} for another instance; {then} there."


def _starting(job: Job, current: Attempt, now: datetime) -> str:
    where, since = f"{current.instance_id} in {current.zone}", _duration(now, current.accepted_at)
    if current.noticed_at is not None:
        return f"AWS takes {where} back before the job has started there."
    if job.state in {JobState.VOLUME_UNREADY, JobState.RESTORE_VOLUME_UNREADY}:
        return f"It has waited {since} for its volume on {where}."
    if job.state is JobState.RESTORING:
        newest = _restorable(job)
        what = f" from checkpoint {newest.number}" if newest else ""
        return f"It is being restored{what} on {where}, since {since}."
    return f"It starts on {where}, since {since}."


def _running(job: Job, current: Attempt, now: datetime) -> str:
    where = f"{current.instance_id} in {current.zone}"
    if current.noticed_at is not None:
        left = f" in {_duration(current.notice_deadline, now)}" if current.notice_deadline else ""
        deed = "it is being saved" if job.state is JobState.CHECKPOINTING else "it is saved before that"
        return f"AWS takes {where} back{left or ' soon'}: {deed}."
    begun = f"It has run {_duration(now, current.started_at)} on {where}"
    if current.restored_from is not None:
        begun += f", where it went on from checkpoint {current.restored_from}"
    elif current.restore_failures:
        begun += ", where it started clean: no checkpoint could be restored"
    if job.unprotected:
        return f"{begun}. It is not protected: {own_reason(job.unprotected)}."
    newest, failed = _safe(job), failed_rehearsal(job)
    if failed is not None:
        kept = f"checkpoint {newest.number} would be used" if newest else "a reclaim would cost all its work"
        return f"{begun}. Checkpoint {failed.number} did not come back in a rehearsal: as far as that tells, {kept}."
    if newest is None:
        return f"{begun}. It has no checkpoint yet."
    return f"{begun}. Its newest checkpoint, {newest.number}, is {_duration(now, newest.frozen_at)} old."


def failed_rehearsal(job: Job) -> Rehearsal | None:
    """The newest rehearsal, if it failed and was of the container that runs now."""
    newest = job.rehearsal
    failed = newest is not None and newest.verdict is RehearsalVerdict.FAILED and newest.epoch == job.epoch
    return newest if failed else None


def _safe(job: Job) -> Checkpoint | None:
    """The newest that is called safe: not one that failed in a rehearsal, nor those after it."""
    failed = failed_rehearsal(job)
    checkpoints = [
        one for one in job.checkpoints if failed is None or one.epoch < failed.epoch or one.number < failed.number
    ]
    return _restorable(job.model_copy(update={"checkpoints": checkpoints}))


def _restorable(job: Job) -> Checkpoint | None:
    return next((one for one in reversed(job.checkpoints) if one.number not in job.quarantined), None)


def _duration(later: datetime | None, earlier: datetime | None) -> str:
    if later is None or earlier is None:
        return ""
    return _spoken((later - earlier).total_seconds())


def _spoken(seconds: float) -> str:
    """A duration as the console writes them, to the minute from an hour on, to the hour from two days on: a sentence is
    no stopwatch."""
    whole = max(1, round(seconds))
    if whole >= 2 * 86_400:
        parts = (whole // 86_400, "d"), (whole // 3600 % 24, "h")
    elif whole >= 3600:
        parts = (whole // 3600, "h"), (whole // 60 % 60, "min")
    else:
        parts = (whole // 60, "min"), (whole % 60, "s")
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
