"""MMBatch's endpoints of metrics, for scripts that know them. Thin: `/report` says more, and how sure it is.

The ids are MMBatch's; the figures are counted as it counts them (domain.reports: naive), in seconds. What its answers
look like in full is published nowhere: the names of the fields are those of its samples.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlmodel import Session

from api.routes.reports import bucket_starts, covered
from api.serving.parameters import NAME
from api.serving.reading import reads
from api.wire.responses import Wire
from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.figures import Figures
from perdure.domain.rollups import LENGTH, Level
from perdure.domain.values import parse_duration
from perdure.records.costs import reports

router = APIRouter(tags=["mmbatch"])
TOTAL = "system-total"
_DEFINITIONS = {
    "jobSubmitted": ("count", "Jobs of which a container ran"),
    "runtime": ("seconds", "Complete - start, of every run"),
    "spotProtection": ("count", "Reclaims that a job survived"),
    "timeSaved": ("seconds", "Run time before each reclaim that a job survived, nothing subtracted"),
    "volumeAttachTime": ("seconds", "Average time to bring a job's volume to its next instance"),
}
_FIGURES = ("jobs", "run_ms", "protections", "naive_saved_ms", "volume_attaches", "volume_attach_ms")


class MetricDefinition(Wire):
    """One metric that `/metricValue` answers for."""

    id: str = Field(examples=["metricDef-runtime"])
    name: str = Field(examples=["runtime"])
    unit: str = Field(description="`count` or `seconds`.")
    description: str


class QueueSummary(Wire):
    """Sums of one queue, or of all."""

    queueName: str = Field(description="A job queue; `system-total`: all of them.", examples=[TOTAL])
    jobSubmitted: int
    runtime: float = Field(description="Seconds.")
    spotProtection: int
    timeSaved: float = Field(description="Seconds.")

    @classmethod
    def of(cls, name: str, figures: Figures) -> QueueSummary:
        """The product's four metrics of these sums."""
        return cls(
            queueName=name,
            jobSubmitted=figures.jobs,
            runtime=figures.run_ms / 1000,
            spotProtection=figures.protections,
            timeSaved=figures.naive_saved_ms / 1000,
        )


class MetricsSummary(Wire):
    """What the dashboard shows."""

    start: datetime | None
    end: datetime | None
    total: QueueSummary
    queues: list[QueueSummary]


class MetricValue(Wire):
    """The value of one interval."""

    timestamp: datetime = Field(description="When it begins.")
    value: float | None = Field(description="Null: an average of nothing.")


class MetricValues(Wire):
    """One metric over time."""

    object: str
    metricDef: str
    interval: str = Field(description="Of the values: `1m`, `1h` or `24h`, the longest not above the asked one.")
    unit: str
    values: list[MetricValue]


def _time(text: str | None, name: str) -> datetime | None:
    """ISO 8601, or seconds, milliseconds or nanoseconds since 1970, as scripts send them."""
    if not text:
        return None
    try:
        if text.isascii() and text.isdigit() and len(text) <= 20:
            number = int(text)
            for digits, unit in ((11, 1), (14, 1000), (20, 1_000_000_000)):
                if len(text) <= digits:
                    return datetime.fromtimestamp(number / unit, UTC)
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationInvalid(
            f"{name}: {text[:40]!r} is no time; write for example 2026-03-01T12:00:00Z, or seconds since 1970"
        ) from None


Moment = Annotated[
    str | None,
    Query(
        max_length=40,
        description="ISO 8601, or seconds (milliseconds, nanoseconds) since 1970.",
        examples=["1772366400"],
    ),
]


@router.get("/metrics/summary", summary="Sums of all queues and of each")
@reads
def summary(session: Session, start: Moment = None, end: Moment = None) -> MetricsSummary:
    cover = covered(_time(start, "start"), _time(end, "end"))
    return MetricsSummary(
        start=cover.start,
        end=cover.end,
        total=QueueSummary.of(TOTAL, reports.sum_span(session, cover)),
        queues=[QueueSummary.of(name, figures) for name, figures in reports.sum_queues(session, cover).items()],
    )


@router.get("/metric", summary="Metrics that /metricValue answers for")
def definitions() -> list[MetricDefinition]:
    return [
        MetricDefinition(id=f"metricDef-{name}", name=name, unit=unit, description=description)
        for name, (unit, description) in _DEFINITIONS.items()
    ]


@router.get("/metricValue/{object}/{metricDef}", summary="One metric over time")
@reads
def values(
    session: Session,
    object: Annotated[str, Path(pattern=NAME, description="`system-total`, or a job queue.", examples=[TOTAL])],
    metricDef: Annotated[str, Path(max_length=60, description="An id of `/metric`.", examples=["metricDef-runtime"])],
    interval: Annotated[
        str, Query(max_length=20, description="Go's spelling of a duration.", examples=["1m", "30m", "24h"])
    ] = "1h",
    start: Moment = None,
    end: Moment = None,
) -> MetricValues:
    """2,500 values at most; without `start`: the last 3 hours of minutes, 3 days of hours, 90 days of days. Minutes are
    kept for 7 days, hours for 90."""
    name = metricDef.removeprefix("metricDef-")
    if name not in _DEFINITIONS:
        known = ", ".join(f"metricDef-{known}" for known in _DEFINITIONS)
        raise ConfigurationInvalid(f"metricDef: {metricDef!r} is none of {known}")
    level, spelled = _level(interval)
    starts = bucket_starts(level, _time(start, "start"), _time(end, "end"))
    queue = None if object == TOTAL else object
    sums = reports.sum_buckets(session, level, starts[0], starts[-1] + LENGTH[level], queue, _FIGURES)
    return MetricValues(
        object=object,
        metricDef=f"metricDef-{name}",
        interval=spelled,
        unit=_DEFINITIONS[name][0],
        values=[MetricValue(timestamp=at, value=_value(name, sums.get(at, Figures()))) for at in starts],
    )


def _level(interval: str) -> tuple[Level, str]:
    try:
        seconds = parse_duration(interval)
    except ValueError as problem:
        raise ConfigurationInvalid(f"interval: {problem}") from None
    if seconds < 3600:
        return Level.MINUTE, "1m"
    return (Level.HOUR, "1h") if seconds < 86400 else (Level.DAY, "24h")


def _value(name: str, figures: Figures) -> float | None:
    if name == "volumeAttachTime":
        return figures.volume_attach_ms / 1000 / figures.volume_attaches if figures.volume_attaches else None
    return float(getattr(QueueSummary.of("", figures), name))
