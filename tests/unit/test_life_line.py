"""A job's life as one line, its standing in a sentence, and what a reclaim would do to it now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.life_line import LifeLine, StretchKind, life_line
from perdure.domain.retries import HandOver, RetryStrategy
from perdure.domain.standing import reclaim_now, standing

TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return TEN + timedelta(seconds=seconds)


def attempt(epoch: int, accepted: float, **changes: object) -> Attempt:
    made = Attempt(
        epoch=epoch,
        attempt=epoch,
        instance_id=f"i-{epoch}",
        zone="us-east-1a",
        container_id="c" * 64,
        accepted_at=at(accepted),
    )
    return made.model_copy(update=changes)


def checkpoint(
    number: int, frozen: float, epoch: int = 1, kind: CheckpointKind = CheckpointKind.PERIODIC
) -> Checkpoint:
    return Checkpoint(
        number=number,
        kind=kind,
        epoch=epoch,
        frozen_at=at(frozen),
        committed_at=at(frozen + 6),
        image_bytes=1,
        phases={"pause": 0.5, "frozen": 2.0},
    )


def job(*attempts: Attempt, **changes: object) -> Job:
    made = Job(
        job_id="j", created_at=TEN, state=JobState.RUNNING, retry=RetryStrategy(attempts=3), attempts=list(attempts)
    )
    return made.model_copy(update=changes)


def told(line: LifeLine) -> list[tuple[str, int, float, float | None]]:
    """Kind, epoch, begin and end in seconds since ten o'clock."""
    return [
        (
            one.kind,
            one.epoch,
            (one.started_at - TEN).total_seconds(),
            (one.ended_at - TEN).total_seconds() if one.ended_at else None,
        )
        for one in line.stretches
    ]


WITH_NOTICE = Outage(
    epoch=1,
    kind="notice",
    started_at=at(100),
    ended_at=at(150),
    seconds=50,
    phases={"frozen": 0.5, "dumped": 5.5, "detached": 4, "waited": 30, "attached": 8, "restored": 2},
    restored_from=2,
    work_lost_seconds=0,
)


def test_a_reclaim_with_notice() -> None:
    first = attempt(1, 0, started_at=at(3), ended_at=at(110), end="handed over", noticed_at=at(99))
    second = attempt(2, 140, started_at=at(150), restored_from=2)
    taken = [checkpoint(1, 50), checkpoint(2, 100, kind=CheckpointKind.FINAL)]
    line = life_line(job(first, second, outages=[WITH_NOTICE]), taken, at(200))
    assert told(line) == [
        ("start", 1, 0, 3),
        ("run", 1, 3, 100),
        ("freeze", 1, 100, 100.5),
        ("dump", 1, 100.5, 106),
        ("hand-over", 1, 106, 110),
        ("wait", 2, 110, 140),
        ("volume", 2, 140, 148),
        ("restore", 2, 148, 150),
        ("run", 2, 150, None),
    ]
    assert [(one.kind, one.number, one.stood_seconds) for one in line.marks] == [
        ("periodic", 1, 2.0),
        ("notice", None, None),
        ("final", 2, 2.0),
    ]


def test_a_reclaim_without_notice_loses_what_came_after_the_checkpoint() -> None:
    lost = Outage(
        epoch=1,
        kind="no notice",
        started_at=at(100),
        ended_at=at(140),
        seconds=40,
        phases={"detached": 5, "waited": 20, "attached": 10, "restored": 5},
        restored_from=1,
        work_lost_seconds=48,
    )
    first = attempt(1, 0, started_at=at(3), ended_at=at(121), end="node lost")
    second = attempt(2, 120, started_at=at(140), restored_from=1, ended_at=at(200), end="exited")
    line = life_line(
        job(first, second, outages=[lost], state=JobState.SUCCEEDED, finished_at=at(201)), [checkpoint(1, 50)], at(999)
    )
    assert told(line) == [
        ("start", 1, 0, 3),
        ("run", 1, 3, 50),
        ("lost", 1, 50, 100),
        ("wait", 2, 100, 120),
        ("hand-over", 2, 120, 125),
        ("volume", 2, 125, 135),
        ("restore", 2, 135, 140),
        ("run", 2, 140, 200),
    ]


