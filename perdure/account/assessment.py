"""What reclaims cost an account, and what protection would have saved. Whole micro-dollars, milliseconds; no I/O.

lost      all of an attempt that a reclaim ended: Batch starts the next one from nothing
redone    what protection still loses of it: the notice, the outage, and what did not fit into the notice
saved     lost - redone, never below nothing, of jobs that Perdure can protect
volumes   a volume for each protectable job, for as long as it ran: also those that nothing was reclaimed from
net       saved - volumes; it may be negative, and is shown so
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from perdure.account.history import History, PastAttempt, PastJob
from perdure.account.instances import cheapest_vcpu
from perdure.domain.budget import NOTICE_SECONDS
from perdure.domain.configuration import CheckpointConfiguration, JobVolumeConfiguration
from perdure.domain.price_table import TABLE_DATE
from perdure.domain.prices import Cost, milliseconds, region_of, storage_micros
from perdure.domain.volume_sizes import LEAST_GIB, billed, month_rate

RECLAIM_WORDS = "host ec2"
"""How Batch's status reason of a lost host begins, without regard to case (docs/aws-assumptions.md)."""
GP3_BYTES_PER_SECOND = 125 * 1000 * 1000
"""What a gp3 volume gives without extra pay (EBS user guide)."""
VOLUME_MOVE_SECONDS = 14.0
"""Detach, attach and mount: 5 + 6.6 s by the reference product's samples, and what a restore takes besides."""


@dataclass(frozen=True)
class JobAssessment:
    """One job that a reclaim hit. `rescued`: Batch would have run it again, so there is something to restore into."""

    job: PastJob
    reclaims: int
    lost_ms: int
    lost: Cost
    saved_ms: int
    saved_micros: int
    rescued: bool
    instances_known: bool


@dataclass(frozen=True)
class Assessment:
    """All of it. `jobs`: those that were hit, the dearest first."""

    history: History
    jobs: list[JobAssessment] = field(default_factory=list)
    attempts: int = 0
    protectable: int = 0
    volumes: Cost = field(default_factory=Cost)

    @property
    def reclaims(self) -> int:
        """Attempts that a reclaim ended."""
        return sum(one.reclaims for one in self.jobs)

    @property
    def lost_ms(self) -> int:
        """Of all of them."""
        return sum(one.lost_ms for one in self.jobs)

    @property
    def lost_micros(self) -> int:
        """Paid for work that was thrown away."""
        return sum(one.lost.micros for one in self.jobs)

    @property
    def saved_ms(self) -> int:
        """Of jobs that can be protected and that Batch runs again."""
        return sum(one.saved_ms for one in self.jobs if one.rescued)

    @property
    def saved_micros(self) -> int:
        """The same in money, volumes not subtracted."""
        return sum(one.saved_micros for one in self.jobs if one.rescued)

    @property
    def net_micros(self) -> int:
        """What is left after the volumes are paid."""
        return self.saved_micros - self.volumes.micros

    @property
    def not_rescued(self) -> list[JobAssessment]:
        """Jobs whose retry strategy would have to change first."""
        return [one for one in self.jobs if not one.rescued and one.job.protectable]


def is_reclaim(attempt: PastAttempt) -> bool:
    """Did its host go away under it?"""
    return attempt.exit_code is None and attempt.status_reason.lower().startswith(RECLAIM_WORDS)


def redone_ms(memory_mib: int, interval_seconds: float) -> int:
    """What one reclaim still costs a protected job, at most: all its memory is taken to be in use and written at a gp3
    volume's pace. Where that does not fit into the notice, half an interval of work is done again on top."""
    transfer = memory_mib * 1024 * 1024 / GP3_BYTES_PER_SECOND
    seconds = NOTICE_SECONDS + VOLUME_MOVE_SECONDS + transfer
    if transfer > NOTICE_SECONDS:
        seconds += interval_seconds / 2
    return int(seconds * 1000)


def assess(history: History) -> Assessment:
    """The whole account."""
    hit = [found for job in history.jobs if (found := _assess_job(history, job)) is not None]
    hit.sort(key=lambda one: (-one.lost.micros, -one.lost_ms, one.job.job_id))
    protectable = [job for job in history.jobs if job.protectable and job.attempts]
    return Assessment(
        history=history,
        jobs=hit,
        attempts=sum(len(job.attempts) for job in history.jobs),
        protectable=len(protectable),
        volumes=_volumes(history, protectable),
    )


