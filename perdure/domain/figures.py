"""What the ledger counts, and its lines: figures that add up (perdure.domain.ledger works them out).

Everything that is ever reported is a sum of entries' figures: of one job, of a queue, of a span of time. Money is in
micro-dollars (1,000,000 = 1 USD), time in milliseconds, both whole numbers, so that sums are exact.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from perdure.domain.values import Frozen


class Figures(Frozen):
    """What entries count. Every field is additive; what is shown is worked out of sums (perdure.domain.reports)."""

    jobs: int = 0
    jobs_succeeded: int = 0
    jobs_failed: int = 0
    jobs_stopped: int = 0
    jobs_unprotected: int = 0
    """Jobs that run, or ran to their end, without protection."""
    protections: int = 0
    checkpoint_attempts: int = 0
    checkpoint_successes: int = 0
    restore_attempts: int = 0
    restore_successes: int = 0
    rehearsals: int = 0
    """Checkpoints that were restored beside their running jobs, …"""
    rehearsal_failures: int = 0
    """… and those that did not come back."""
    cpu_ms: int = 0
    """Requested vCPUs x (complete - start): the reference product's CPU hours."""
    run_ms: int = 0
    """Complete - start, as the job really ran: to the freeze of a final checkpoint."""
    batch_run_ms: int = 0
    """The same as AWS Batch counts it: to the container's end."""
    instance_micros: int = 0
    """Whole instances at their Spot price of zone and minute, as if each ran this job alone."""
    share_micros: int = 0
    """The job's part of that, by its vCPUs."""
    on_demand_micros: int = 0
    """Whole instances for the same time, at the on-demand price."""
    redone_on_demand_micros: int = 0
    """Part of that which on-demand instances would not have cost: outages, work done again, freezes."""
    naive_saved_ms: int = 0
    """Run time before each reclaim survived, nothing subtracted."""
    naive_saved_cpu_ms: int = 0
    naive_saved_micros: int = 0
    saved_ms: int = 0
    """Work preserved - (freeze + volume wait + pull + restore); may be negative."""
    saved_cpu_ms: int = 0
    saved_micros: int = 0
    """The same in money, of the job's part of the instances."""
    lost_ms: int = 0
    """Work after the checkpoint that had to be done again."""
    lost_micros: int = 0
    frozen_ms: int = 0
    """The job stood still for checkpoints that no reclaim called for."""
    frozen_micros: int = 0
    volume_micros: int = 0
    snapshot_micros: int = 0
    store_micros: int = 0
    """Checkpoints in S3: bytes held, and requests."""
    key_micros: int = 0
    """Requests to KMS for them."""
    wait_micros: int = 0
    """Instances that waited for a volume or a restore, as far as no outage counts it already."""
    volume_attaches: int = 0
    """Times a volume was brought to the next instance after an outage, …"""
    volume_attach_ms: int = 0
    """… and how long that took."""
    unbilled_micros: int = 0
    """Spot time that AWS does not bill: it ended the instance in its first hour. Not part of the costs above."""
    estimated_micros: int = 0
    """How much of instance, volume, snapshot, store and key costs rests on a price that is estimated."""
    instance_estimated_micros: int = 0
    """The part of that which is of instances."""
    on_demand_estimated_micros: int = 0
    """How much of on_demand_micros rests on a price that is estimated."""
    unpriced_ms: int = 0
    """Time of instances, volumes, snapshots and checkpoints in a store for which no price is known at all: it counts
    nothing above."""

    def __add__(self, other: Figures) -> Figures:
        names = self.model_fields_set | other.model_fields_set  # the others are 0
        return Figures(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __sub__(self, other: Figures) -> Figures:
        names = self.model_fields_set | other.model_fields_set
        return Figures(**{name: getattr(self, name) - getattr(other, name) for name in names})


class LedgerEntry(Frozen):
    """One line of a job's ledger. (job_id, key) is its identity: a line that is worked out anew replaces the old one.

    `kind`: `job`, `run`, `instance`, `wait`, `checkpoints`, `restores`, `protection`, `volume`, `snapshot`, `store`.
    `at` (UTC) is the minute, hour or day it counts in. `detail` says how it was worked out, for people: prices, seconds
    and the formula.
    """

    job_id: str
    key: str
    kind: str
    at: datetime
    figures: Figures
    estimated: bool = False
    detail: dict[str, str | float | int | None] = Field(default_factory=dict)
