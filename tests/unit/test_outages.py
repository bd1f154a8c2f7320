"""Outages: phases without gaps, and work that was done twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Outage
from perdure.domain.outages import PHASES, Milestones, outage_phases, work_lost_seconds

T0 = datetime(2026, 3, 1, tzinfo=UTC)
SECONDS = st.floats(0, 1e5).map(lambda value: round(value, 3))


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def final(committed: float, pause: float = 0.5) -> Checkpoint:
    return Checkpoint(
        number=1,
        kind=CheckpointKind.FINAL,
        epoch=1,
        frozen_at=T0,
        committed_at=at(committed),
        phases={"pause": pause},
    )


def test_a_handed_over_job() -> None:
    known = Milestones(final=final(10), available_at=at(15), accepted_at=at(40), ready_at=at(43))
    assert outage_phases(T0, at(50), known) == {
        "frozen": 0.5,
        "dumped": 9.5,
        "detached": 5.0,
        "waited": 25.0,
        "attached": 3.0,
        "restored": 7.0,
    }


def test_a_node_lost_without_notice() -> None:
    known = Milestones(accepted_at=at(60), ready_at=at(90), detach_seconds=20, checked_seconds=2)
    assert outage_phases(T0, at(95), known) == {
        "detached": 20.0,
        "waited": 60.0,
        "attached": 10.0,
        "checked": 2.0,
        "restored": 3.0,
    }


def test_a_container_that_came_while_the_volume_was_still_let_go_of() -> None:
    known = Milestones(final=final(10), available_at=at(30), accepted_at=at(20), ready_at=at(35))
    phases = outage_phases(T0, at(40), known)
    assert phases["waited"] == 0 and phases["attached"] == 5 and sum(phases.values()) == 40


instants = st.none() | SECONDS.map(at)


@given(
    ended=SECONDS,
    committed=SECONDS,
    pause=st.floats(0, 10),
    available=instants,
    accepted=instants,
    ready=instants,
    checked=st.floats(0, 600),
    with_final=st.booleans(),
)
def test_phases_are_in_order_and_never_negative(
    ended: float,
    committed: float,
    pause: float,
    available: datetime | None,
    accepted: datetime | None,
    ready: datetime | None,
    checked: float,
    with_final: bool,
) -> None:
    known = Milestones(
        final=final(committed, pause) if with_final else None,
        available_at=available,
        accepted_at=accepted,
        ready_at=ready,
        checked_seconds=checked,
    )
    phases = outage_phases(T0, at(ended), known)
    assert list(phases) == [name for name in PHASES if name in phases]
    assert all(seconds >= 0 for seconds in phases.values())
    marks = [mark for mark in (available, accepted, ready, at(ended)) if mark is not None]
    latest = max([*marks, at(committed)] if with_final else marks)
    assert sum(phases.values()) == pytest.approx((latest - T0).total_seconds(), abs=0.01)


def outage(start: float, end: float | None) -> Outage:
    return Outage(
        epoch=1,
        kind="notice",
        started_at=at(start),
        ended_at=None if end is None else at(end),
        seconds=None if end is None else end - start,
    )


@pytest.mark.parametrize(
    ("outages", "lost"),
    [
        ([], 100.0),
        ([outage(10, 40)], 70.0),
        ([outage(10, 40), outage(50, 60)], 60.0),
        ([outage(-50, -10)], 100.0),
        ([outage(10, None)], 100.0),
        ([outage(-50, 400)], 100.0),
    ],
)
def test_time_that_the_job_stood_still_was_no_work(outages: list[Outage], lost: float) -> None:
    assert work_lost_seconds(at(100), at(0), outages) == lost


def test_clocks_that_disagree_lose_no_negative_work() -> None:
    assert work_lost_seconds(at(0), at(5), []) == 0