def test_a_clean_start_after_a_reclaim_loses_everything() -> None:
    lost = Outage(
        epoch=1,
        kind="no notice",
        started_at=at(60),
        ended_at=at(90),
        seconds=30,
        phases={"waited": 20, "started clean": 10},
        work_lost_seconds=57,
    )
    first, second = attempt(1, 0, started_at=at(3)), attempt(2, 80, started_at=at(90))
    line = life_line(job(first, second, outages=[lost]), [], at(100))
    assert told(line)[1:] == [("lost", 1, 3, 60), ("wait", 2, 60, 80), ("start", 2, 80, 90), ("run", 2, 90, None)]
    assert "run" not in {kind for kind, epoch, *_ in told(line) if epoch == 1}


@pytest.mark.parametrize("state, kind", [(JobState.RESTORE_VOLUME_UNREADY, "volume"), (JobState.RESTORING, "restore")])
def test_an_outage_that_goes_on(state: JobState, kind: str) -> None:
    outage = Outage(epoch=1, kind="notice", started_at=at(100))
    first = attempt(1, 0, started_at=at(3), ended_at=at(110), end="handed over")
    final = checkpoint(1, 100, kind=CheckpointKind.FINAL)
    waiting = life_line(job(first, outages=[outage]), [final], at(120))
    assert told(waiting)[-2:] == [("hand-over", 1, 106, 110), ("wait", 1, 110, None)]
    coming = life_line(job(first, attempt(2, 130), outages=[outage], state=state), [final], at(135))
    assert told(coming)[-2:] == [("wait", 2, 110, 130), (kind, 2, 130, None)]


def test_its_own_failure_waits_for_batch_and_starts_clean() -> None:
    first = attempt(1, 0, started_at=at(3), ended_at=at(50), end="exited")
    line = life_line(job(first, attempt(2, 70, started_at=at(72))), [], at(80))
    assert told(line) == [
        ("start", 1, 0, 3),
        ("run", 1, 3, 50),
        ("wait", 2, 50, 70),
        ("start", 2, 70, 72),
        ("run", 2, 72, None),
    ]


def test_nothing_has_happened_yet() -> None:
    assert life_line(job(), [], TEN) == LifeLine(stretches=[], marks=[])
    assert told(life_line(job(attempt(1, 0)), [], at(9))) == [("start", 1, 0, None)]


PHASES = st.dictionaries(
    st.sampled_from(["frozen", "dumped", "detached", "waited", "attached", "restored"]), st.floats(0, 1000)
)


@given(st.lists(st.tuples(PHASES, st.sampled_from(["notice", "no notice"]), st.floats(0, 500)), max_size=6))
@example([({"frozen": 0.0, "dumped": 0.0, "detached": 6.3e-07, "waited": 6.3e-07}, "notice", 0.0)])
def test_it_never_does_two_things_at_once_and_nothing_goes_backwards(
    outages: list[tuple[dict[str, float], str, float]],
) -> None:
    attempts, known, clock = [attempt(1, 0, started_at=at(1))], [], 1.0
    for number, (phases, kind, lost) in enumerate(outages, start=1):
        clock += 600
        length = sum(phases.values())
        known.append(
            Outage(
                epoch=number,
                kind=kind,
                started_at=at(clock),
                ended_at=at(clock + length),
                phases=phases,
                work_lost_seconds=lost if kind == "no notice" else 0,
            )
        )
        clock += length
        attempts.append(attempt(number + 1, clock, started_at=at(clock)))
    line = life_line(job(*attempts, outages=known), [], at(clock + 60))
    assert line.stretches[-1].ended_at is None and line.stretches[-1].kind is StretchKind.RUN
    for one, following in pairwise(line.stretches):
        assert one.ended_at is not None and one.started_at < one.ended_at
        assert (following.started_at - one.ended_at).total_seconds() == pytest.approx(0, abs=1e-4)


