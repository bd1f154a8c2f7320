"""The base of every value that crosses a process boundary, and the one way durations and instants become numbers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable; fields that a newer sender added are ignored, so that old and new processes understand each other."""

    model_config = ConfigDict(frozen=True, extra="ignore")


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(instant: datetime) -> int:
    """Since 1970 UTC. A naive datetime is a TypeError."""
    return (instant - EPOCH) // _MICROSECOND


def instant_of(microseconds: int) -> datetime:
    """The instant so many microseconds after 1970, UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LONGEST = 366 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds of a duration written as Go writes them (`15m`, `1h30m`, `90s`, `500ms`), as `0`, or as an integer of
    nanoseconds (the reference product's scripts send those).

    Raises ValueError with a sentence naming what is allowed, for negative, unreadable or absurd (> 366 days) values.
    """
    value = text.strip()
    if re.fullmatch(r"\d{1,18}", value):
        number = int(value)
        if number != 0 and number < 1_000_000:
            raise ValueError(f"{_shown(text)} has no unit; write for example 15m, 90s or 1h30m")
        seconds = number / 1e9
    else:
        parts = _PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ValueError(f"{_shown(text)} is not a duration; write for example 15m, 90s, 1h30m, or 0 for off")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _LONGEST:
        raise ValueError(f"{_shown(text)} is longer than a year")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest Go-style spelling: 900 → `15m`, 5400 → `1h30m`, 2.5 → `2.5s`, 0 → `0`."""
    if seconds == 0:
        return "0"
    whole = int(seconds)
    if whole != seconds or whole < 60:
        return f"{seconds:g}s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if n)


def _shown(text: str) -> str:
    """Untrusted text, safe in a message: short, printable, quoted."""
    return repr(text[:40] + ("…" if len(text) > 40 else ""))
