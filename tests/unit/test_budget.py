"""The deadline budget: predicted from what the newest checkpoint took."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.budget import (
    NEIGHBOURS,
    NOTICE_SECONDS,
    WRITING,
    BudgetColour,
    adapted_interval,
    budget_of,
    predicted,
)
from perdure.domain.checkpoints import Checkpoint, CheckpointKind

SMALL = {"pause": 0.05, "dump": 0.5, "clone": 0.1, "assemble": 0.1, "sync": 0.2, "frozen": 0.7}


@pytest.mark.parametrize(
    ("phases", "colour", "advice"),
    [
        (SMALL, BudgetColour.GREEN, ""),
        (SMALL | {WRITING: 65.0}, BudgetColour.AMBER, "shorter interval"),
        (SMALL | {WRITING: 300.0}, BudgetColour.RED, "more throughput"),
        (SMALL | {"dump": 90.0}, BudgetColour.RED, "reading the job's memory"),
        (SMALL | {"dump": 60.0, "sync": 80.0}, BudgetColour.RED, "shorter interval"),
        (SMALL | {"upload": 20.0, NEIGHBOURS: 70.0}, BudgetColour.RED, "the instance's other jobs"),
    ],
)
def test_colour_and_advice_follow_from_what_was_measured(
    phases: dict[str, float], colour: BudgetColour, advice: str
) -> None:
    budget = budget_of(phases)
    assert budget is not None and budget.colour is colour and advice in budget.advice
    assert f"({colour})" in budget.sentence


def test_writing_runs_beside_reading_and_a_predump_is_no_part_of_it() -> None:
    one, other = budget_of(SMALL | {"dump": 9.0, WRITING: 8.0, "predump": 99.0}), budget_of(SMALL | {"dump": 9.0})
    assert one is not None and other is not None and one.seconds == other.seconds


def test_nothing_is_predicted_of_nothing() -> None:
    assert budget_of({}) is None and budget_of({"look": 1.0}) is None


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 100))
def test_more_of_anything_is_never_predicted_to_take_less(dump: float, writing: float, more: float) -> None:
    one, other = budget_of({"dump": dump, WRITING: writing}), budget_of({"dump": dump + more, WRITING: writing + more})
    assert one is not None and other is not None and one.seconds <= other.seconds
    order = list(BudgetColour)
    assert order.index(one.colour) <= order.index(other.colour)
    assert (other.colour is BudgetColour.RED) == (other.seconds > 0.8 * NOTICE_SECONDS)


def checkpoint(number: int, full: int, writing: float) -> Checkpoint:
    at = datetime(2026, 12, 1, tzinfo=UTC)
    return Checkpoint(
        number=number,
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        frozen_at=at,
        committed_at=at,
        full=full,
        phases=SMALL | {WRITING: writing},
    )


def test_a_full_checkpoint_does_not_say_what_a_final_one_would_write() -> None:
    full, shared = checkpoint(8, 8, 300.0), checkpoint(7, 1, 2.0)
    assert predicted([]) is None
    assert (one := predicted([shared, full])) is not None and one.colour is BudgetColour.GREEN
    assert (one := predicted([full])) is not None and one.colour is BudgetColour.RED, "nothing tells it better"
    assert (one := predicted([full, checkpoint(9, 8, 70.0)])) is not None and one.colour is BudgetColour.AMBER


@pytest.mark.parametrize(
    ("shortest", "phases", "interval"),
    [
        (0.0, SMALL | {WRITING: 300.0}, 900.0),  # never
        (60.0, SMALL, 900.0),  # green as it is
        (60.0, {}, 900.0),  # nothing is known
        (60.0, SMALL | {"dump": 200.0, WRITING: 10.0}, 900.0),  # it is the reading: a shorter one does not help
        (60.0, SMALL | {WRITING: 9000.0}, 60.0),
        (60.0, SMALL | {"upload": 40.0, NEIGHBOURS: 40.0}, 484.5),
    ],
)
def test_the_interval_is_shortened_where_that_helps(shortest: float, phases: dict[str, float], interval: float) -> None:
    assert adapted_interval(900.0, shortest, phases, 900.0) == pytest.approx(interval, rel=0.01)


@given(
    rate=st.floats(0, 2),
    configured=st.floats(2, 5000),
    shortest=st.floats(1, 5000),
    between=st.floats(1, 5000),
)
def test_at_the_adapted_interval_a_final_one_is_green_or_nothing_more_can_be_done(
    rate: float, configured: float, shortest: float, between: float
) -> None:
    def after(seconds: float) -> dict[str, float]:
        return SMALL | {WRITING: rate * seconds}

    found = adapted_interval(configured, shortest, after(between), between)
    assert min(shortest, configured) <= found <= configured
    if shortest < found < configured:
        budget = budget_of(after(found))
        assert budget is not None and budget.colour is BudgetColour.GREEN
