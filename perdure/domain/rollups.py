"""Rollups: sums of the ledger by minute, hour, day and four weeks. Which span of time they can answer for, and how.

A bucket is named by the instant it begins (UTC). Fine levels are kept for a while only; what is older is known by the
hour, then by the day.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from perdure.domain.values import EPOCH, Frozen


class Level(StrEnum):
    """How long a bucket is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    FOUR_WEEKS = "four weeks"
    """Counted from 1970: of no meaning to people, but years are summed up out of few rows."""


LENGTH = {
    Level.MINUTE: timedelta(minutes=1),
    Level.HOUR: timedelta(hours=1),
    Level.DAY: timedelta(days=1),
    Level.FOUR_WEEKS: timedelta(days=28),
}
KEPT_DAYS: dict[Level, int | None] = {Level.MINUTE: 7, Level.HOUR: 90, Level.DAY: None, Level.FOUR_WEEKS: None}
"""Days that a level is kept; None: for ever. The reference product keeps 168 h of minutes, 2,160 h of half hours and
18,000 h of days."""
COARSE_FIRST = tuple(reversed(Level))


def bucket_start(level: Level, at: datetime) -> datetime:
    """The beginning of the bucket that `at` (with a time zone) lies in."""
    return EPOCH + (at - EPOCH) // LENGTH[level] * LENGTH[level]


def bucket_end(level: Level, at: datetime) -> datetime:
    """The earliest beginning of a bucket that is not before `at`."""
    start = bucket_start(level, at)
    return start if start == at else start + LENGTH[level]


def kept_since(level: Level, now: datetime) -> datetime | None:
    """The earliest bucket of a level that is kept at `now`: always a whole day's first; None: all of them."""
    days = KEPT_DAYS[level]
    return None if days is None else bucket_start(Level.DAY, now) - timedelta(days=days)


def finest_level(at: datetime, now: datetime) -> Level:
    """The finest level that is still kept at `now` of the day around `at`."""
    for level in reversed(COARSE_FIRST):
        since = kept_since(level, now)
        if since is None or at >= since:
            return level
    raise AssertionError("days are kept for ever")


class Stretch(Frozen):
    """Buckets of one level from `start` up to, but without, `end`; None: no bound."""

    level: Level
    start: datetime | None = None
    end: datetime | None = None


class Cover(Frozen):
    """What answers for a span: `stretches` that follow each other, together exactly from `start` up to `end`.

    These are the asked bounds, widened to the finest buckets that are kept there: to the minute in the last seven days,
    to the hour in the last ninety, to the day before. None: no bound.
    """

    start: datetime | None
    end: datetime | None
    stretches: list[Stretch]


def cover_span(start: datetime | None, end: datetime | None, now: datetime) -> Cover:
    """Cover a span by the fewest buckets: four weeks, and at its ends days, then hours, then minutes.

    Raises ValueError when the span ends before it begins.
    """
    if start is not None and end is not None and end < start:
        raise ValueError("the span ends before it begins")
    first = None if start is None else bucket_start(finest_level(start, now), start)
    last = None if end is None else bucket_end(finest_level(end, now), end)
    return Cover(start=first, end=last, stretches=_stretches(first, last, COARSE_FIRST))


def _stretches(start: datetime | None, end: datetime | None, levels: tuple[Level, ...]) -> list[Stretch]:
    if start is not None and end is not None and start >= end:
        return []
    level, *finer = levels
    inner_start = None if start is None else bucket_end(level, start)
    inner_end = None if end is None else bucket_start(level, end)
    rest = tuple(finer)
    if inner_start is not None and inner_end is not None and inner_start >= inner_end:
        return _stretches(start, end, rest)
    before = [] if start is None else _stretches(start, inner_start, rest)
    after = [] if end is None else _stretches(inner_end, end, rest)
    return [*before, Stretch(level=level, start=inner_start, end=inner_end), *after]
