"""The deadline budget: predicted from what the newest checkpoint took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.budget import NOTICE_SECONDS, WRITING, BudgetColour, budget_of

SMALL = {"pause": 0.05, "dump": 0.5, "clone": 0.1, "assemble": 0.1, "sync": 0.2, "frozen": 0.7}


@pytest.mark.parametrize(
    ("phases", "colour", "advice"),
    [
        (SMALL, BudgetColour.GREEN, ""),
        (SMALL | {WRITING: 65.0}, BudgetColour.AMBER, "shorter interval"),
        (SMALL | {WRITING: 300.0}, BudgetColour.RED, "more throughput"),
        (SMALL | {"dump": 90.0}, BudgetColour.RED, "reading the job's memory"),
        (SMALL | {"dump": 60.0, "sync": 80.0}, BudgetColour.RED, "shorter interval"),
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
