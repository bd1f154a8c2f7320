"""Reports by hand: each metric of one set of sums, and which buckets answer for a span."""

from __future__ import annotations

import inspect
import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.figures import Figures
from perdure.domain.reports import BY_NAME, METRICS, Unit
from perdure.domain.rollups import (
    KEPT_DAYS,
    LENGTH,
    Level,
    bucket_end,
    bucket_start,
    cover_span,
    finest_level,
    kept_since,
)

HOUR = 3_600_000
FIGURES = Figures(
    jobs=5,
    jobs_succeeded=2,
    jobs_failed=1,
    jobs_stopped=1,
    jobs_unprotected=2,
    protections=3,
    checkpoint_attempts=8,
    checkpoint_successes=6,
    restore_attempts=4,
    restore_successes=3,
    rehearsals=7,
    rehearsal_failures=2,
    cpu_ms=9 * HOUR,
    run_ms=3 * HOUR,
    batch_run_ms=3 * HOUR + 1,
    instance_micros=4_000_000,
    share_micros=1_000_001,
    on_demand_micros=12_000_000,
    redone_on_demand_micros=500_000,
    naive_saved_ms=2 * HOUR,
    naive_saved_cpu_ms=6 * HOUR,
    naive_saved_micros=2_000_000,
    saved_ms=HOUR + HOUR // 2,
    saved_cpu_ms=-HOUR,
    saved_micros=900_000,
    lost_ms=HOUR // 4,
    lost_micros=70_000,
    frozen_ms=7200,
    frozen_micros=11_000,
    volume_micros=100_000,
    snapshot_micros=20_000,
    store_micros=3_000,
    key_micros=400,
    wait_micros=50_000,
    unbilled_micros=123_456,
    estimated_micros=1_061_700,
    instance_estimated_micros=1_000_000,
    on_demand_estimated_micros=0,
    unpriced_ms=360_000,
)
BY_HAND: dict[str, tuple[float, float | None]] = {
    # name: (value, the naive one)
    "total_jobs": (5, None),
    "jobs_succeeded": (2, None),
    "jobs_failed": (1, None),
    "jobs_stopped": (1, None),
    "jobs_unprotected": (2, None),
    "rehearsals": (7, None),
    "rehearsal_failures": (2, None),
    "spot_protections": (3, None),
    "job_cpu_hours": (9.0, None),
    "run_time": (3.0, 10_800_001),
    "instance_cost": (1.000001, 4_000_000),
    "volume_cost": (0.1, None),
    "snapshot_cost": (0.02, None),
    "store_cost": (0.003, None),
    "key_cost": (0.0004, None),
    "total_cost": (1.123401, None),  # 1.000001 + 0.1 + 0.02 + 0.003 + 0.0004
    "unbilled": (0.123456, None),
    "spot_savings_cost": (0.9, 2_000_000),
    "spot_savings_cpu_hours": (-1.0, 6 * HOUR),
    "saved_time": (1.5, 2 * HOUR),
    "on_demand_savings_cost": (7.3766, 8_000_000),  # 12 - 0.5 - 4 - 0.1234; 12 - 4
    "net_savings": (0.7156, 2_000_000),  # 0.9 - 0.011 - 0.05 - 0.1234
    "lost_time": (0.25, None),
    "lost_cost": (0.07, None),
    "frozen_time": (0.002, None),
    "frozen_cost": (0.011, None),
    "wait_cost": (0.05, None),
    "unpriced_time": (0.1, None),
    "checkpoint_attempts": (8, None),
    "checkpoint_successes": (6, None),
    "checkpoint_failures": (2, None),
    "checkpoint_success_rate": (0.75, None),
    "restore_attempts": (4, None),
    "restore_successes": (3, None),
    "restore_failures": (1, None),
    "restore_success_rate": (0.75, None),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_every_metric_by_hand(name: str) -> None:
    metric, (value, naive) = BY_NAME[name], BY_HAND[name]
    assert metric.value(FIGURES) == value
    assert (metric.naive.exact(FIGURES) if metric.naive else None) == naive
    exact = metric.exact_value(FIGURES)
    per_unit = {Unit.COUNT: 1, Unit.HOURS: HOUR, Unit.DOLLARS: 1_000_000}
    assert exact is None if metric.unit is Unit.SHARE else exact == round(value * per_unit[metric.unit])


def test_every_metric_says_what_it_is() -> None:
    assert len(BY_NAME) == len(METRICS) == len(BY_HAND)
    for metric in METRICS:
        assert metric.formula.endswith(".") and metric.source and metric.title
        assert not metric.naive or metric.naive.formula.endswith(".")
        assert (metric.estimated is not None) == (metric.unit is Unit.DOLLARS), metric.name
        assert (metric.whole is not None) == (metric.unit is Unit.SHARE), metric.name


def test_the_seven_of_the_dashboard_bear_its_names() -> None:
    assert {
        "Total Jobs",
        "Spot Protections",
        "Total Job CPU Hours",
        "Total EC2 Instance Cost",
        "EC2 Spot Savings - Instance Cost Saved",
        "EC2 Spot Savings - Job CPU Hours Saved",
        "EC2 On-demand Savings - Instance Cost Saved",
    } <= {metric.title for metric in METRICS}


def test_every_figure_is_reported_or_said_not_to_be() -> None:
    source = inspect.getsource(inspect.getmodule(METRICS[0].exact))  # type: ignore[arg-type]
    elsewhere = {"volume_attaches", "volume_attach_ms"}  # MMBatch's metricDef-volumeAttachTime
    assert {name for name in Figures.model_fields if f".{name}" not in source} == elsewhere


def test_nothing_gives_zeros_and_no_rates() -> None:
    for metric in METRICS:
        assert metric.value(Figures()) == (None if metric.unit is Unit.SHARE else 0)
        assert metric.estimated_share(Figures()) in (None, 0.0)


def test_which_figures_a_metric_is_made_of() -> None:
    assert BY_NAME["total_jobs"].figures == {"jobs"}
    assert BY_NAME["run_time"].figures == {"run_ms", "batch_run_ms"}
    assert BY_NAME["restore_success_rate"].figures == {"restore_attempts", "restore_successes"}
    assert {"saved_micros", "key_micros", "wait_micros", "naive_saved_micros"} < BY_NAME["net_savings"].figures
    for metric in METRICS:
        alone = Figures(**{name: getattr(FIGURES, name) for name in metric.figures})
        assert metric.value(alone) == metric.value(FIGURES), metric.name


def test_how_much_is_estimated() -> None:
    shares = {name: metric.estimated_share(FIGURES) for name, metric in BY_NAME.items()}
    assert shares["instance_cost"] == shares["spot_savings_cost"] == 0.25  # 1.0 of 4.0 dollars
    assert shares["volume_cost"] == 0.5  # 0.0617 of 0.1234
    assert shares["total_cost"] == round(1.0617 / 4.1234, 6)
    assert shares["on_demand_savings_cost"] == round(1.0617 / 16.1234, 6)
    assert shares["total_jobs"] is None and shares["saved_time"] is None
    listed = FIGURES + Figures(on_demand_estimated_micros=12_000_000)
    assert BY_NAME["on_demand_savings_cost"].estimated_share(listed) == round(13.0617 / 16.1234, 6)


# Spans of time

NOW = datetime(2026, 6, 30, 15, 42, 7, tzinfo=UTC)
DAY = timedelta(days=1)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2026, 7, 2)).map(lambda at: at.replace(tzinfo=UTC))


