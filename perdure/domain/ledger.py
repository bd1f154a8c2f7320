"""The ledger: what each job cost and what protecting it saved, worked out of its record, its nodes and prices. Pure.

`ledger_entries` is the whole of it; every figure it gives can be checked by hand with docs/ledger.md and the entry's
`detail`. The formulas, shortly (money in micro-dollars, price(a, b) = what AWS asks for the instance from a to b):

    run         vCPUs asked for x (complete - start), for each attempt
    instance    price(accepted, container's end) of the whole instance; our part is that x vCPUs / the instance's vCPUs
    unbilled    the same, where AWS ended a Spot instance within its first hour: it is not billed then
    protection  see perdure.domain.outages_ledger
    checkpoints our part of price(frozen, resumed), for checkpoints after which the job went on
    wait        our part of price(accepted, started), where no outage counts it: first starts, containers that never ran
    volume      GiB x months x price per GiB-month, by the second, and so for operations and MiB/s that it has more than
                its type has by itself; snapshots by the size of their volume
    store       see perdure.domain.store_costs

What protection saved in the end is `net_saved_micros`, what Spot saved against on demand `net_on_demand_saved_micros`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.jobs import Job, JobState
from perdure.domain.nodes import Node
from perdure.domain.outages_ledger import protection_entries
from perdure.domain.prices import DAY, HOUR, Prices, milliseconds, region_of, slices, storage_micros
from perdure.domain.stays import Stay, dollars, find_stays, of_vcpus
from perdure.domain.store_costs import StoreUse, store_entries
from perdure.domain.volume_sizes import billed, month_rate

__all__ = ["Figures", "LedgerEntry", "ledger_entries", "net_on_demand_saved_micros", "net_saved_micros"]

_OUTCOMES = {
    JobState.SUCCEEDED: Figures(jobs_succeeded=1),
    JobState.FAILED: Figures(jobs_failed=1),
    JobState.STOPPED: Figures(jobs_stopped=1),
}
FROZEN_PHASE = "frozen"
"""The engine's name for the time from the pause to the resume (key of Checkpoint.phases)."""


def ledger_entries(
    job: Job,
    nodes: Mapping[str, Node],
    prices: Prices,
    until: datetime,
    checkpoints: Iterable[Checkpoint] | None = None,
    hours_from: datetime | None = None,
    store_uses: Iterable[StoreUse] = (),
) -> list[LedgerEntry]:
    """All lines of one job's ledger as of `until` (UTC): what runs on is counted up to then, what came later is not.

    `nodes` by instance id: those of the job's attempts; one that is missing has no price. `checkpoints`: all that were
    ever committed, as records.jobs.list_checkpoints knows them; without them only those still offered are counted. How
    many checkpoints and restores were tried is not counted here (records.ledger does it). `store_uses`: all that was
    told of its store. With `hours_from`, a whole hour, the hourly lines of runs, instances and the store before it are
    left out.

    The same record gives the same lines, in order of time, in whatever order its lists are; a later `until` never makes
    a cost smaller.
    """
    stays = find_stays(job, nodes, prices, until)
    lines = [
        *_job(job),
        *(line for stay in stays for line in _runs(job, stay, hours_from)),
        *(line for stay in stays for line in _instances(job, stay, hours_from)),
        *_waits(job, stays),
        *_freezes(job, stays, job.checkpoints if checkpoints is None else checkpoints),
        *protection_entries(job, stays, until),
        *_volumes(job, prices, until),
        *_snapshots(job, prices, until),
        *store_entries(job.job_id, store_uses, prices, until, hours_from),
    ]
    return sorted((line for line in lines if line.at <= until), key=lambda line: (line.at, line.key))


def net_saved_micros(figures: Figures) -> int:
    """What protection saved after everything that it cost; may be negative.

    The dollars of the work preserved, less what its outages took (both in `saved_micros`), less the freezes of
    checkpoints that no reclaim called for, instances that waited, volumes, snapshots, store and keys.
    """
    return figures.saved_micros - (
        figures.frozen_micros
        + figures.wait_micros
        + figures.volume_micros
        + figures.snapshot_micros
        + figures.store_micros
        + figures.key_micros
    )


def net_on_demand_saved_micros(figures: Figures) -> int:
    """What the same work would have cost on demand, less what it did cost; may be negative.

    On-demand instances would not have cost what only reclaims and checkpoints caused (`redone_on_demand_micros`), and
    would have needed neither volumes, snapshots, store nor keys. Whole instances, on both sides.
    """
    needed = figures.on_demand_micros - figures.redone_on_demand_micros
    spent = figures.instance_micros + figures.volume_micros + figures.snapshot_micros
    return needed - spent - figures.store_micros - figures.key_micros


