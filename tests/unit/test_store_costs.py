"""What a store costs: AWS's own examples, one job by hand, then laws that hold for any uses."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.prices import Prices, Rate
from perdure.domain.store_costs import StoreUse, request_micros, store_entries

GIB = 1 << 30
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def use(at: datetime, name: str = "", **fields: Any) -> StoreUse:
    return StoreUse(use_id=name or at.isoformat(), at=at, **{"region": "us-east-1"} | fields)


def told_by_aws(*, per_gib: int = 23_000, region: str = "us-east-1") -> Prices:
    kinds = {"s3": per_gib, "s3-1000-writes": 5_000, "s3-1000-reads": 400, "kms-10000-requests": 30_000}
    return Prices(storage={(kind, region): micros for kind, micros in kinds.items()})


def total(lines: Iterable[LedgerEntry]) -> Figures:
    return sum((line.figures for line in lines), Figures())


def test_storage_is_the_example_of_the_s3_faq() -> None:
    """S3 FAQ, "How will I be charged and billed": 100 GB for 15 days in March and 100 TB for the final 16 are
    52,900 GB-Months. At a dollar each, that is what it costs; by the hour, off by less than a micro-dollar each."""
    uses = [use(MARCH, held_bytes=107_374_182_400), use(MARCH + 15 * DAY, held_bytes=109_951_162_777_600)]
    lines = [*store_entries("j", uses, told_by_aws(per_gib=1_000_000), APRIL)]
    assert len(lines) == 744
    assert abs(total(lines).store_micros - 52_900 * 1_000_000) <= 744
    assert sum(float(line.detail["gib_hours"] or 0) for line in lines) == 52_900 * 744


def test_requests_are_the_example_of_the_s3_faq() -> None:
    """The same page: 10,000 PUT and 20,000 GET a day in March are $1.55 and $0.25; deletions are free."""
    uses = [use(MARCH + day * DAY, writes=10_000, reads=20_000) for day in range(31)]
    found = total(store_entries("j", uses, told_by_aws(), APRIL))
    assert found.store_micros == 1_550_000 + 248_000, "AWS rounds the second to $0.25"


def test_requests_to_kms_cost_what_its_pricing_page_says() -> None:
    """$0.03 for 10,000 requests."""
    rate = Rate(micros=30_000, estimated=False, source="AWS")
    assert [request_micros(rate, count, 10_000) for count in (0, 1, 10_000, 2_000_000)] == [0, 3, 30_000, 6_000_000]
    assert request_micros(None, 10_000, 10_000) == 0


def test_a_job_by_hand() -> None:
    """Two checkpoints, an hour and a half, the end. November has 720 hours."""
    uses = [
        use(NOON + timedelta(minutes=30), writes=120, reads=30, key_requests=100, held_bytes=GIB),
        use(NOON + timedelta(minutes=45), writes=20, reads=2, key_requests=11),
        use(NOON + timedelta(minutes=90), writes=60, reads=11, held_bytes=3 * GIB),
        use(NOON + timedelta(minutes=120), writes=3, held_bytes=0),
    ]
    noon, one, two = store_entries("j", uses, told_by_aws(), NOON + DAY)
    assert (noon.key, noon.at) == ("store/2026-11-02T12", NOON + timedelta(minutes=30))
    # 30 min x 1 GiB x 0.023 / 720 h = 16 micro-dollars; 140 writes at 5, 32 reads at 0.4
    assert abs(noon.figures.store_micros - (Fraction(23_000, 720) / 2 + 700 + Fraction(128, 10))) < 2
    assert noon.figures.key_micros == 333, "111 requests at 3 micro-dollars"
    # 30 min x 1 GiB and 30 min x 3 GiB
    assert abs(one.figures.store_micros - (Fraction(23_000, 720) * 2 + 300 + Fraction(44, 10))) < 3
    assert (two.figures.store_micros, two.detail["gib_hours"]) == (15, 0)
    assert noon.detail["usd_per_1000_writes"] == "0.005" and noon.detail["usd_per_gib_month"] == "0.023"
    assert not any(line.estimated or line.figures.estimated_micros for line in (noon, one, two))


def test_without_aws_the_shipped_table_answers_as_an_estimate() -> None:
    uses = [use(NOON, writes=1000, reads=1000, key_requests=1000, held_bytes=100 * GIB)]
    (line,) = store_entries("j", uses, Prices(), NOON + HOUR)
    found = line.figures
    assert line.estimated and found.estimated_micros == found.store_micros + found.key_micros > 0
    assert "price table" in str(line.detail["source"])


@pytest.mark.parametrize("where", [{"store": "directory", "region": ""}, {"region": "mars-north-1"}])
def test_what_has_no_price_is_said_and_is_not_nothing(where: dict[str, str]) -> None:
    uses = [use(NOON, held_bytes=GIB, **where), use(NOON + HOUR / 2, held_bytes=0, **where)]
    (line,) = store_entries("j", uses, told_by_aws(), NOON + DAY)
    assert line.figures == Figures(unpriced_ms=1_800_000) and line.estimated
    assert (line.detail["source"], line.detail["store"]) == ("no price is known", where.get("store", "s3"))
    (asked,) = store_entries("j", [use(NOON, reads=1, region="mars-north-1")], Prices(), NOON + DAY)
    assert asked.estimated and asked.detail["reads"] == 1


USES = st.lists(
    st.builds(
        lambda at, writes, reads, keys, held, name: use(
            NOON + timedelta(milliseconds=at), name, writes=writes, reads=reads, key_requests=keys, held_bytes=held
        ),
        st.integers(0, 9 * 3_600_000),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.none() | st.integers(0, 10**13),
        st.uuids().map(str),
    ),
    max_size=8,
)
WHEN = st.integers(0, 12 * 3_600_000).map(lambda at: NOON + timedelta(milliseconds=at))


@settings(max_examples=60, deadline=None)
@given(USES, WHEN, WHEN, st.randoms())
def test_a_later_look_costs_no_less_and_order_does_not_matter(
    uses: list[StoreUse], first: datetime, second: datetime, random: Any
) -> None:
    looks = sorted((first, second))
    before, after = ([*store_entries("j", uses, told_by_aws(), at)] for at in looks)
    for name in ("store_micros", "key_micros"):
        assert getattr(total(after), name) >= getattr(total(before), name) >= 0
    assert [*store_entries("j", random.sample(uses, len(uses)), told_by_aws(), looks[1])] == after
    assert len({line.key for line in after}) == len(after) and all(line.at <= looks[1] for line in after)
    assert all(line.key == f"store/{line.at:%Y-%m-%dT%H}" for line in after)


@settings(max_examples=60, deadline=None)
@given(USES, WHEN, st.integers(0, 12))
def test_the_lines_from_an_hour_on_are_those_of_the_whole(uses: list[StoreUse], until: datetime, hours: int) -> None:
    hour = NOON + hours * HOUR
    whole = [*store_entries("j", uses, told_by_aws(), until)]
    before = [one for one in uses if one.at < hour and one.held_bytes is not None]
    newest = sorted(before, key=lambda one: (one.at, one.use_id))[-1:]
    some = [*newest, *(one for one in uses if one.at >= hour)]
    found = [*store_entries("j", some, told_by_aws(), until, hour)]
    assert found == [line for line in whole if line.at >= hour]


@settings(max_examples=60, deadline=None)
@given(USES, WHEN)
def test_what_is_held_costs_its_exact_price_but_for_each_spans_rounding(uses: list[StoreUse], until: datetime) -> None:
    free = [one.model_copy(update={"writes": 0, "reads": 0, "key_requests": 0}) for one in uses]
    lines = [*store_entries("j", free, told_by_aws(), until)]
    told = sorted((x.at, x.use_id, x.held_bytes) for x in uses if x.held_bytes is not None and x.at <= until)
    ends = [*(at for at, _, _ in told[1:]), until]
    seconds = [((end - at) / timedelta(seconds=1), held) for (at, _, held), end in zip(told, ends, strict=False)]
    exact = sum((Fraction(str(round(length, 3))) * held / GIB for length, held in seconds), Fraction(0))
    exact *= Fraction(23_000, 720 * 3600)
    assert abs(total(lines).store_micros - exact) <= len(told) + len(lines)
