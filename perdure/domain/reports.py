"""Reports: what the ledger's sums mean. Each metric with its formula in words, where its definition comes from, how
much of it rests on estimated prices, and, where it is known elsewhere by another count, that count beside it. Pure.

`value` is always what we hold to be true; `naive` is what the reference product's dashboard counts under the same name
(its Management Server page, "Reporting": every instance counted as if it ran one job, nothing subtracted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import cast

from perdure.domain.figures import Figures
from perdure.domain.ledger import net_saved_micros

Count = Callable[[Figures], int]


class Unit(StrEnum):
    """What a metric is counted in. `exact` figures of hours are milliseconds, of dollars micro-dollars."""

    COUNT = "count"
    HOURS = "hours"
    DOLLARS = "USD"
    SHARE = "share"


EXACT_UNITS = {Unit.COUNT: "count", Unit.HOURS: "milliseconds", Unit.DOLLARS: "micro-dollars", Unit.SHARE: ""}
_PER_UNIT = {Unit.COUNT: 1, Unit.HOURS: 3_600_000, Unit.DOLLARS: 1_000_000}


class Group(StrEnum):
    """Metrics that are shown together."""

    JOBS = "jobs"
    COSTS = "costs"
    SAVINGS = "savings"
    LOSSES = "losses"
    CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Naive:
    """The reference product's count of a metric."""

    exact: Count
    formula: str