def _job(job: Job) -> Iterator[LedgerEntry]:
    figures = Figures(jobs=1, jobs_unprotected=1) if job.unprotected else Figures(jobs=1)
    if job.rehearsals:
        figures += Figures(rehearsals=job.rehearsals, rehearsal_failures=job.rehearsal_failures)
    yield LedgerEntry(job_id=job.job_id, key="job", kind="job", at=job.created_at, figures=figures)
    outcome = _OUTCOMES.get(job.state)
    if outcome is not None and job.finished_at is not None:
        yield LedgerEntry(job_id=job.job_id, key="outcome", kind="job", at=job.finished_at, figures=outcome)


def _runs(job: Job, stay: Stay, hours_from: datetime | None) -> Iterator[LedgerEntry]:
    """Reference: "CPU time = job requested CPUs x job runtime; job runtime = job complete - job start". A job that was
    reclaimed runs several times; the time between counts for nobody."""
    if stay.run_start is None:
        return
    really, by_batch = (stay.run_start, stay.run_end), (stay.batch_start, stay.batch_end)
    for start, end in slices(min(really[0], by_batch[0]), max(really[1], by_batch[1]), HOUR, hours_from):
        first, last = max(start, really[0]), min(end, really[1])
        run_ms = milliseconds(first, last)
        yield LedgerEntry(
            job_id=job.job_id,
            key=f"run/{stay.attempt.epoch}/{start:%Y-%m-%dT%H}",
            kind="run",
            at=start,
            figures=Figures(
                run_ms=run_ms,
                batch_run_ms=milliseconds(max(start, by_batch[0]), min(end, by_batch[1])),
                cpu_ms=of_vcpus(job.vcpus, first, last) if run_ms else 0,
            ),
            detail={"vcpus": job.vcpus, "seconds": run_ms / 1000, "formula": "vCPUs asked for x (complete - start)"},
        )


def _instances(job: Job, stay: Stay, hours_from: datetime | None) -> Iterator[LedgerEntry]:
    for start, end in slices(stay.start, stay.end, HOUR, hours_from):
        whole, ours = stay.price.cost(start, end), stay.price.cost(start, end, stay.share)
        on_demand = stay.on_demand.cost(start, end)
        figures = Figures(
            on_demand_micros=on_demand.micros,
            on_demand_estimated_micros=on_demand.estimated_micros,
            unpriced_ms=whole.unpriced_ms,
        )
        if stay.unbilled:
            figures += Figures(unbilled_micros=whole.micros)
        else:
            # Each is rounded for itself: the part of a moment could come out a micro-dollar above the whole.
            paid = Figures(instance_micros=whole.micros, share_micros=min(ours.micros, whole.micros))
            guessed = whole.estimated_micros if stay.node.pay_type else whole.micros
            figures += paid + Figures(estimated_micros=guessed, instance_estimated_micros=guessed)
        yield LedgerEntry(
            job_id=job.job_id,
            key=f"instance/{stay.attempt.epoch}/{start:%Y-%m-%dT%H}",
            kind="instance",
            at=start,
            figures=figures,
            estimated=bool(whole.estimated_micros or on_demand.estimated_micros or whole.unpriced_ms) or stay.assumed,
            detail={
                **stay.detail(start),
                "seconds": milliseconds(start, end) / 1000,
                "on_demand_usd_per_hour": dollars(stay.on_demand.at(start)),
                "on_demand_source": stay.on_demand.source,
                "formula": "price x time of the whole instance; our part: x vCPUs / the instance's vCPUs",
            },
        )


def _waits(job: Job, stays: list[Stay]) -> Iterator[LedgerEntry]:
    """Containers that a restore brought back count their wait in their outage (perdure.domain.outages_ledger)."""
    ended = {outage.ended_at for outage in job.outages if outage.seconds is not None}
    for stay in stays:
        if stay.attempt.started_at is not None and stay.attempt.started_at in ended:
            continue
        end = stay.end if stay.run_start is None else stay.run_start
        waited = milliseconds(stay.start, end)
        if not waited:
            continue
        yield LedgerEntry(
            job_id=job.job_id,
            key=f"wait/{stay.attempt.epoch}",
            kind="wait",
            at=stay.start,
            figures=Figures(
                wait_micros=stay.paid(stay.start, end).micros,
                redone_on_demand_micros=stay.on_demand.cost(stay.start, end).micros,
            ),
            estimated=stay.estimated(stay.start, end),
            detail={
                **stay.detail(stay.start),
                "seconds": waited / 1000,
                "formula": "our part of price x (start - accepted); 0 where AWS did not bill",
            },
        )


