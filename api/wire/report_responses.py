"""The wire: what answers about costs and savings look like. Filled from perdure.domain.reports."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from api.wire.responses import Wire
from perdure.domain.figures import Figures
from perdure.domain.ledger import LedgerEntry
from perdure.domain.reports import EXACT_UNITS, METRICS, Group, Metric, Unit, shown
from perdure.domain.rollups import Level


class NaiveView(Wire):
    """The same as the reference product counts it, for comparison."""

    value: int | float = Field(description="In the metric's unit.", examples=[1.92])
    exact: int = Field(description="The same in `exact_unit`.", examples=[1920000])
    formula: str = Field(description="How it is counted, in words.")


class AmountView(Wire):
    """One figure, without its explanation."""

    value: int | float | None = Field(
        description="Dollars, hours, a count, or a share from 0 to 1; null: a share of nothing.", examples=[1.337281]
    )
    exact: int | None = Field(
        description="Micro-dollars, milliseconds or a count; null for a share.", examples=[1337281]
    )
    naive_value: int | float | None = Field(
        description="As the reference product counts it; null: alike, or not at all."
    )
    naive_exact: int | None = Field(description="The same in micro-dollars, milliseconds or as a count.")

    @classmethod
    def of(cls, metric: Metric, figures: Figures) -> AmountView:
        """A metric of these sums."""
        naive = metric.naive.exact(figures) if metric.naive else None
        return cls(
            value=metric.value(figures),
            exact=metric.exact_value(figures),
            naive_value=None if naive is None else shown(naive, metric.unit),
            naive_exact=naive,
        )


class MetricView(Wire):
    """One figure of a report, with all that is needed to check it."""

    name: str = Field(description="Short and stable, for programs.", examples=["spot_savings_cost"])
    title: str = Field(examples=["EC2 Spot Savings - Instance Cost Saved"])
    group: Group = Field(description="What it is shown with.")
    unit: Unit = Field(description="Of `value`.")
    value: int | float | None = Field(
        description="What we hold to be true: dollars, hours, a count, or a share from 0 to 1; null: a share of "
        "nothing.",
        examples=[1.337281],
    )
    exact: int | None = Field(description="The same in `exact_unit`; null for a share.", examples=[1337281])
    exact_unit: str = Field(description="`micro-dollars`, `milliseconds` or `count`.", examples=["micro-dollars"])
    formula: str = Field(description="How it is counted, in words.")
    source: str = Field(description="Who defines the metric.")
    estimated_share: float | None = Field(
        description="How much of the money behind it rests on prices that are estimated: 0 none, 1 all; null: no "
        "price is behind it.",
        examples=[0.0],
    )
    naive: NaiveView | None = Field(
        description="The figure of the same name as the reference product counts it, where that differs."
    )

    @classmethod
    def of(cls, metric: Metric, figures: Figures) -> MetricView:
        """A metric of these sums."""
        naive = metric.naive
        return cls(
            name=metric.name,
            title=metric.title,
            group=metric.group,
            unit=metric.unit,
            value=metric.value(figures),
            exact=metric.exact_value(figures),
            exact_unit=EXACT_UNITS[metric.unit],
            formula=metric.formula,
            source=metric.source,
            estimated_share=metric.estimated_share(figures),
            naive=naive
            and NaiveView(
                value=shown(naive.exact(figures), metric.unit), exact=naive.exact(figures), formula=naive.formula
            ),
        )


class SpanView(Wire):
    """What a report counts."""

    start: datetime | None = Field(description="From this instant on; null: from the beginning.")
    end: datetime | None = Field(description="Up to, but without, this instant; null: up to now.")
    queue: str | None = Field(description="One job queue; null: all.")
    job_id: str | None = Field(description="One job; null: all.")
    widened: bool = Field(
        description="The asked bounds lay between two buckets that are kept, and the span was widened to whole ones."
    )


class QueueView(Wire):
    """One job queue."""

    queue: str = Field(description="Its name; empty: jobs whose queue is not known yet.", examples=["spot"])
    jobs_submitted: int = Field(description="Jobs that counted in the span.")
    jobs_running: int = Field(description="Jobs that are not finished now, whatever the span.")
    metrics: dict[str, AmountView] = Field(description="Every metric of `/report`, by its name.")

    @classmethod
    def of(cls, queue: str, figures: Figures, running: int) -> QueueView:
        """A queue of these sums."""
        metrics = {metric.name: AmountView.of(metric, figures) for metric in METRICS}
        return cls(queue=queue, jobs_submitted=figures.jobs, jobs_running=running, metrics=metrics)


class UnprotectedView(Wire):
    """Jobs that run, or ran to their end, without protection, for one reason."""

    reason: str = Field(
        description="What these jobs share; ids and numbers of their own are left out.",
        examples=["checkpoints are turned off"],
    )
    jobs: int = Field(description="How many.", examples=[3])
    running: int = Field(description="How many of them are not finished.", examples=[1])
    job_ids: list[str] = Field(description="At most five of them: those that run first, then the newest.")


class ReportView(Wire):
    """Totals of a span of time, or of one job."""

    span: SpanView
    metrics: list[MetricView]
    unprotected: list[UnprotectedView] = Field(
        description="Jobs without protection by reason, the commonest first: of the span's jobs whose records are "
        "still kept. The metric `jobs_unprotected` counts the others as well.",
    )
    remark: str = Field(description="How sure the dollars are, in a sentence.")
    figures: dict[str, int] | None = Field(
        None,
        description="With `detail`: every sum that the metrics are made of, in micro-dollars, milliseconds, counts.",
    )
    queues: list[QueueView] | None = Field(None, description="With `detail`: the same metrics for each queue.")


def remark(figures: Figures) -> str:
    """How sure a report's dollars are."""
    costs = figures.instance_micros + figures.volume_micros + figures.snapshot_micros
    costs += figures.store_micros + figures.key_micros
    unknown = figures.unpriced_ms / 3_600_000
    more = f" For {unknown:.3g} hours no price is known: they count as 0 dollars." if unknown else ""
    if not figures.estimated_micros:
        return f"All costs rest on prices that AWS named.{more}" if costs else f"Nothing cost anything.{more}"
    share = 100 * figures.estimated_micros / costs if costs else 100
    return (
        f"{share:.3g} % of the costs rest on estimated prices: AWS was not asked, did not answer, or was asked before "
        f"the time in question.{more}"
    )


