"""What is said of a job before it is too late: one story each, and that nothing is said of a job that is well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.alerts import alerts, timeout_left_seconds, verdicts, worst_first
from perdure.domain.checkpoints import Checkpoint, CheckpointKind, Rehearsal, RehearsalVerdict
from perdure.domain.jobs import FINISHED_STATES, Attempt, Job, JobState
from perdure.domain.retries import HandOver, RetryRule, RetryStrategy
from perdure.domain.standing import reclaim_now, standing

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)
SPOT = RetryStrategy(
    attempts=5,
    rules=[
        RetryRule(action="EXIT", on_reason="OutOfMemory*"),
        RetryRule(action="RETRY", on_status_reason="Host EC2*"),
        RetryRule(action="EXIT", on_reason="*"),
    ],
)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def attempt(**changes: object) -> Attempt:
    known = {
        "epoch": 1,
        "attempt": 1,
        "instance_id": "i-1",
        "zone": "us-east-1a",
        "container_id": "c-1",
        "accepted_at": T0,
        "started_at": at(10),
        "batch_started_at": at(9),
    }
    return Attempt.model_validate({**known, **changes})


def checkpoint(number: int, seconds: float, epoch: int = 1) -> Checkpoint:
    kind = CheckpointKind.PERIODIC
    return Checkpoint(number=number, kind=kind, epoch=epoch, frozen_at=at(seconds), committed_at=at(seconds + 2))


def job(**changes: object) -> Job:
    """A job that is well at T0 + 100 s."""
    known = Job(
        job_id="j",
        created_at=T0,
        state=JobState.RUNNING,
        interval_seconds=900.0,
        retry=SPOT,
        attempts_left=4,
        hand_over=HandOver.STAY_FROZEN,
        attempts=[attempt()],
        epoch=1,
    )
    return known.model_copy(update=changes)


def codes(known: Job, seconds: float = 100) -> list[str]:
    return [alert.code for alert in alerts(known, at(seconds))]


def test_nothing_is_said_of_a_job_that_is_well() -> None:
    assert codes(job()) == [] and codes(Job(job_id="j", created_at=T0), 9999) == []


@pytest.mark.parametrize("state", sorted(FINISHED_STATES))
def test_nothing_is_said_of_a_finished_job(state: JobState) -> None:
    over = job(state=state, retry=RetryStrategy(), unprotected="why", checkpoint_failures_in_a_row=9)
    assert alerts(over, at(1e6)) == [] and verdicts(over) == [] and timeout_left_seconds(over, at(0)) is None


def test_the_verdict_names_the_rule() -> None:
    told = {verdict.ending: (verdict.retried, verdict.message) for verdict in verdicts(job())}
    assert told["reclaim"] == (True, "A reclaim (`Host EC2 …`) would be retried: rule 2, `Host EC2*`.")
    assert told["hand over"] == (False, "Our hand-over (exit code 137) would NOT be retried: rule 3, `*`.")
    assert told["own failure"][0] is False and told["failed start"][0] is False
    assert all(verdict.retried for verdict in verdicts(job(retry=RetryStrategy(attempts=5))))


def test_no_attempt_left_is_no_retry_whatever_the_rules_say() -> None:
    reclaim = verdicts(job(attempts_left=0))[0]
    assert (
        not reclaim.retried and "no attempt is left of 5" in reclaim.message and reclaim.rule == "rule 2, `Host EC2*`"
    )
    unknown = job(attempts_left=None, retry=RetryStrategy(attempts=1))
    assert not verdicts(unknown)[0].retried


def test_a_reclaim_that_nothing_retries() -> None:
    rules = [RetryRule(action="RETRY", on_exit_code="1"), RetryRule(action="EXIT", on_reason="*")]
    (alert,) = alerts(job(retry=RetryStrategy(attempts=5, rules=rules)), at(100))
    assert (alert.code, alert.level, alert.since) == (
        "no-retry-on-reclaim",
        "error",
        T0,
    ) and "rule 2, `*`" in alert.message
    assert codes(job(retry=RetryStrategy(attempts=1), attempts_left=0)) == ["no-retry-on-reclaim"]


def test_the_last_attempt() -> None:
    (alert,) = alerts(job(attempts_left=0), at(100))
    assert (alert.code, alert.level) == ("last-attempt", "warning") and "last of 5 attempts" in alert.message
    saved = attempt(ended_at=at(90), end="handed over")
    assert codes(job(attempts_left=0, attempts=[saved], hand_over=HandOver.KEEP_ONLY)) == ["kept-only"]


@pytest.mark.parametrize(
    ("timeout", "runs", "near"),
    [
        (86_400, 86_400 - 8_641, False),  # a tenth is more than a quarter of an hour
        (86_400, 86_400 - 8_639, True),
        (7_200, 7_200 - 901, False),
        (7_200, 7_200 - 899, True),
        (600, 299, False),  # never more than half of it
        (600, 301, True),
    ],
)
def test_the_time_out_counts_from_batchs_start_of_the_attempt(timeout: int, runs: int, near: bool) -> None:
    known = job(timeout_seconds=timeout, interval_seconds=0.0)
    assert codes(known, 9 + runs) == (["timeout-near"] if near else [])
    assert timeout_left_seconds(known, at(9 + runs)) == timeout - runs
    assert timeout_left_seconds(known, at(9 + timeout + 5)) == 0
    unheard = job(timeout_seconds=timeout, attempts=[attempt(batch_started_at=None)])
    assert timeout_left_seconds(unheard, at(10 + runs)) == timeout - runs, "Batch has not been asked since it started"


def test_each_attempt_has_the_whole_time_out() -> None:
    first = attempt(ended_at=at(500), end="handed over", batch_stopped_at=at(550))
    second = attempt(epoch=2, attempt=2, started_at=at(900), batch_started_at=at(901))
    assert timeout_left_seconds(job(timeout_seconds=1000, attempts=[first, second]), at(1001)) == 900
    assert timeout_left_seconds(job(timeout_seconds=1000, attempts=[first]), at(600)) is None


def test_a_rhythm_that_has_stopped() -> None:
    assert codes(job(), 10 + 1800) == []
    (alert,) = alerts(job(), at(10 + 1801))
    assert (alert.code, alert.since) == ("checkpoint-overdue", at(1810)) and "30m1s" in alert.message
    assert codes(job(checkpoints=[checkpoint(1, 900)]), 2600) == []
    assert codes(job(checkpoints=[checkpoint(1, 900)]), 2701) == ["checkpoint-overdue"]
    assert codes(job(interval_seconds=0.0), 99_999) == [], "periodic checkpoints are off"
    assert codes(job(attempts=[attempt(ended_at=at(50), end="node lost")]), 99_999) == [], "nothing runs"


def test_checkpoints_that_fail() -> None:
    once = job(checkpoint_failures_in_a_row=1, checkpoint_failed_at=at(90), checkpoint_failure="a process is traced")
    assert codes(once) == []
    (alert,) = alerts(once.model_copy(update={"checkpoint_failures_in_a_row": 2}), at(100))
    assert (alert.code, alert.since) == ("checkpoints-failing", at(90)) and "a process is traced" in alert.message
    full = once.model_copy(update={"checkpoint_error": "JobRootFull", "checkpoint_failure": "only 3 MiB are free"})
    (alert,) = alerts(full, at(100))
    assert (alert.code, alert.level) == ("checkpoint-will-not-fit", "error") and "only 3 MiB" in alert.message
    assert codes(full.model_copy(update={"checkpoint_failures_in_a_row": 0})) == [], "one has succeeded since"


def test_a_job_that_runs_without_us() -> None:
    (alert,) = alerts(job(unprotected="The container on i-1 runs unprotected: Temporal was away."), at(99_999))
    assert alert.code == "unprotected" and alert.message == "The job is not protected: Temporal was away."


def test_a_volume_that_does_not_come() -> None:
    waits = attempt(started_at=None, batch_started_at=None)
    known = job(state=JobState.VOLUME_UNREADY, attempts=[waits], volume_id="vol-1")
    assert codes(known, 599) == [], "a sound start may take that long"
    assert codes(known, 601) == ["volume-waits"] and codes(known, 840) == ["start-timeout-near", "volume-waits"]
    again = attempt(started_at=None, epoch=2, accepted_at=at(550))
    before = waits.model_copy(update={"ended_at": at(550), "end": "replaced"})
    known = job(state=JobState.RESTORE_VOLUME_UNREADY, attempts=[before, again], retry=RetryStrategy(attempts=5))
    (alert,) = alerts(known, at(601))
    assert alert.code == "volume-waits" and alert.since == at(600), "the wait of the container before counts too"
    assert codes(job(state=JobState.RESTORE_VOLUME_UNREADY, attempts=[before]), 9999) == [], "Batch has started none"


def test_a_start_that_takes_too_long() -> None:
    waits = attempt(started_at=None, batch_started_at=None)
    restoring = job(state=JobState.RESTORING, attempts=[waits], retry=RetryStrategy(attempts=5))
    assert codes(restoring, 839) == [], "where perdure-install was run, ECS waits for 16 minutes"
    (alert,) = alerts(restoring, at(840))
    assert (alert.code, alert.level) == ("start-timeout-near", "warning") and "gives up in 2m, 16m" in alert.message
    assert alerts(restoring.model_copy(update={"retry": SPOT}), at(900))[0].level == "error"


def test_an_instance_that_goes() -> None:
    noticed = attempt(noticed_at=at(50), notice_deadline=at(170))
    (alert,) = alerts(job(attempts=[noticed]), at(60))
    assert (alert.code, alert.level, alert.since) == ("node-noticed", "warning", at(50)) and "12:02:50" in alert.message
    worse = job(attempts=[noticed], attempts_left=0)
    assert [(one.code, one.level) for one in alerts(worse, at(60))] == [
        ("node-noticed", "error"),
        ("last-attempt", "warning"),
    ]
    assert alerts(job(attempts=[noticed], state=JobState.CHECKPOINT_FAILED), at(60))[0].level == "error"
    safe = noticed.model_copy(update={"ended_at": at(55), "end": "handed over"})
    assert codes(job(attempts=[safe]), 60) == []
    assert codes(job(attempts=[noticed]), 170 + 601) == [], "it stayed after all"
    waits = noticed.model_copy(update={"started_at": None})
    assert codes(job(attempts=[waits]), 60) == [], "it has done nothing there that could be lost"


def rehearsal(number: int, verdict: RehearsalVerdict, reason: str = "", epoch: int = 1) -> Rehearsal:
    return Rehearsal(number=number, epoch=epoch, at=at(70), verdict=verdict, reason=reason)


def test_a_checkpoint_that_did_not_come_back_in_a_rehearsal_is_not_called_safe() -> None:
    bad = rehearsal(2, RehearsalVerdict.FAILED, "the file /ref has bad size")
    known = job(
        epoch=1, checkpoints=[checkpoint(1, 30), checkpoint(2, 60), checkpoint(3, 80)], rehearsal=bad, rehearsals=1
    )
    (alert,) = alerts(known, at(100))
    assert (alert.code, alert.level, alert.since) == ("rehearsal-failed", "error", at(70))
    assert "Checkpoint 2" in alert.message and "bad size" in alert.message
    now = reclaim_now(known, at(100))
    assert now is not None and (now.checkpoint, now.at_risk_seconds) == (1, 70.0), "what was taken before it counts"
    assert "did not come back in a rehearsal" in standing(known, at(100)) and "checkpoint 1" in standing(known, at(100))


@pytest.mark.parametrize(
    "newest",
    [
        rehearsal(2, RehearsalVerdict.PASSED),
        rehearsal(2, RehearsalVerdict.NOT_TRIED, "no memory is free"),
        rehearsal(2, RehearsalVerdict.FAILED, "of a container that is gone", epoch=0),
    ],
)
def test_other_rehearsals_are_no_alarm(newest: Rehearsal) -> None:
    known = job(epoch=1, checkpoints=[checkpoint(1, 30), checkpoint(2, 60)], rehearsal=newest)
    assert codes(known) == []
    now = reclaim_now(known, at(100))
    assert now is not None and now.checkpoint == 2


def test_checkpoints_that_cannot_be_restored() -> None:
    two = [checkpoint(1, 20), checkpoint(2, 40)]
    assert codes(job(checkpoints=two, quarantined=[1])) == []
    assert codes(job(checkpoints=two, quarantined=[2])) == ["newest-quarantined"]
    second = attempt(epoch=2, restore_failures=1, restored_from=1)
    (alert,) = alerts(job(checkpoints=two, attempts=[second]), at(100))
    assert alert.code == "restore-failed" and alert.message == "1 restore failed on i-1; it went on from checkpoint 1."
    assert codes(job(checkpoints=[*two, checkpoint(3, 90, epoch=2)], attempts=[second])) == [], "a good one since"


@given(
    state=st.sampled_from(JobState),
    seconds=st.floats(0, 1e9),
    timeout=st.none() | st.integers(0, 2**31 - 1),
    interval=st.none() | st.floats(0, 31_622_400),
    left=st.none() | st.integers(0, 10),
    started=st.none() | st.floats(-1e6, 1e6),
    row=st.integers(0, 3),
)
def test_any_job_can_be_judged(
    state: JobState,
    seconds: float,
    timeout: int | None,
    interval: float | None,
    left: int | None,
    started: float | None,
    row: int,
) -> None:
    begun = None if started is None else at(started)
    known = job(
        state=state,
        timeout_seconds=timeout,
        interval_seconds=interval,
        attempts_left=left,
        checkpoint_failures_in_a_row=row,
        attempts=[attempt(started_at=begun, batch_started_at=None, noticed_at=T0)],
    )
    found = alerts(known, at(seconds))
    assert found == sorted(found, key=worst_first) and all(one.message.endswith((".", " ")) or row for one in found)
    assert len({one.code for one in found}) == len(found)


def test_a_final_checkpoint_that_may_not_fit_into_a_notice() -> None:
    long = checkpoint(3, 90).model_copy(update={"phases": {"dump": 2.0, "writing": 200.0}})
    (alert,) = alerts(job(checkpoints=[long]), at(100))
    assert (alert.code, alert.level) == ("final-too-long", "warning")
    assert "shorter interval" in alert.message
    short = long.model_copy(update={"phases": {"dump": 2.0, "writing": 20.0}})
    assert alerts(job(checkpoints=[short]), at(100)) == []