def _freezes(job: Job, stays: list[Stay], checkpoints: Iterable[Checkpoint]) -> Iterator[LedgerEntry]:
    by_epoch = {stay.attempt.epoch: stay for stay in stays}
    hours: dict[datetime, list[tuple[Checkpoint, int]]] = {}
    for checkpoint in sorted(checkpoints, key=lambda one: (one.frozen_at, one.number)):
        frozen_ms = round(checkpoint.phases.get(FROZEN_PHASE, 0.0) * 1000)
        if checkpoint.kind != CheckpointKind.FINAL and frozen_ms:
            hour = checkpoint.frozen_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            hours.setdefault(hour, []).append((checkpoint, frozen_ms))
    for hour, taken in hours.items():
        figures, estimated = Figures(), False
        for checkpoint, frozen_ms in taken:
            figures += Figures(frozen_ms=frozen_ms)
            stay = by_epoch.get(checkpoint.epoch)
            if stay is not None:
                start, end = checkpoint.frozen_at, checkpoint.frozen_at + timedelta(milliseconds=frozen_ms)
                redone = stay.on_demand.cost(start, end).micros
                figures += Figures(frozen_micros=stay.paid(start, end).micros, redone_on_demand_micros=redone)
                estimated = estimated or stay.estimated(start, end)
        yield LedgerEntry(
            job_id=job.job_id,
            key=f"checkpoints/{hour:%Y-%m-%dT%H}",
            kind="checkpoints",
            at=taken[0][0].frozen_at,
            figures=figures,
            estimated=estimated,
            detail={
                "checkpoints": len(taken),
                "seconds": figures.frozen_ms / 1000,
                "formula": "our part of price x (resumed - frozen), summed; 0 where AWS did not bill",
            },
        )


def _volumes(job: Job, prices: Prices, until: datetime) -> Iterator[LedgerEntry]:
    for volume in job.volumes:
        amounts = billed(volume.volume_type, volume.size_gib, volume.iops, volume.throughput_mib_per_second)
        rate = month_rate(prices, region_of(volume.zone), amounts)
        end = min(volume.deleted_at or until, until)
        for first, last in slices(volume.created_at, end, DAY):
            micros = 0 if rate is None else storage_micros(rate, 1, first, last)
            estimated = rate is None or rate.estimated
            unpriced = milliseconds(first, last) if rate is None else 0
            yield LedgerEntry(
                job_id=job.job_id,
                key=f"volume/{volume.volume_id}/{first:%Y-%m-%d}",
                kind="volume",
                at=first,
                figures=Figures(
                    volume_micros=micros, estimated_micros=micros if estimated else 0, unpriced_ms=unpriced
                ),
                estimated=estimated,
                detail={
                    "volume_id": volume.volume_id,
                    "volume_type": volume.volume_type,
                    "gib": volume.size_gib,
                    **{one.kind: one.amount for one in amounts[1:]},
                    "seconds": milliseconds(first, last) / 1000,
                    "usd_per_month": dollars(rate.micros if rate else None),
                    "source": rate.source if rate else "no price is known",
                    "formula": "price of the whole volume x seconds / seconds of the month",
                },
            )


def _snapshots(job: Job, prices: Prices, until: datetime) -> Iterator[LedgerEntry]:
    """At most this: AWS bills the blocks in use, and only the size of the volume is known. So always an estimate."""
    zones = {volume.volume_id: volume.zone for volume in job.volumes}
    for snapshot in job.snapshots:
        rate = prices.storage("snapshot", region_of(zones.get(snapshot.volume_id) or job.volume_zone or ""))
        end = min(snapshot.deleted_at or until, until)
        for first, last in slices(snapshot.created_at, end, DAY):
            micros = 0 if rate is None else storage_micros(rate, snapshot.size_gib, first, last)
            unpriced = milliseconds(first, last) if rate is None else 0
            yield LedgerEntry(
                job_id=job.job_id,
                key=f"snapshot/{snapshot.snapshot_id}/{first:%Y-%m-%d}",
                kind="snapshot",
                at=first,
                figures=Figures(snapshot_micros=micros, estimated_micros=micros, unpriced_ms=unpriced),
                estimated=True,
                detail={
                    "snapshot_id": snapshot.snapshot_id,
                    "gib_at_most": snapshot.size_gib,
                    "seconds": milliseconds(first, last) / 1000,
                    "usd_per_gib_month": dollars(rate.micros if rate else None),
                    "source": rate.source if rate else "no price is known",
                    "formula": "GiB of the volume x price x seconds / seconds of the month",
                },
            )
