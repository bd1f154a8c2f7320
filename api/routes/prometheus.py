"""`/metrics`: how everything stands, and what has been counted so far, for Prometheus. Worked out of the records;
Temporal alone knows which control workers there are.

A viewer's route like any other: give Prometheus an API token (`authorization: credentials_file`) bound to nothing.
`deploy/prometheus` has rules over these names, `deploy/grafana` a dashboard; a test holds both against a scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlmodel import Session

import perdure
from api.dependencies import Workflows
from api.serving.reading import reads
from perdure.domain.errors import TemporalUnavailable
from perdure.domain.figures import Figures
from perdure.domain.rollups import cover_span
from perdure.records.costs.reports import sum_queues
from perdure.records.nodes.gauges import Gauges, count

root = APIRouter(include_in_schema=False)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 900, 3600, 14_400)
_COUNTERS = {
    "jobs": "Jobs of which a container ran",
    "protections": "Reclaims that a job survived",
    "checkpoint_attempts": "Checkpoints that were tried",
    "checkpoint_successes": "Checkpoints that were committed",
    "restore_attempts": "Restores that were tried",
    "restore_successes": "Restores after which the job went on",
    "rehearsals": "Checkpoints that were restored beside their running jobs, on trial",
    "rehearsal_failures": "Rehearsals after which the job would not have come back",
}
_MONEY_AND_TIME = {
    "saved": ("saved_ms", 1000, "saved_seconds", "Work that protection preserved, what it cost subtracted"),
    "lost": ("lost_ms", 1000, "lost_seconds", "Work after a checkpoint that was done again"),
    "frozen": ("frozen_ms", 1000, "frozen_seconds", "Time that jobs stood still for checkpoints no reclaim called for"),
    "saved money": ("saved_micros", 1_000_000, "saved_dollars", "The same as saved_seconds, in US dollars"),
}


async def _control_workers(workflows: Workflows) -> int | None:
    """None: Temporal does not answer, and the metric is absent."""
    try:
        return await workflows.control_workers()
    except TemporalUnavailable:
        return None


@root.get("/metrics")
@reads
def metrics(session: Session, control_workers: Annotated[int | None, Depends(_control_workers)]) -> Response:
    now = datetime.now(UTC)
    registry = CollectorRegistry()
    sums = sum_queues(session, cover_span(None, None, now))
    registry.register(_Records(count(session, now), sums, control_workers))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Records(Collector):
    """One scrape's answer."""

    def __init__(self, gauges: Gauges, sums: dict[str, Figures], control_workers: int | None) -> None:
        self._gauges, self._sums, self._control_workers = gauges, sums, control_workers

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        known = self._gauges
        yield _gauge("build", "The version of this server", ("version",), [((perdure.__version__,), 1)])
        workers = [] if self._control_workers is None else [((), self._control_workers)]
        yield _gauge("control_workers", "Control workers that ask Temporal for work", (), workers)
        yield _gauge("jobs_now", "Jobs by state", ("state",), _singles(known.jobs))
        yield _gauge("unprotected_jobs", "Unfinished jobs without protection", ("reason",), _singles(known.unprotected))
        words = "Unfinished jobs whose last checkpoint failed"
        yield _gauge("failing_jobs", words, ("error",), _singles(known.failing))
        yield _gauge("nodes", "Instances with an agent", ("state", "agent_version"), known.nodes.items())
        yield _gauge("noticed_nodes", "Instances that AWS is taking back", (), [((), known.noticed_nodes)])
        yield _gauge("volumes", "Job volumes that exist", (), [((), known.volumes)])
        yield _gauge("volume_gib", "Their size, GiB", (), [((), known.volume_gib)])
        yield _gauge("alerts", "Alerts of unfinished jobs", ("level", "code"), known.alerts.items())
        yield _gauge("alerts_jobs_looked_at", "Unfinished jobs of which alerts are", (), [((), known.alerts_of)])
        of_newest = "of the newest checkpoint of each unfinished job"
        yield _spread("checkpoint_freeze_seconds", f"Seconds of standing still, {of_newest}", known.freeze_seconds)
        yield _spread("checkpoint_dump_seconds", f"Seconds of reading memory, {of_newest}", known.dump_seconds)
        yield _spread(
            "checkpoint_age_seconds", f"Seconds since the freeze {of_newest} that runs", known.checkpoint_ages
        )
        yield _spread("final_checkpoint_seconds", "Predicted seconds of a final checkpoint now", known.final_seconds)
        words = "Unfinished jobs by how a final checkpoint fits into a notice"
        yield _gauge("budget_jobs", words, ("colour",), _singles(known.budgets))
        yield _spread("outage_seconds", "Seconds of each outage of unfinished jobs", known.outage_seconds)
        words = "Outages of unfinished jobs whose volume had not been unmounted and was looked at first"
        yield _gauge("unclean_volumes", words, (), [((), known.unclean_volumes)])
        oldest = max(known.checkpoint_ages, default=0.0)
        yield _gauge("oldest_checkpoint_seconds", "The largest of checkpoint_age_seconds", (), [((), oldest)])
        size = sum(known.checkpoint_bytes)
        yield _gauge("checkpoint_bytes", f"Bytes {of_newest}, together", (), [((), size)])
        yield from self._counted()

    def _counted(self) -> Iterator[Metric]:
        for name, words in _COUNTERS.items():
            counter = CounterMetricFamily(f"perdure_{name}", words, labels=["queue"])
            for queue, figures in self._sums.items():
                counter.add_metric([queue], getattr(figures, name))
            yield counter
        # Gauges: a ledger is worked out anew when a price becomes known, and then these may fall.
        for field, unit, name, words in _MONEY_AND_TIME.values():
            values = [((queue,), getattr(figures, field) / unit) for queue, figures in self._sums.items()]
            yield _gauge(name, words, ("queue",), values)


def _singles(values: dict[str, int]) -> list[tuple[tuple[str], int]]:
    return [((name,), number) for name, number in values.items()]


def _gauge(
    name: str, words: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    found = GaugeMetricFamily(f"perdure_{name}", words, labels=labels)
    for where, value in values:
        found.add_metric(where, value)
    return found


def _spread(name: str, words: str, values: list[float]) -> HistogramMetricFamily:
    """How the values of now are spread. It is no history: each scrape is of the jobs that there are."""
    found = HistogramMetricFamily(f"perdure_{name}", words)
    buckets = [(str(float(edge)), float(sum(value <= edge for value in values))) for edge in _SECONDS]
    found.add_metric([], [*buckets, ("+Inf", float(len(values)))], sum(values))
    return found
