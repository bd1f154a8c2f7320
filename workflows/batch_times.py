"""Which of our containers AWS Batch's attempts are, and when each ran as Batch counts it. Pure."""

from __future__ import annotations

from datetime import timedelta

from perdure.contracts.control import BatchAttempt, BatchJob
from perdure.domain.jobs import Attempt

CLOCKS_DIFFER = timedelta(seconds=60)
"""Batch's clock against Temporal's and the nodes': an attempt is matched if its times agree to within this."""


def batch_attempt(batch: BatchJob, number: int) -> BatchAttempt | None:
    """Batch lists a container that died while it started too, but does not count it: the next repeats its number."""
    counted = [one for one in batch.attempts if one.started_at is not None]
    return counted[number - 1] if 0 < number <= len(counted) else None


def with_batch_times(attempts: list[Attempt], batch: BatchJob) -> list[Attempt]:
    """Our attempts with Batch's times on those that Batch counts: the newest of each number, where the times agree.

    Of several containers with one number only the last has run. One that ran without us has a number of its own, or
    repeats that of a container that died before it began; its times then agree with none of ours.
    """
    counted = [one for one in batch.attempts if one.started_at is not None]
    if batch.status == "RUNNING" and batch.started_at and not any(one.stopped_at is None for one in counted):
        counted.append(BatchAttempt(started_at=batch.started_at, log_stream=batch.log_stream))
    found = list(attempts)
    for number, theirs in enumerate(counted, start=1):
        place = next((place for place in reversed(range(len(found))) if found[place].attempt == number), None)
        if place is not None and _agree(found[place], theirs):
            ours = found[place]
            changes = {
                "batch_started_at": theirs.started_at,
                "batch_stopped_at": theirs.stopped_at,
                "log_stream": theirs.log_stream or ours.log_stream,
            }
            found[place] = ours.model_copy(update=changes)
    return found


def _agree(ours: Attempt, theirs: BatchAttempt) -> bool:
    if theirs.started_at is None or theirs.started_at < ours.accepted_at - CLOCKS_DIFFER:
        return False
    return ours.ended_at is None or theirs.started_at <= ours.ended_at + CLOCKS_DIFFER
