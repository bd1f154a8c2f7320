"""How long a job ran, as Batch counts it and as its processes did, worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.run_time import batch_run_seconds, real_run_seconds

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def attempt(number: int, accepted: float, **more: object) -> Attempt:
    return Attempt.model_validate(
        {
            "epoch": number,
            "attempt": number,
            "instance_id": f"i-{number}",
            "zone": "us-east-1a",
            "container_id": f"c-{number}",
            "accepted_at": at(accepted),
            **more,
        }
    )


RECLAIMED = Job(
    job_id="j",
    created_at=T0,
    state=JobState.SUCCEEDED,
    finished_at=at(2000),
    frozen_seconds=3.0,
    attempts=[
        # Frozen at 610; the dump went on until 690, when its container was ended.
        attempt(
            1,
            0,
            started_at=at(10),
            ended_at=at(610),
            end="handed over",
            batch_started_at=at(9),
            batch_stopped_at=at(690),
        ),
        attempt(
            2,
            900,
            started_at=at(1000),
            ended_at=at(2000),
            end="exited",
            batch_started_at=at(999),
            batch_stopped_at=at(2000),
        ),
    ],
    outages=[Outage(epoch=1, kind="notice", started_at=at(610), ended_at=at(1000), seconds=390)],
)


def test_a_reclaim_on_notice() -> None:
    assert batch_run_seconds(RECLAIMED) == (690 - 9) + (2000 - 999)
    assert real_run_seconds(RECLAIMED, at(9999)) == 600 + 1000 - 3


def test_a_node_that_died_counts_up_to_its_death() -> None:
    first, second = RECLAIMED.attempts
    # Its end was noted when the next container came; Batch said later when the host died.
    lost = first.model_copy(update={"ended_at": at(900), "end": "node lost", "batch_stopped_at": at(640)})
    outage = Outage(epoch=1, kind="no notice", started_at=at(640), ended_at=at(1000), seconds=360)
    job = RECLAIMED.model_copy(update={"attempts": [lost, second], "outages": [outage], "frozen_seconds": 0.0})
    assert real_run_seconds(job, at(9999)) == (640 - 10) + 1000


def test_a_job_that_runs_counts_up_to_now() -> None:
    job = Job(job_id="j", created_at=T0, attempts=[attempt(1, 0, started_at=at(10), batch_started_at=at(9))])
    assert real_run_seconds(job, at(70)) == 60
    assert (batch_run_seconds(job, at(70)), batch_run_seconds(job)) == (61, 0)


def test_what_is_not_known_is_not_counted() -> None:
    assert batch_run_seconds(Job(job_id="j", created_at=T0)) is None
    assert real_run_seconds(Job(job_id="j", created_at=T0, attempts=[attempt(1, 0)]), at(70)) == 0


def test_the_last_attempt_that_was_saved_and_ran_on() -> None:
    saved = attempt(1, 0, started_at=at(10), ended_at=at(100), end="handed over", batch_started_at=at(9))
    job = Job(job_id="j", created_at=T0, attempts=[saved])
    assert real_run_seconds(job, at(110)) == 100, "it runs until its instance goes"
    over = saved.model_copy(update={"batch_stopped_at": at(105)})
    assert real_run_seconds(job.model_copy(update={"attempts": [over]}), at(999)) == 95


@given(st.lists(st.tuples(*[st.floats(0, 1e6)] * 3), max_size=6), st.floats(0, 1e4), st.floats(0, 1e6))
def test_no_history_gives_negative_time(spans: list[tuple[float, float, float]], frozen: float, now: float) -> None:
    attempts = [
        attempt(number, accepted, started_at=at(started), ended_at=at(ended), batch_started_at=at(ended))
        for number, (accepted, started, ended) in enumerate(spans, start=1)
    ]
    job = Job(job_id="j", created_at=T0, attempts=attempts, frozen_seconds=frozen)
    assert real_run_seconds(job, at(now)) >= 0 and (batch_run_seconds(job, at(now)) or 0) >= 0
