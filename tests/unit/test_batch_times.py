"""Which of our containers an attempt of AWS Batch's is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure.contracts.control import BatchAttempt, BatchJob
from perdure.domain.jobs import Attempt
from workflows.batch_times import with_batch_times

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def ours(epoch: int, number: int, accepted: float, ended: float | None = None) -> Attempt:
    return Attempt(
        epoch=epoch,
        attempt=number,
        instance_id=f"i-{epoch}",
        zone="us-east-1a",
        container_id=f"c-{epoch}",
        accepted_at=at(accepted),
        ended_at=None if ended is None else at(ended),
    )


def theirs(started: float | None, stopped: float | None) -> BatchAttempt:
    return BatchAttempt(
        started_at=None if started is None else at(started), stopped_at=None if stopped is None else at(stopped)
    )


def matched(attempts: list[Attempt], batch: BatchJob) -> list[tuple[float | None, float | None]]:
    """Seconds after T0 at which each started and stopped for Batch."""
    return [
        (
            None if one.batch_started_at is None else (one.batch_started_at - T0).total_seconds(),
            None if one.batch_stopped_at is None else (one.batch_stopped_at - T0).total_seconds(),
        )
        for one in with_batch_times(attempts, batch)
    ]


def batch(*attempts: BatchAttempt, status: str = "RUNNABLE", started: float | None = None) -> BatchJob:
    started_at = None if started is None else at(started)
    return BatchJob(job_id="j", status=status, attempts=list(attempts), started_at=started_at)


def test_attempts_that_ran_one_after_the_other() -> None:
    known = [ours(1, 1, 0, 610), ours(2, 2, 900, 2000)]
    assert matched(known, batch(theirs(9, 690), theirs(999, 2000))) == [(9, 690), (999, 2000)]


def test_a_container_that_died_while_it_started_repeats_its_number() -> None:
    known = [ours(1, 1, 0, 100), ours(2, 2, 200, 300), ours(3, 2, 300, 900)]
    told = batch(theirs(9, 100), theirs(None, 250), theirs(310, 900))
    assert matched(known, told) == [(9, 100), (None, None), (310, 900)]


def test_the_running_attempt_has_its_start() -> None:
    known = [ours(1, 1, 0, 100), ours(2, 2, 200)]
    running = batch(theirs(9, 100), status="RUNNING", started=210)
    assert matched(known, running) == [(9, 100), (210, None)]
    # Some lists hold the running attempt too.
    assert matched(known, batch(theirs(9, 100), theirs(210, None), status="RUNNING", started=210)) == [
        (9, 100),
        (210, None),
    ]


def test_a_start_that_cannot_be_this_containers_is_not_taken() -> None:
    known = [ours(1, 1, 0, 100), ours(2, 2, 200)]
    assert matched(known, batch(theirs(9, 100), status="RUNNING", started=9))[1] == (None, None), "an answer of before"
    assert matched(known, batch(theirs(9, 100), status="STARTING", started=210))[1] == (None, None)
    # Ours died while it started; the one that Batch counts under its number ran without us.
    assert matched([ours(1, 1, 0, 100)], batch(theirs(400, 900))) == [(None, None)]


def test_attempts_that_ran_without_us_are_nobodys() -> None:
    assert matched([ours(1, 2, 200, 900)], batch(theirs(9, 100), theirs(210, 900))) == [(210, 900)]
    assert matched([], batch(theirs(9, 100))) == []
