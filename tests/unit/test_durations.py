"""Durations as people, Go programs and the reference product's scripts write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.values import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", 900),
        ("1h30m", 5400),
        ("90s", 90),
        ("500ms", 0.5),
        ("1h0m0s", 3600),
        ("0", 0),
        ("0s", 0),
        ("2.5s", 2.5),
        ("120000000000", 120),
        (" 5s ", 5),
    ],
)
def test_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-5m", "banana", "5", "5 m", "m", "1h-3m", "∞", "9999999h", "1e5s", "5m\n;rm"])
def test_refuses_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|no unit|longer than a year"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=30_000_000))
def test_written_durations_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(float(seconds))) == seconds


@given(st.text(max_size=300))
def test_any_text_gives_seconds_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError as problem:
        assert len(str(problem)) < 250