def _assess_job(history: History, job: PastJob) -> JobAssessment | None:
    reclaimed = [one for one in job.attempts if is_reclaim(one) and one.stopped_at is not None] if job.on_spot else []
    if not reclaimed:
        return None
    interval = CheckpointConfiguration().interval_seconds
    lost_ms = saved_ms = micros = estimated = unpriced = saved_micros = 0
    for one in reclaimed:
        assert one.stopped_at is not None
        length = milliseconds(one.started_at, one.stopped_at)
        cost = _cost(history, job, one)
        saved = max(0, length - redone_ms(job.memory_mib, interval)) if job.protectable else 0
        lost_ms, saved_ms = lost_ms + length, saved_ms + saved
        micros, estimated = micros + cost.micros, estimated + cost.estimated_micros
        unpriced += cost.unpriced_ms
        saved_micros += cost.micros * saved // length if length else 0
    went_on = job.status in {"SUCCEEDED", "RUNNING"} or (
        job.retries_lost_hosts and job.allowed_attempts > len(reclaimed)
    )
    return JobAssessment(
        job=job,
        reclaims=len(reclaimed),
        lost_ms=lost_ms,
        lost=Cost(micros=micros, estimated_micros=estimated, unpriced_ms=unpriced),
        saved_ms=saved_ms,
        saved_micros=saved_micros,
        rescued=job.protectable and went_on,
        instances_known=all(one.instance_type for one in reclaimed),
    )


def _cost(history: History, job: PastJob, attempt: PastAttempt) -> Cost:
    """The job's share of its instance, by vCPUs."""
    assert attempt.stopped_at is not None
    if attempt.instance_type and history.vcpus.get(attempt.instance_type):
        share = min(Fraction(1), Fraction(job.vcpus) / history.vcpus[attempt.instance_type])
        price = history.prices.spot(attempt.instance_type, attempt.zone)
    else:
        pairs = history.likely.get(job.queue, ())
        share, price = Fraction(job.vcpus), cheapest_vcpu(pairs, history.vcpus, history.prices, history.until)
    return price.cost(attempt.started_at, attempt.stopped_at, share)


def _volumes(history: History, jobs: list[PastJob]) -> Cost:
    """Volumes as the defaults make them, from each job's first start to its last end (or now)."""
    volume, keep, region = JobVolumeConfiguration(), CheckpointConfiguration().keep, region_of(f"{history.region}a")
    micros = estimated = unpriced = 0
    for job in jobs:
        if not job.attempts:
            continue
        start, end = job.attempts[0].started_at, max(one.stopped_at or history.until for one in job.attempts)
        size_gib, made = volume.made_for(job.memory_mib, keep)
        amounts = billed(volume.volume_type, size_gib, made.iops, made.throughput_mib_per_second)
        rate = month_rate(history.prices, region, amounts)
        if rate is None:
            unpriced += milliseconds(start, end)
            continue
        cost = storage_micros(rate, 1, start, end)
        micros, estimated = micros + cost, estimated + (cost if rate.estimated else 0)
    return Cost(micros=micros, estimated_micros=estimated, unpriced_ms=unpriced)


def assumptions() -> list[str]:
    """What the figures rest on, one sentence each."""
    volume, interval = JobVolumeConfiguration(), CheckpointConfiguration().interval_seconds
    return [
        "Batch tells of jobs of the last seven days alone, so a job that ended earlier is not counted.",
        "An attempt counts as reclaimed when its status reason begins with `Host EC2` and it has no exit code. An "
        "instance that somebody ended by hand looks the same.",
        "A job that a client submitted anew under another id is two jobs here.",
        "A job pays its instance's Spot price at the time, by its share of the vCPUs. Where AWS has forgotten the "
        "instance, the cheapest kind that the queue may start today is taken.",
        f"Protection loses the {NOTICE_SECONDS:g} s of the notice, {VOLUME_MOVE_SECONDS:g} s for the volume, and the "
        f"time to read all the memory that the job asked for at {GP3_BYTES_PER_SECOND // 10**6} MB/s. A job whose "
        f"memory does not fit into the notice also loses half an interval of {interval / 60:g} min.",
        f"Each protectable job pays a {volume.volume_type} volume of {LEAST_GIB} GiB, or larger and faster where its "
        f"memory asks for that, for as long as it runs (price table of {TABLE_DATE}, us-east-1; elsewhere it is not "
        "priced).",
        "A job whose retry strategy does not run it again after a reclaim is not counted as saved: it needs another "
        "strategy first (`perdure doctor --queue NAME`).",
        "The time that jobs waited for another instance is in no figure.",
    ]
