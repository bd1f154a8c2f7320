"""A job's stays on instances: from when, until when, at what price, and what part of the instance was the job's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from perdure.domain.jobs import Attempt, Job
from perdure.domain.nodes import Node
from perdure.domain.prices import ONE, Cost, PriceHistory, Prices, region_of
from perdure.domain.values import microseconds

FREE_FOR = timedelta(hours=1)
"""AWS does not bill a Spot instance that it ends within its first hour (EC2 user guide, "Billing for interrupted Spot
Instances"); when anybody else ends it, it does."""


@dataclass(frozen=True)
class Stay:
    """One attempt on its instance, up to the `until` of the ledger. Times UTC.

    From `start` (the container was accepted) to `end` (Batch saw its end; the final checkpoint was committed) the job
    holds its part of the instance. It runs from `run_start` (None: never) to `run_end`; Batch counts `batch_start` to
    `batch_end`. `price` is what AWS asks for the whole instance. `assumed`: whether the instance is Spot, or how many
    vCPUs it has, is not known, and is taken to be Spot and ours alone.
    """

    attempt: Attempt
    node: Node
    start: datetime
    end: datetime
    run_start: datetime | None
    run_end: datetime
    batch_start: datetime
    batch_end: datetime
    price: PriceHistory
    on_demand: PriceHistory
    share: Fraction
    unbilled: bool
    assumed: bool

    def worth(self, start: datetime, end: datetime) -> Cost:
        """Our part of the instance for a span, at its price, billed or not: what work done then is worth."""
        return self.price.cost(start, end, self.share)

    def paid(self, start: datetime, end: datetime) -> Cost:
        """The same as far as AWS bills it."""
        return Cost() if self.unbilled else self.worth(start, end)

    def estimated(self, start: datetime, end: datetime) -> bool:
        """Whether the price of a span rests on an estimate, or on nothing."""
        cost = self.price.cost(start, end)
        return self.assumed or bool(cost.estimated_micros or cost.unpriced_ms)

    def detail(self, at: datetime) -> dict[str, str | float | int | None]:
        """For people: the instance, its price at an instant, and our part of it."""
        return {
            "instance_id": self.attempt.instance_id,
            "instance_type": self.node.instance_type or "not known",
            "zone": self.node.zone,
            "pay_type": self.node.pay_type or "taken to be spot",
            "usd_per_hour": dollars(self.price.at(at)),
            "source": self.price.source,
            "our_part": str(self.share),
            "billed": "no: AWS ended the instance in its first hour" if self.unbilled else "yes",
        }


def find_stays(job: Job, nodes: Mapping[str, Node], prices: Prices, until: datetime) -> list[Stay]:
    """The job's stays that began before `until`, by epoch."""
    attempts = sorted(job.attempts, key=lambda attempt: attempt.epoch)
    following = [*(attempt.accepted_at for attempt in attempts[1:]), None][: len(attempts)]
    return [
        _stay(job, attempt, after, nodes.get(attempt.instance_id), prices, until)
        for attempt, after in zip(attempts, following, strict=True)
        if attempt.accepted_at <= until
    ]


def _stay(
    job: Job, attempt: Attempt, after: datetime | None, known: Node | None, prices: Prices, until: datetime
) -> Stay:
    node = known or Node(instance_id=attempt.instance_id, zone=attempt.zone)
    run_end = attempt.ended_at or after or job.finished_at or until
    end = max(run_end, attempt.batch_stopped_at or run_end, _committed(job, attempt) or run_end)
    if node.ended_at is not None:
        end = min(end, max(node.ended_at, attempt.accepted_at))
    price, on_demand = _prices(node, prices)
    batch_start = attempt.batch_started_at or attempt.started_at or attempt.accepted_at
    started = attempt.started_at if attempt.started_at and attempt.started_at <= until else None
    return Stay(
        attempt=attempt,
        node=node,
        start=attempt.accepted_at,
        end=min(end, until),
        run_start=started,
        run_end=min(run_end, until),
        batch_start=min(batch_start, until),
        batch_end=min(attempt.batch_stopped_at or run_end, until),
        price=price,
        on_demand=on_demand,
        share=_share(job, node),
        unbilled=_unbilled(node),
        assumed=not node.pay_type or not node.vcpus or not job.vcpus,
    )


def _committed(job: Job, attempt: Attempt) -> datetime | None:
    """When the final checkpoint of that attempt was committed: the container was held until then."""
    outage = next((one for one in job.outages if one.epoch == attempt.epoch), None)
    if outage is None:
        return None
    return outage.started_at + timedelta(seconds=outage.phases.get("frozen", 0.0) + outage.phases.get("dumped", 0.0))


def _prices(node: Node, prices: Prices) -> tuple[PriceHistory, PriceHistory]:
    """What AWS asks for the instance, and what it would ask on demand."""
    on_demand = prices.on_demand(node.instance_type, node.region or region_of(node.zone))
    if node.pay_type == "on-demand":
        return on_demand, on_demand
    return prices.spot(node.instance_type, node.zone), on_demand


def _share(job: Job, node: Node) -> Fraction:
    """The job's vCPUs of the instance's; the whole of it where either is not known. Never more than the whole."""
    if not node.vcpus or not job.vcpus:
        return ONE
    return min(ONE, Fraction(str(job.vcpus)) / node.vcpus)


def _unbilled(node: Node) -> bool:
    """Whether AWS ended this Spot instance within its first hour."""
    if node.pay_type == "on-demand" or node.ended_by != "aws" or node.launched_at is None or node.ended_at is None:
        return False
    return node.ended_at - node.launched_at < FREE_FOR


def of_vcpus(vcpus: float | None, start: datetime, end: datetime) -> int:
    """vCPU milliseconds of a span, rounded down at both ends so that slices add up; 0 where the vCPUs are not known."""
    if not vcpus or end <= start:
        return 0
    exact = Fraction(str(vcpus))
    first, last = (microseconds(instant) // 1000 * exact.numerator // exact.denominator for instant in (start, end))
    return last - first


def dollars(micros: int | None) -> str | None:
    """Micro-dollars as people read them, exactly: 34000 → `0.034`."""
    return None if micros is None else f"{micros // 1_000_000}.{micros % 1_000_000:06}".rstrip("0").rstrip(".")
