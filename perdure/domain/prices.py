"""Prices: what an instance, a volume or a snapshot cost between two instants, exactly, and what of it is an estimate.

Money is in whole micro-dollars (1,000,000 = 1 USD). **The rounding rule:** the exact cost since 1970 is rounded down at
both ends of a span, and the span costs the difference. So the costs of slices add up to the cost of the whole, always,
a longer span never costs less, and no span is off by a micro-dollar or more. All arithmetic is on whole numbers.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from perdure.domain.price_table import ON_DEMAND, STORAGE, TABLE_DATE, TABLE_REGION, TYPICAL_SPOT_PERCENT
from perdure.domain.values import EPOCH, Frozen, microseconds

ONE = Fraction(1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
_HOUR = 3_600_000_000
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")

FROM_TABLE = f"the price table of {TABLE_DATE}"
FROM_AWS = "AWS"


class PricePoint(Frozen):
    """A price that holds from `at` (UTC) until the next point: DescribeSpotPriceHistory lists changes only."""

    at: datetime
    micros_per_hour: int


class SpotPoints(Frozen):
    """What AWS said of one (instance type, zone): its price points, and until when it was asked (UTC).

    After `known_until` the last price is assumed to hold on, and what rests on that is an estimate.
    """

    points: list[PricePoint]
    known_until: datetime


class Cost(Frozen):
    """What a span costs. `estimated_micros` is the part of `micros` that rests on an estimate; `unpriced_ms` is the
    time that has no price at all: it costs something, but nobody here knows how much."""

    micros: int = 0
    estimated_micros: int = 0
    unpriced_ms: int = 0


class Rate(Frozen):
    """A price per GiB-month or per so many requests, and where it comes from."""

    micros: int
    estimated: bool
    source: str


def milliseconds(start: datetime, end: datetime) -> int:
    """From `start` to `end`, both rounded down so that slices add up; 0 when the end comes first."""
    return max(0, microseconds(end) // 1000 - microseconds(start) // 1000)


def slices(
    start: datetime, end: datetime, length: timedelta, first: datetime | None = None
) -> Iterator[tuple[datetime, datetime]]:
    """The span cut at whole hours or days of UTC, from the cut `first` on; nothing when it is empty."""
    start = max(start, first) if first else start
    midnight = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while start < end:
        cut = midnight + ((start - midnight) // length + 1) * length
        yield start, min(cut, end)
        start = cut


def region_of(zone: str) -> str:
    """The region of an availability or local zone: us-east-1a → us-east-1; "" for a name of another shape."""
    found = _REGION.match(zone)
    return found[0] if found else ""


class PriceHistory:
    """The hourly price of one thing as a step function of time. Immutable."""

    def __init__(
        self,
        points: Iterable[PricePoint],
        *,
        known_from: datetime | None = None,
        known_until: datetime | None = None,
        source: str = FROM_AWS,
    ) -> None:
        """`points` in any order; of two at the same instant the later given counts. Without points nothing is priced.

        The first price is taken to hold before its point too. What lies before `known_from` (default: the first point)
        or after `known_until` (default: never) rests on an estimate.
        """
        steps = sorted({point.at: point.micros_per_hour for point in points}.items())
        self.source = source
        self._starts = [microseconds(at) for at, _ in steps]
        self._prices = [price for _, price in steps]
        self._known_from = microseconds(known_from) if known_from else (self._starts[0] if steps else 0)
        self._known_until = microseconds(known_until) if known_until else None
        self._sums = [self._prices[0] * self._starts[0]] if steps else []
        for index in range(1, len(steps)):
            passed = self._starts[index] - self._starts[index - 1]
            self._sums.append(self._sums[-1] + passed * self._prices[index - 1])

    @classmethod
    def constant(cls, micros_per_hour: int, *, estimated: bool, source: str) -> PriceHistory:
        """One price for all time."""
        points = [PricePoint(at=EPOCH, micros_per_hour=micros_per_hour)]
        return cls(points, known_until=EPOCH if estimated else None, source=source)

    @property
    def known(self) -> bool:
        """There is a price at all."""
        return bool(self._prices)

    def at(self, instant: datetime) -> int | None:
        """Micro-dollars per hour at that instant; None: not known."""
        if not self._prices:
            return None
        return self._prices[max(0, bisect_right(self._starts, microseconds(instant)) - 1)]

    def cost(self, start: datetime, end: datetime, share: Fraction = ONE) -> Cost:
        """What `share` of it cost from `start` to `end` (nothing when the end comes first). The module's rounding."""
        if end <= start:
            return Cost()
        if not self._prices:
            return Cost(unpriced_ms=milliseconds(start, end))
        micros = estimated = 0
        for first, last, known in self._spans(microseconds(start), microseconds(end)):
            part = self._rounded(last, share) - self._rounded(first, share)
            micros += part
            estimated += 0 if known else part
        return Cost(micros=micros, estimated_micros=estimated)

    def _spans(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The span, cut where knowledge begins and ends."""
        until = end if self._known_until is None else max(self._known_until, self._known_from)
        cuts = [start, *(cut for cut in sorted({self._known_from, until}) if start < cut < end), end]
        for first, last in pairwise(cuts):
            yield first, last, self._known_from <= first and last <= until

    def _rounded(self, instant: int, share: Fraction) -> int:
        """Micro-dollars from 1970 to that instant, rounded down."""
        index = max(0, bisect_right(self._starts, instant) - 1)
        exact = self._sums[index] + (instant - self._starts[index]) * self._prices[index]
        return exact * share.numerator // (_HOUR * share.denominator)


class Prices:
    """Every price that is known: AWS's where it was asked, else the table that we ship, else none."""

    def __init__(
        self,
        spot: Mapping[tuple[str, str], SpotPoints] | None = None,
        on_demand: Mapping[tuple[str, str], int] | None = None,
        storage: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        """`spot` by (instance type, zone); `on_demand` by (instance type, region), micro-dollars per hour; `storage` by
        (kind, region), micro-dollars a month: of a GiB of a volume type, `snapshot` or `s3`, of an operation a second
        (`gp3-iops`), of a MiB/s (`gp3-throughput`); or of so many requests (`s3-1000-writes`, `s3-1000-reads`,
        `kms-10000-requests`)."""
        self._spot = dict(spot or {})
        self._on_demand = dict(on_demand or {})
        self._storage = dict(storage or {})
        self._histories: dict[tuple[str, str, str], PriceHistory] = {}

    def spot(self, instance_type: str, zone: str) -> PriceHistory:
        """AWS's price history, else the typical part of the on-demand price (estimated), else without a price."""
        key = ("spot", instance_type, zone)
        if key not in self._histories:
            self._histories[key] = self._spot_history(instance_type, zone)
        return self._histories[key]

    def _spot_history(self, instance_type: str, zone: str) -> PriceHistory:
        seen = self._spot.get((instance_type, zone))
        if seen is not None and seen.points:
            return PriceHistory(seen.points, known_until=seen.known_until)
        on_demand = self.on_demand(instance_type, region_of(zone))
        price = on_demand.at(EPOCH)
        if price is None:
            return on_demand
        source = f"{TYPICAL_SPOT_PERCENT} % of the on-demand price ({on_demand.source})"
        return PriceHistory.constant(price * TYPICAL_SPOT_PERCENT // 100, estimated=True, source=source)

    def on_demand(self, instance_type: str, region: str) -> PriceHistory:
        """AWS's list price, taken to hold at all times, else the table's (estimated), else without a price."""
        key = ("on-demand", instance_type, region)
        if key not in self._histories:
            listed, shipped = self._on_demand.get((instance_type, region)), None
            if listed is None and region == TABLE_REGION:
                shipped = ON_DEMAND.get(instance_type)
            if listed is not None:
                history = PriceHistory.constant(listed, estimated=False, source=FROM_AWS)
            elif shipped is not None:
                history = PriceHistory.constant(shipped, estimated=True, source=FROM_TABLE)
            else:
                history = PriceHistory([], source="no price is known")
            self._histories[key] = history
        return self._histories[key]

    def storage(self, kind: str, region: str) -> Rate | None:
        """The price of one of that kind, for a month or for its requests: AWS's, else the table's, else None."""
        listed = self._storage.get((kind, region))
        if listed is not None:
            return Rate(micros=listed, estimated=False, source=FROM_AWS)
        shipped = STORAGE.get(kind) if region == TABLE_REGION else None
        return None if shipped is None else Rate(micros=shipped, estimated=True, source=FROM_TABLE)


def storage_micros(rate: Rate, size_gib: int | Fraction, start: datetime, end: datetime) -> int:
    """What `size_gib` (1 of a rate for a whole volume) cost from `start` to `end`: by the second, a month being as long
    as the calendar's (AWS's EBS pricing page: price x GB x seconds / seconds of the month). The module's rounding."""
    if end <= start:
        return 0
    full = rate.micros * size_gib
    return int(full * _months(end) // 1) - int(full * _months(start) // 1)


def _months(instant: datetime) -> Fraction:
    """Calendar months (UTC) since the year 0, the running one by its part that has passed."""
    instant = instant.astimezone(UTC)
    begin = instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (begin + timedelta(days=32)).replace(day=1)
    return (
        instant.year * 12 + instant.month + Fraction((instant - begin) // _MICROSECOND, (end - begin) // _MICROSECOND)
    )
