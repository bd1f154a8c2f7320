"""How long a job ran, counted both ways: as AWS Batch counts it, and as its processes really ran. Pure.

Batch counts an attempt from the container's start to its end, so the time in which a final checkpoint is written from a
frozen container counts as run time (up to two minutes a reclaim). The other figure leaves out whatever time the
processes stood still: outages, freezes for checkpoints, waits for a volume. Work that had to be done again is in both.
"""

from __future__ import annotations

from datetime import datetime

from perdure.domain.jobs import Attempt, Job


def batch_run_seconds(job: Job, now: datetime | None = None) -> float | None:
    """Seconds from start to end of each attempt as Batch tells them, summed; one that has not ended counts up to `now`,
    or not at all without it. None: Batch has told of no attempt yet."""
    begun = [one for one in job.attempts if one.batch_started_at is not None]
    if not begun:
        return None
    seconds = 0.0
    for attempt in begun:
        end = attempt.batch_stopped_at
        if end is None and attempt is job.attempts[-1]:
            end = job.finished_at or now
        seconds += _between(attempt.batch_started_at, end)
    return round(seconds, 3)


def real_run_seconds(job: Job, now: datetime) -> float:
    """Seconds in which the job's processes ran; up to `now` if they still do. 0.0 while none has started."""
    seconds = sum(_between(one.started_at, stood_still_at(job, place, now)) for place, one in enumerate(job.attempts))
    return round(max(0.0, seconds - job.frozen_seconds), 3)


def stood_still_at(job: Job, place: int, now: datetime) -> datetime:
    """When the processes of that attempt were frozen for good, died or ended; `now` if they run."""
    attempt = job.attempts[place]
    outage = next((one for one in job.outages if one.epoch == attempt.epoch), None)
    known = [instant for instant in (attempt.ended_at, outage.started_at if outage else None) if instant is not None]
    if attempt.end == "handed over" and outage is None:
        # Saved for a resume, with no attempt left: it was let run on until its instance went.
        known = [attempt.batch_stopped_at] if attempt.batch_stopped_at else []
    if known:
        return min(known)
    following: list[Attempt] = job.attempts[place + 1 : place + 2]
    return following[0].accepted_at if following else job.finished_at or now


def _between(start: datetime | None, end: datetime | None) -> float:
    return 0.0 if start is None or end is None else max(0.0, (end - start).total_seconds())