def test_buckets() -> None:
    at = datetime(2026, 3, 1, 1, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert bucket_start(Level.MINUTE, at) == datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    assert bucket_start(Level.HOUR, at) == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert bucket_start(Level.DAY, at) == datetime(2026, 2, 28, tzinfo=UTC)
    assert bucket_end(Level.DAY, at) == datetime(2026, 3, 1, tzinfo=UTC)
    assert bucket_end(Level.DAY, datetime(2026, 3, 1, tzinfo=UTC)) == datetime(2026, 3, 1, tzinfo=UTC)


def test_what_is_kept() -> None:
    assert KEPT_DAYS == {Level.MINUTE: 7, Level.HOUR: 90, Level.DAY: None, Level.FOUR_WEEKS: None}
    assert kept_since(Level.MINUTE, NOW) == datetime(2026, 6, 23, tzinfo=UTC)
    assert kept_since(Level.DAY, NOW) is None
    assert finest_level(datetime(2026, 6, 23, tzinfo=UTC), NOW) is Level.MINUTE
    assert finest_level(datetime(2026, 6, 22, 23, 59, tzinfo=UTC), NOW) is Level.HOUR
    assert finest_level(datetime(2026, 3, 31, 23, tzinfo=UTC), NOW) is Level.DAY


def test_whole_days_in_the_middle_hours_and_minutes_at_the_ends() -> None:
    start, end = datetime(2026, 6, 24, 22, 58, tzinfo=UTC), datetime(2026, 6, 27, 1, 1, tzinfo=UTC)
    cover = cover_span(start, end, NOW)
    assert (cover.start, cover.end) == (start, end)
    assert [(each.level, each.start, each.end) for each in cover.stretches] == [
        (Level.MINUTE, start, datetime(2026, 6, 24, 23, tzinfo=UTC)),
        (Level.HOUR, datetime(2026, 6, 24, 23, tzinfo=UTC), datetime(2026, 6, 25, tzinfo=UTC)),
        (Level.DAY, datetime(2026, 6, 25, tzinfo=UTC), datetime(2026, 6, 27, tzinfo=UTC)),
        (Level.HOUR, datetime(2026, 6, 27, tzinfo=UTC), datetime(2026, 6, 27, 1, tzinfo=UTC)),
        (Level.MINUTE, datetime(2026, 6, 27, 1, tzinfo=UTC), end),
    ]


def test_a_span_without_bounds_is_the_coarsest_level_alone() -> None:
    cover = cover_span(None, None, NOW)
    assert [(each.level, each.start, each.end) for each in cover.stretches] == [(Level.FOUR_WEEKS, None, None)]


def test_bounds_are_widened_to_what_is_kept() -> None:
    ragged = timedelta(minutes=20, seconds=3)
    cover = cover_span(datetime(2026, 3, 1, 5, tzinfo=UTC) + ragged, datetime(2026, 5, 1, 5, tzinfo=UTC) + ragged, NOW)
    assert (cover.start, cover.end) == (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 5, 1, 6, tzinfo=UTC))
    recent = cover_span(NOW - ragged, NOW, NOW)
    assert (recent.start, recent.end) == (datetime(2026, 6, 30, 15, 22, tzinfo=UTC), NOW.replace(minute=43, second=0))


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before"):
        cover_span(NOW, NOW - DAY, NOW)


@given(start=st.none() | MOMENTS, end=st.none() | MOMENTS)
def test_a_cover_leaves_no_gap_and_asks_for_nothing_that_is_gone(start: datetime | None, end: datetime | None) -> None:
    if start is not None and end is not None and end < start:
        start, end = end, start
    cover = cover_span(start, end, NOW)
    bounds = [(each.start, each.end) for each in cover.stretches]
    if not bounds:
        assert cover.start == cover.end
        return
    assert (bounds[0][0], bounds[-1][1]) == (cover.start, cover.end)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert start is None or (cover.start is not None and timedelta(0) <= start - cover.start < DAY)
    assert end is None or (cover.end is not None and timedelta(0) <= cover.end - end < DAY)
    for each in cover.stretches:
        since = kept_since(each.level, NOW)
        assert since is None or (each.start is not None and each.start >= since)
        for bound in (each.start, each.end):
            assert bound is None or bucket_start(each.level, bound) == bound
        assert each.start is None or each.end is None or each.end - each.start >= LENGTH[each.level]