class LedgerEntryView(Wire):
    """One line of a job's ledger. Lines add up: a report is their sum."""

    key: str = Field(description="Its identity within the job.", examples=["instance/1/2026-03-01T12"])
    kind: str = Field(description="What it counts.", examples=["instance"])
    at: datetime = Field(description="The instant that says in which minute, hour and day it counts.")
    estimated: bool = Field(description="Whether it rests on an estimated price.")
    figures: dict[str, int] = Field(
        description="What it adds, without zeros: micro-dollars (`…_micros`), milliseconds (`…_ms`), counts.",
        examples=[{"instance_micros": 38400, "share_micros": 19200}],
    )
    detail: dict[str, str | float | int | None] = Field(description="How it was worked out: prices, seconds, formula.")

    @classmethod
    def of(cls, entry: LedgerEntry) -> LedgerEntryView:
        """A line as it is stored."""
        figures = {name: value for name, value in entry.figures.model_dump().items() if value}
        return cls(**entry.model_dump(exclude={"job_id", "figures"}), figures=figures)


class PointView(AmountView):
    """One bucket of a series."""

    at: AwareDatetime = Field(description="When the bucket begins.")


class KeptView(Wire):
    """How long buckets of a level are kept."""

    level: Level
    days: int | None = Field(description="Null: for ever.")


class SeriesView(Wire):
    """One metric over time, a point per bucket; buckets in which nothing happened are 0."""

    metric: str
    title: str
    unit: Unit
    exact_unit: str
    formula: str
    level: Level
    queue: str | None
    start: datetime = Field(description="Of the first bucket.")
    end: datetime = Field(description="The end of the last bucket.")
    kept: list[KeptView] = Field(description="How long each level is kept; what is older is known by the next one.")
    points: list[PointView]


class TrendView(Wire):
    """One metric of several over time."""

    metric: str
    title: str
    unit: Unit
    formula: str
    values: list[int | float | None] = Field(
        description="In the metric's unit, one per bucket; null: a share of nothing."
    )
    naive_values: list[int | float] | None = Field(
        description="As the reference product counts it; null: alike, or not at all."
    )


class TrendsView(Wire):
    """Several metrics over time, in the same buckets."""

    level: Level
    queue: str | None
    at: list[AwareDatetime] = Field(description="When each bucket begins.")
    end: datetime = Field(description="The end of the last bucket.")
    trends: list[TrendView] = Field(description="As asked for.")
