"""Reports: what jobs cost and what protecting them saved, as totals, by queue, over time, and line by line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import StringConstraints
from sqlmodel import Session

from api.dependencies import Cursor, JobId, Limit
from api.serving.csv import DESCRIBED, csv_response
from api.serving.errors import described
from api.serving.parameters import NAME, Time, time
from api.serving.reading import reads
from api.wire.report_responses import (
    AmountView,
    KeptView,
    LedgerEntryView,
    MetricView,
    PointView,
    QueueView,
    ReportView,
    SeriesView,
    SpanView,
    TrendsView,
    TrendView,
    UnprotectedView,
    remark,
)
from api.wire.responses import PageOf
from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.figures import Figures
from perdure.domain.reports import BY_NAME, METRICS, Metric, Unit
from perdure.domain.rollups import KEPT_DAYS, LENGTH, Cover, Level, bucket_end, bucket_start, cover_span, kept_since
from perdure.domain.unprotected import UnprotectedCount
from perdure.records.costs import reports

router = APIRouter(tags=["reports"])
MOST_POINTS = 2500
MOST_TRENDS = 12
_USUAL = {Level.MINUTE: timedelta(hours=3), Level.HOUR: timedelta(days=3), Level.DAY: timedelta(days=90)}
"""How far a series goes back that does not say."""
UNKNOWN_QUEUE = "(not known yet)"

Shown = Literal[Level.MINUTE, Level.HOUR, Level.DAY]
Start = Annotated[Time, time("Count from this instant on")]
End = Annotated[Time, time("Count up to, but without, this instant")]
QueueName = Annotated[str | None, Query(pattern=NAME, description="Only jobs of this job queue.", examples=["spot"])]
SPAN = (
    "Bounds between two buckets that are kept are widened to whole ones: to the minute in the last 7 days, to the hour "
    "in the last 90, to the day before. The answer's `span` says what was counted. What goes on for long (runs, "
    "instances) is booked hour by hour, volumes day by day, each in the minute in which its part of that hour or day "
    "begins: spans shorter than that show it in lumps."
)


def covered(start: datetime | None, end: datetime | None) -> Cover:
    """What answers for a span. Raises ConfigurationInvalid when it ends before it begins, or is out of the calendar."""
    try:
        return cover_span(start, end, datetime.now(UTC))
    except (ValueError, OverflowError) as problem:
        raise ConfigurationInvalid(f"start, end: {problem}; give a start before the end") from None


@router.get("/report", summary="Totals of costs, savings and checkpoints", description=SPAN)
@reads
def report(
    session: Session,
    start: Start = None,
    end: End = None,
    queue: QueueName = None,
    job: Annotated[str | None, Query(max_length=128, description="Only this job, over its whole life.")] = None,
    detail: Annotated[
        bool, Query(description="Engineering mode: every sum behind the metrics, and each queue.")
    ] = False,
) -> ReportView:
    if job is not None:
        if start or end or queue:
            raise ConfigurationInvalid("job: one job's report has no start, end or queue; leave them out")
        figures = reports.sum_job(session, job)
        span = SpanView(start=None, end=None, queue=None, job_id=job, widened=False)
        return _report(span, figures, reports.unprotected_reason(session, job), detail, None)
    cover = covered(start, end)
    figures = reports.sum_span(session, cover, queue)
    widened = (cover.start, cover.end) != (start, end)
    span = SpanView(start=cover.start, end=cover.end, queue=queue, job_id=None, widened=widened)
    queues = _queues(session, cover, queue) if detail else None
    unprotected = reports.unprotected_reasons(session, cover.start, cover.end, queue)
    return _report(span, figures, unprotected, detail, queues)


def _report(
    span: SpanView,
    figures: Figures,
    unprotected: list[UnprotectedCount],
    detail: bool,
    queues: list[QueueView] | None,
) -> ReportView:
    return ReportView(
        span=span,
        metrics=[MetricView.of(metric, figures) for metric in METRICS],
        unprotected=[UnprotectedView(**one.model_dump()) for one in unprotected],
        remark=remark(figures),
        figures=figures.model_dump() if detail else None,
        queues=queues,
    )


def _queues(session: Session, cover: Cover, only: str | None = None) -> list[QueueView]:
    sums, running = reports.sum_queues(session, cover), reports.running_by_queue(session)
    names = sorted({*sums, *running}) if only is None else [only]
    return [QueueView.of(name, sums.get(name, Figures()), running.get(name, 0)) for name in names]


@router.get("/queues", summary="Job queues with what they submitted, cost and saved", description=SPAN)
@reads
def queues(session: Session, start: Start = None, end: End = None) -> list[QueueView]:
    return _queues(session, covered(start, end))


@router.get(
    "/jobs/{job_id}/ledger",
    summary="What a job cost and saved, line by line, oldest first",
    responses=described(HTTPStatus.NOT_FOUND),
)
@reads
def job_ledger(session: Session, job_id: JobId, limit: Limit = 100, cursor: Cursor = None) -> PageOf[LedgerEntryView]:
    """A line's `detail` holds all that its figures were worked out of. Lines of the running job grow with it."""
    page = reports.list_ledger(session, job_id, limit=limit, after=cursor)
    return PageOf(items=[LedgerEntryView.of(entry) for entry in page.items], next=page.next)