def test_standing_says_what_goes_on() -> None:
    runs = attempt(1, 0, started_at=at(3))
    assert standing(job(), TEN) == "It waits for AWS Batch to start its first container."
    assert standing(job(attempt(1, 0)), at(5)) == "It starts on i-1 in us-east-1a, since 5 s."
    assert "has run 1 min 57 s on i-1 in us-east-1a. It has no checkpoint yet." in standing(job(runs), at(120))
    saved = job(runs, checkpoints=[checkpoint(4, 60)])
    assert standing(saved, at(120)).endswith("Its newest checkpoint, 4, is 1 min old.")
    assert "has run 2 h 3 min on" in standing(job(runs), at(3 + 2 * 3600 + 185))
    assert "has run 2 d 18 h on" in standing(job(runs), at(3 + 66 * 3600 + 1521))
    assert "It is not protected: no retry." in standing(job(runs, unprotected="no retry."), at(120))
    clean = standing(job(runs.model_copy(update={"restore_failures": 2})), at(120))
    assert "on i-1 in us-east-1a, where it started clean: no checkpoint could be restored. It has no" in clean
    noticed = attempt(1, 0, started_at=at(3), noticed_at=at(60), notice_deadline=at(180))
    assert standing(job(noticed, state=JobState.CHECKPOINTING), at(120)) == (
        "AWS takes i-1 in us-east-1a back in 1 min: it is being saved."
    )
    gone = attempt(1, 0, started_at=at(3), ended_at=at(100), end="handed over")
    assert standing(job(gone, checkpoints=[checkpoint(4, 60)]), at(120)) == (
        "It has waited 20 s for another instance; it goes on from checkpoint 4 there."
    )
    back = job(gone, attempt(2, 110), checkpoints=[checkpoint(4, 60)], state=JobState.RESTORING)
    assert standing(back, at(120)) == "It is being restored from checkpoint 4 on i-2 in us-east-1a, since 10 s."
    held = job(gone, attempt(2, 110, noticed_at=at(115)), checkpoints=[checkpoint(4, 60)])
    assert standing(held, at(120)) == "AWS takes i-2 in us-east-1a back before the job has started there."
    volume = back.model_copy(update={"state": JobState.RESTORE_VOLUME_UNREADY})
    assert standing(volume, at(120)) == "It has waited 10 s for its volume on i-2 in us-east-1a."


def test_standing_says_how_it_ended() -> None:
    ended = attempt(1, 0, started_at=at(3), ended_at=at(100), end="exited")
    over = {"finished_at": at(101), "exit_code": 7}
    assert (
        standing(job(ended, state=JobState.FAILED, **over), at(999)) == "It failed with exit code 7 in attempt 1 of 3."
    )
    stopped = job(ended, state=JobState.STOPPED, **over)
    assert standing(stopped, at(999)) == "It was stopped by somebody after 1 min 40 s."
    survived = job(ended, state=JobState.SUCCEEDED, protections=1, outages=[WITH_NOTICE], **over)
    assert standing(survived, at(999)) == (
        "It succeeded after 1 min 40 s. It survived 1 reclaim, stood still 50 s for that and lost no work."
    )
    kept = attempt(1, 0, started_at=at(3), ended_at=at(100), end="handed over")
    last = job(kept, state=JobState.FAILED, hand_over=HandOver.KEEP_ONLY, **over)
    assert standing(last, at(999)).startswith("It failed with exit code 7"), "it ran on, and ended by itself"


def test_what_a_reclaim_would_do_now() -> None:
    runs = attempt(2, 200, started_at=at(210), restored_from=1)
    assert reclaim_now(job(), TEN) is None
    assert reclaim_now(job(runs, state=JobState.SUCCEEDED), at(999)) is None
    unsaved = reclaim_now(job(runs), at(310))
    assert unsaved is not None and (unsaved.checkpoint, unsaved.at_risk_seconds, unsaved.final_seconds) == (
        None,
        100,
        None,
    )
    restored = reclaim_now(job(runs, checkpoints=[checkpoint(1, 90)]), at(310))
    assert restored is not None and (restored.checkpoint, restored.at_risk_seconds, restored.final_seconds) == (
        1,
        100,
        6,
    )
    saved = job(runs, checkpoints=[checkpoint(1, 90), checkpoint(2, 300, epoch=2), checkpoint(3, 305, epoch=2)])
    newest = reclaim_now(saved.model_copy(update={"quarantined": [3]}), at(310))
    assert newest is not None and (newest.checkpoint, newest.at_risk_seconds) == (2, 10)