class _Asked:
    """Stands in for Figures and notes which are asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> int:
        self.names.add(name)
        return 0


@dataclass(frozen=True)
class Metric:
    """One reported figure. `exact` gives whole milliseconds, micro-dollars or a count; a share is `exact` of `whole`.

    `source`: who defines it. `estimated`: for money, the micro-dollars that rest on estimated prices, and of how many.
    """

    name: str
    title: str
    group: Group
    unit: Unit
    exact: Count
    formula: str
    source: str
    naive: Naive | None = None
    whole: Count | None = None
    estimated: Callable[[Figures], tuple[int, int]] | None = None

    @cached_property
    def figures(self) -> frozenset[str]:
        """The fields of Figures that it and its naive count are made of."""
        asked = _Asked()
        for count in (self.exact, self.whole, self.naive and self.naive.exact):
            if count:
                count(cast(Figures, asked))
        return frozenset(asked.names)

    def exact_value(self, figures: Figures) -> int | None:
        """Exactly, in EXACT_UNITS; None for a share."""
        return None if self.whole else self.exact(figures)

    def value(self, figures: Figures) -> int | float | None:
        """For people: dollars, hours to the millisecond, counts, shares from 0 to 1. None: a share of nothing."""
        if self.whole is None:
            return shown(self.exact(figures), self.unit)
        whole = self.whole(figures)
        return round(self.exact(figures) / whole, 6) if whole else None

    def estimated_share(self, figures: Figures) -> float | None:
        """From 0 (every price behind it is known) to 1 (none is). None: no price is behind it."""
        if self.estimated is None:
            return None
        part, whole = self.estimated(figures)
        return round(part / whole, 6) if part and whole else 0.0


def shown(exact: int, unit: Unit) -> int | float:
    """Milliseconds as hours, micro-dollars as dollars, a count as it is."""
    if unit is Unit.COUNT:
        return exact
    return round(float(Fraction(exact, _PER_UNIT[unit])), 9)


def storage_micros(figures: Figures) -> int:
    """Volumes, snapshots, the S3 store and its keys."""
    return figures.volume_micros + figures.snapshot_micros + figures.store_micros + figures.key_micros


def _instances(figures: Figures) -> tuple[int, int]:
    return figures.instance_estimated_micros, figures.instance_micros


def _storage(figures: Figures) -> tuple[int, int]:
    return figures.estimated_micros - figures.instance_estimated_micros, storage_micros(figures)


def _both(figures: Figures) -> tuple[int, int]:
    return figures.estimated_micros, figures.instance_micros + storage_micros(figures)


def _compared(figures: Figures) -> tuple[int, int]:
    part, whole = _both(figures)
    return part + figures.on_demand_estimated_micros, whole + figures.on_demand_micros


_PAGE = "the reference product's Management Server page"
_NOTES = "the reference product's release 1.4.1"
_OURS = "Perdure's ledger (docs/ledger.md)"
_ALONE = "assuming that each Spot instance runs one job only, with nothing subtracted"


METRICS: tuple[Metric, ...] = (
    Metric(
        "total_jobs",
        "Total Jobs",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.jobs,
        "AWS Batch jobs of which a container ran with Perdure on its instance. A job counts once, however often Batch "
        "retries it, in the minute in which its first container came; each child of an array is a job.",
        _PAGE,
    ),
    Metric(
        "jobs_succeeded",
        "Jobs succeeded",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.jobs_succeeded,
        "Jobs that ended as SUCCEEDED in this span.",
        _OURS,
    ),
    Metric(
        "jobs_failed",
        "Jobs failed",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.jobs_failed,
        "Jobs that ended as FAILED in this span, after their last attempt.",
        _OURS,
    ),
    Metric(
        "jobs_stopped",
        "Jobs stopped",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.jobs_stopped,
        "Jobs that somebody cancelled or terminated in this span.",
        _OURS,
    ),
    Metric(
        "jobs_unprotected",
        "Jobs unprotected",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.jobs_unprotected,
        "Jobs of Total Jobs that run without protection now, or ran so to their end: a reclaim costs them their work. "
        "The reasons are counted beside.",
        _OURS,
    ),
    Metric(
        "spot_protections",
        "Spot Protections",
        Group.JOBS,
        Unit.COUNT,
        lambda f: f.protections,
        "Reclaims that a job survived: its instance was taken back, and it went on from a checkpoint on another one.",
        _PAGE,
    ),
    Metric(
        "job_cpu_hours",
        "Total Job CPU Hours",
        Group.JOBS,
        Unit.HOURS,
        lambda f: f.cpu_ms,
        "vCPUs that the job asked for x (complete - start), for each of its runs. What was asked for, not what was "
        "used; time between two runs does not count.",
        _PAGE,
    ),
    Metric(
        "run_time",
        "Job run time",
        Group.JOBS,
        Unit.HOURS,
        lambda f: f.run_ms,
        "Complete - start, for each run; a run that was reclaimed is complete at the freeze of its final checkpoint.",
        _OURS,
        naive=Naive(
            lambda f: f.batch_run_ms,
            "As AWS Batch counts it: until the container ended, the writing of the final checkpoint included "
            "(two minutes at most).",
        ),
    ),
    Metric(
        "instance_cost",
        "Total EC2 Instance Cost",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.share_micros,
        "The jobs' part of their instances: price x time x the job's vCPUs / the instance's vCPUs, at the Spot price "
        "of that zone and minute. Instances that AWS ended in their first hour cost nothing.",
        _PAGE,
        naive=Naive(
            lambda f: f.instance_micros,
            "The whole instance for each job's time on it, as if each ran one job only: jobs that share an instance "
            "count it several times.",
        ),
        estimated=_instances,
    ),
    Metric(
        "volume_cost",
        "Job volumes",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.volume_micros,
        "EBS volumes made for jobs: GiB x price per GiB-month x time from creation to deletion.",
        _OURS,
        estimated=_storage,
    ),
    Metric(
        "snapshot_cost",
        "Snapshots",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.snapshot_micros,
        "Snapshots that brought a volume to another zone: GiB of the volume x price x time. At most this: AWS bills "
        "the blocks in use only.",
        _OURS,
        estimated=_storage,
    ),
    Metric(
        "store_cost",
        "Checkpoints in S3",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.store_micros,
        "Bytes that a store in S3 holds of a job x price per GiB-month x time, and each request that instances and the "
        "server made there for the job. A shared directory (EFS, FSx, NFS) has no price that Perdure knows: its time "
        "counts as time without a price.",
        _OURS,
        estimated=_storage,
    ),
    Metric(
        "key_cost",
        "Encryption keys",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.key_micros,
        "Requests to KMS that S3 made for checkpoints, as its answers tell. What a key costs by the month is not "
        "counted: it is no job's.",
        _OURS,
        estimated=_storage,
    ),
    Metric(
        "total_cost",
        "Total cost",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.share_micros + storage_micros(f),
        "Total EC2 Instance Cost + job volumes + snapshots + checkpoints in S3 + encryption keys.",
        _OURS,
        estimated=_both,
    ),
    Metric(
        "unbilled",
        "Spot time that AWS did not bill",
        Group.COSTS,
        Unit.DOLLARS,
        lambda f: f.unbilled_micros,
        "What Spot instances that AWS ended within their first hour would have cost. Not part of any cost above. When "
        "anybody else ends an instance, its first hour is billed.",
        _OURS,
        estimated=_instances,
    ),
    Metric(
        "spot_savings_cost",
        "EC2 Spot Savings - Instance Cost Saved",
        Group.SAVINGS,
        Unit.DOLLARS,
        lambda f: f.saved_micros,
        "For each reclaim: what the work before it was worth, less the work that had to be done again and less what "
        "the interruption itself took (freeze, dump, volume, image pull, restore), each at the Spot price of that "
        "minute and by the job's part of the instance. Negative when the interruption took longer than the work.",
        _PAGE,
        naive=Naive(
            lambda f: f.naive_saved_micros,
            f"The price of the whole run before each reclaim, {_ALONE}.",
        ),
        estimated=_instances,
    ),
    Metric(
        "spot_savings_cpu_hours",
        "EC2 Spot Savings - Job CPU Hours Saved",
        Group.SAVINGS,
        Unit.HOURS,
        lambda f: f.saved_cpu_ms,
        "vCPUs that the job asked for x the time saved: run time before each reclaim, less the work that had to be "
        "done again, less what the interruption took.",
        _PAGE,
        naive=Naive(lambda f: f.naive_saved_cpu_ms, f"vCPUs x the whole run before each reclaim, {_ALONE}."),
    ),
    Metric(
        "saved_time",
        "Time saved",
        Group.SAVINGS,
        Unit.HOURS,
        lambda f: f.saved_ms,
        "Run time before each reclaim, less the work that had to be done again, less what the interruption took: "
        "freeze, dump, volume, image pull, restore. Waiting for Batch to find an instance is no part of it: any retry "
        "waits for that.",
        _OURS,
        naive=Naive(lambda f: f.naive_saved_ms, f"The whole run before each reclaim, {_ALONE}."),
    ),
    Metric(
        "on_demand_savings_cost",
        "EC2 On-demand Savings - Instance Cost Saved",
        Group.SAVINGS,
        Unit.DOLLARS,
        lambda f: f.on_demand_micros - f.redone_on_demand_micros - f.instance_micros - storage_micros(f),
        "The same instances at the on-demand price, without the time that on-demand instances would not have needed "
        "(outages, waits, work done again, freezes), less what the Spot instances cost, less volumes, snapshots, "
        "checkpoints in S3 and keys.",
        _PAGE,
        naive=Naive(
            lambda f: f.on_demand_micros - f.instance_micros,
            "The same instances for the same time at the on-demand price, less what they cost as Spot instances.",
        ),
        estimated=_compared,
    ),
    Metric(
        "net_savings",
        "Net savings of protection",
        Group.SAVINGS,
        Unit.DOLLARS,
        net_saved_micros,
        "EC2 Spot Savings - Instance Cost Saved, less freezes for checkpoints, instances that waited, volumes, "
        "snapshots, checkpoints in S3 and keys. Negative when protection cost more than it saved, as it does while "
        "nothing is reclaimed.",
        _OURS,
        naive=Naive(lambda f: f.naive_saved_micros, f"The price of the whole run before each reclaim, {_ALONE}."),
        estimated=_both,
    ),
    Metric(
        "lost_time",
        "Work done again - Time",
        Group.LOSSES,
        Unit.HOURS,
        lambda f: f.lost_ms,
        "Run time between the checkpoint that was restored and the reclaim. None after a final checkpoint. Already "
        "subtracted from what is saved.",
        _OURS,
    ),
    Metric(
        "lost_cost",
        "Work done again - Cost",
        Group.LOSSES,
        Unit.DOLLARS,
        lambda f: f.lost_micros,
        "The same at its price. Already subtracted from what is saved.",
        _OURS,
        estimated=_instances,
    ),
    Metric(
        "frozen_time",
        "Frozen for checkpoints - Time",
        Group.LOSSES,
        Unit.HOURS,
        lambda f: f.frozen_ms,
        "Time that jobs stood still for checkpoints on the rhythm or on request. Final checkpoints count as part of "
        "their interruption.",
        _OURS,
    ),
    Metric(
        "frozen_cost",
        "Frozen for checkpoints - Cost",
        Group.LOSSES,
        Unit.DOLLARS,
        lambda f: f.frozen_micros,
        "The same at its price, by the job's part of the instance.",
        _OURS,
        estimated=_instances,
    ),
    Metric(
        "wait_cost",
        "Instances that waited",
        Group.LOSSES,
        Unit.DOLLARS,
        lambda f: f.wait_micros,
        "The job's part of an instance from its container's coming to its start, while a volume was made or brought "
        "there. Waits that a restore ended count as part of the interruption instead.",
        _OURS,
        estimated=_instances,
    ),
    Metric(
        "unpriced_time",
        "Time without a price",
        Group.LOSSES,
        Unit.HOURS,
        lambda f: f.unpriced_ms,
        "Time of instances, volumes, snapshots and checkpoints in a store for which no price is known, not even an "
        "estimated one. It counts as 0 dollars above, so costs are at least what they say.",
        _OURS,
    ),
    Metric(
        "checkpoint_attempts",
        "Checkpoint attempts",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.checkpoint_attempts,
        "Checkpoints that were begun: succeeded + failed.",
        _NOTES,
    ),
    Metric(
        "checkpoint_successes",
        "Checkpoints succeeded",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.checkpoint_successes,
        "Checkpoints that were committed: each can be restored by itself.",
        _NOTES,
    ),
    Metric(
        "checkpoint_failures",
        "Checkpoints failed",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.checkpoint_attempts - f.checkpoint_successes,
        "Checkpoints that were begun and not committed; the job went on.",
        _NOTES,
    ),
    Metric(
        "checkpoint_success_rate",
        "Checkpoint success rate",
        Group.CHECKPOINTS,
        Unit.SHARE,
        lambda f: f.checkpoint_successes,
        "Checkpoints succeeded / attempts; nothing when none was begun.",
        _NOTES,
        whole=lambda f: f.checkpoint_attempts,
    ),
    Metric(
        "rehearsals",
        "Rehearsals",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.rehearsals,
        "Checkpoints that were restored beside their running job, looked at and thrown away: passed + failed. They "
        "count when the job's first container came.",
        _OURS,
    ),
    Metric(
        "rehearsal_failures",
        "Rehearsals failed",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.rehearsal_failures,
        "Rehearsals in which the checkpoint did not come back, counted likewise.",
        _OURS,
    ),
    Metric(
        "restore_attempts",
        "Restore attempts",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.restore_attempts,
        "Checkpoints that were tried on a new instance: succeeded + failed.",
        _NOTES,
    ),
    Metric(
        "restore_successes",
        "Restores succeeded",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.restore_successes,
        "Containers that went on from a checkpoint.",
        _NOTES,
    ),
    Metric(
        "restore_failures",
        "Restores failed",
        Group.CHECKPOINTS,
        Unit.COUNT,
        lambda f: f.restore_attempts - f.restore_successes,
        "Checkpoints that could not be restored; the one before was tried next, then a clean start.",
        _NOTES,
    ),
    Metric(
        "restore_success_rate",
        "Restore success rate",
        Group.CHECKPOINTS,
        Unit.SHARE,
        lambda f: f.restore_successes,
        "Restores succeeded / attempts; nothing when none was tried.",
        _NOTES,
        whole=lambda f: f.restore_attempts,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