@router.get("/report/series", summary="One metric over time")
@reads
def series(
    session: Session,
    metric: Annotated[str, Query(max_length=60, description="A metric's name, as in `/report`.")] = "spot_protections",
    level: Annotated[Shown, Query(description="How long a bucket is.")] = Level.HOUR,
    start: Start = None,
    end: End = None,
    queue: QueueName = None,
) -> SeriesView:
    """One point per bucket, 2,500 at most. Without `start`: the last 3 hours of minutes, 3 days of hours, 90 days of
    days. Points begin where the level is still kept."""
    if metric not in BY_NAME:
        raise ConfigurationInvalid(f"metric: {metric!r} is none; the metrics are {', '.join(BY_NAME)}")
    wanted, starts = BY_NAME[metric], bucket_starts(level, start, end)
    first, last = starts[0], starts[-1] + LENGTH[level]
    sums = reports.sum_buckets(session, level, first, last, queue, wanted.figures)
    return SeriesView(
        metric=metric,
        title=wanted.title,
        unit=wanted.unit,
        exact_unit=MetricView.of(wanted, Figures()).exact_unit,
        formula=wanted.formula,
        level=level,
        queue=queue,
        start=first,
        end=last,
        kept=[KeptView(level=each, days=KEPT_DAYS[each]) for each in _USUAL],
        points=[PointView(at=at, **dict(AmountView.of(wanted, sums.get(at, Figures())))) for at in starts],
    )


@router.get("/report/trends", summary="Several metrics over time, in one answer")
@reads
def trends(
    session: Session,
    metric: Annotated[
        list[Annotated[str, StringConstraints(max_length=60)]],
        Query(min_length=1, max_length=MOST_TRENDS, description="Metrics' names, as in `/report`; repeatable."),
    ],
    level: Annotated[Shown, Query(description="How long a bucket is.")] = Level.HOUR,
    start: Start = None,
    end: End = None,
    queue: QueueName = None,
) -> TrendsView:
    """The same buckets as `/report/series`: what a page of charts needs, by one walk through the sums."""
    unknown = [name for name in metric if name not in BY_NAME]
    if unknown:
        raise ConfigurationInvalid(f"metric: {unknown[0]!r} is none; the metrics are {', '.join(BY_NAME)}")
    wanted, starts = [BY_NAME[name] for name in metric], bucket_starts(level, start, end)
    names = frozenset().union(*(one.figures for one in wanted))
    last = starts[-1] + LENGTH[level]
    sums = reports.sum_buckets(session, level, starts[0], last, queue, names)
    figures = [sums.get(at, Figures()) for at in starts]
    return TrendsView(level=level, queue=queue, at=starts, end=last, trends=[_trend(one, figures) for one in wanted])


def _trend(metric: Metric, figures: list[Figures]) -> TrendView:
    amounts = [AmountView.of(metric, each) for each in figures]
    naive = [one.naive_value for one in amounts if one.naive_value is not None]
    return TrendView(
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        formula=metric.formula,
        values=[one.value for one in amounts],
        naive_values=naive or None,
    )


def bucket_starts(level: Level, start: datetime | None, end: datetime | None) -> list[datetime]:
    """When each bucket of a series begins: at least one. Raises ConfigurationInvalid: too many, or none."""
    now = datetime.now(UTC)
    try:
        last = bucket_end(level, min(end or now, now))
        first = bucket_start(level, start or last - _USUAL[level])
    except OverflowError:
        raise ConfigurationInvalid("start, end: a time is out of the calendar") from None
    since = kept_since(level, now)
    first = max(first, since) if since else first
    points = (last - first) // LENGTH[level]
    if points > MOST_POINTS:
        raise ConfigurationInvalid(
            f"start, end, level: that is {points:,} points and {MOST_POINTS:,} are allowed; ask for a shorter span or "
            "a coarser level"
        )
    if points < 1:
        raise ConfigurationInvalid(
            "start, end, level: that is no point at all; give a start before the end, in the past, and not before "
            f"{since:%Y-%m-%dT%H:%MZ}, from which on this level is kept"
            if since
            else "start, end: that is no point at all; give a start before the end, in the past"
        )
    return [first + number * LENGTH[level] for number in range(points)]


@router.get("/report.csv", summary="The report as a table: a line per queue, and all together", responses=DESCRIBED)
@reads
def report_csv(session: Session, start: Start = None, end: End = None) -> StreamingResponse:
    """Dollars to the micro-dollar, hours to the millisecond; `_naive`: as the reference product counts it. `start` and
    `end` are the span that was counted (`end`: without that instant); its days are in the file's name."""
    cover, now = covered(start, end), datetime.now(UTC).replace(microsecond=0)
    span = (cover.start, cover.end or now)
    columns = ["queue", *(name for metric in METRICS for name, _ in _cells(metric, Figures())), "start", "end"]
    sums = reports.sum_queues(session, cover)
    lines = [(name or UNKNOWN_QUEUE, figures) for name, figures in sums.items()]
    lines.append(("(all queues)", reports.sum_span(session, cover)))
    rows = [[name, *(value for one in METRICS for _, value in _cells(one, figures)), *span] for name, figures in lines]
    days = "-to-".join(f"{at:%Y-%m-%d}" for at in span if at)
    return csv_response(f"perdure-report-{days}.csv", columns, rows)


def _cells(metric: Metric, figures: Figures) -> Iterator[tuple[str, Decimal | float | None]]:
    suffix = {Unit.DOLLARS: "_usd", Unit.HOURS: "_hours"}.get(metric.unit, "")
    name = metric.name.removesuffix("_time").removesuffix("_hours") + suffix
    yield name, _number(metric.exact_value(figures), metric.unit, metric.value(figures))
    if metric.naive:
        yield f"{name}_naive", _number(metric.naive.exact(figures), metric.unit, None)


def _number(exact: int | None, unit: Unit, share: float | None) -> Decimal | float | None:
    match unit:
        case Unit.DOLLARS:
            return Decimal(exact or 0).scaleb(-6)
        case Unit.HOURS:
            return (Decimal(exact or 0) / 3_600_000).quantize(Decimal("1e-9"))
        case Unit.COUNT:
            return exact
    return share
