"""The job volumes that exist: whose each is, where it is, and what it costs.

What exists is what the jobs' workflows have told of. A volume whose job's record was deleted is not among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, select
from sqlmodel import Session, col

from perdure.domain.jobs import JobState
from perdure.domain.prices import Prices, region_of, storage_micros
from perdure.domain.values import Frozen
from perdure.domain.volume_sizes import billed, month_rate
from perdure.records.costs.prices import load_prices
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import AttemptRow, JobRow, VolumeRow
from perdure.records.settings.configuration import current_configuration


class ExistingVolume(Frozen):
    """A volume that was not deleted, and its job. Micro-dollars; None: no price is known. `kept`: the job is over;
    `kept_since` then, and `kept_until` is when the volume is deleted (None: by a person only). UTC."""

    volume_id: str
    job_id: str
    job_name: str
    queue: str
    job_state: JobState
    kept: bool
    zone: str
    volume_type: str
    size_gib: int
    created_at: datetime
    age_seconds: float
    kept_since: datetime | None
    kept_until: datetime | None
    instance_id: str | None
    month_micros: int | None
    cost_micros: int | None
    estimated: bool


class VolumeSums(Frozen):
    """Of all volumes that exist. `month_micros`: of those whose price is known; `unpriced` are not."""

    volumes: int = 0
    size_gib: int = 0
    month_micros: int = 0
    estimated: bool = False
    unpriced: int = 0
    kept: int = 0
    kept_month_micros: int = 0


def list_volumes(
    session: Session, *, now: datetime, limit: int = 100, after: str | None = None, kept: bool | None = None
) -> Page[ExistingVolume]:
    """The newest first; `kept`: only those of jobs that are over, or only the others. `after` is the `next` of the
    page before; ConfigurationInvalid."""
    created, job_id, volume_id = col(VolumeRow.created_at), col(VolumeRow.job_id), col(VolumeRow.volume_id)
    keyset = Keyset(created, job_id, volume_id, down=True, question=["volumes", kept])
    query = (
        select(VolumeRow, JobRow, col(AttemptRow.instance_id))
        .join(JobRow, col(JobRow.job_id) == job_id)
        .outerjoin(AttemptRow, _holder())
        .where(col(VolumeRow.deleted_at).is_(None))
        .order_by(*keyset.directed())
        .limit(limit + 1)
    )
    if kept is not None:
        query = query.where(col(JobRow.finished_at).is_not(None) if kept else col(JobRow.finished_at).is_(None))
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    rows = session.execute(query).all()
    prices = _prices(session, {row.zone for row, _, _ in rows}, now)
    keep = timedelta(seconds=current_configuration(session).server.keep_volume_seconds)
    found = [_existing(row, job, instance_id, prices, now, keep) for row, job, instance_id in rows]
    return keyset.page(found, limit, lambda volume: [volume.created_at, volume.job_id, volume.volume_id])


def sum_volumes(session: Session, *, now: datetime) -> VolumeSums:
    """Of all that exist."""
    speed = (col(VolumeRow.iops), col(VolumeRow.throughput_mib_per_second))
    alike = (col(VolumeRow.zone), col(VolumeRow.volume_type), *speed, col(JobRow.finished_at).is_not(None))
    query = (
        select(*alike, func.count(), func.sum(col(VolumeRow.size_gib)))
        .join(JobRow, col(JobRow.job_id) == col(VolumeRow.job_id))
        .where(col(VolumeRow.deleted_at).is_(None))
        .group_by(*alike)
    )
    groups = session.execute(query).all()
    prices = _prices(session, {zone for zone, *_ in groups}, now)
    return _summed(groups, prices)


def _summed(groups: Iterable[Any], prices: Prices) -> VolumeSums:
    sums: dict[str, Any] = VolumeSums().model_dump()
    for zone, volume_type, iops, throughput, kept, count, size_gib in groups:
        rate = month_rate(prices, region_of(zone), billed(volume_type, size_gib, iops, throughput, count))
        month = rate.micros if rate else 0
        sums["volumes"] += count
        sums["size_gib"] += size_gib
        sums["month_micros"] += month
        sums["estimated"] |= rate is not None and rate.estimated
        sums["unpriced"] += 0 if rate else count
        sums["kept"] += count if kept else 0
        sums["kept_month_micros"] += month if kept else 0
    return VolumeSums.model_validate(sums)


def _holder() -> Any:
    """The container that has the volume now: the job's newest, if it goes on, where the volume is."""
    return and_(
        col(AttemptRow.job_id) == col(VolumeRow.job_id),
        col(AttemptRow.epoch) == col(JobRow.epoch),
        col(AttemptRow.ended_at).is_(None),
        col(JobRow.volume_id) == col(VolumeRow.volume_id),
        col(AttemptRow.zone) == col(VolumeRow.zone),
        col(JobRow.finished_at).is_(None),
    )


def _prices(session: Session, zones: set[str], now: datetime) -> Prices:
    return load_prices(session, [], {region_of(zone) for zone in zones}, now, now)


def _existing(
    row: VolumeRow, job: JobRow, instance_id: str | None, prices: Prices, now: datetime, keep: timedelta
) -> ExistingVolume:
    amounts = billed(row.volume_type, row.size_gib, row.iops, row.throughput_mib_per_second)
    rate = month_rate(prices, region_of(row.zone), amounts)
    return ExistingVolume(
        volume_id=row.volume_id,
        job_id=job.job_id,
        job_name=job.name,
        queue=job.queue,
        job_state=JobState(job.state),
        kept=job.finished_at is not None,
        zone=row.zone,
        volume_type=row.volume_type,
        size_gib=row.size_gib,
        created_at=row.created_at,
        age_seconds=round((now - row.created_at).total_seconds(), 3),
        kept_since=job.finished_at,
        kept_until=job.finished_at + keep if job.finished_at and keep else None,
        instance_id=instance_id,
        month_micros=rate and rate.micros,
        cost_micros=rate and storage_micros(rate, 1, row.created_at, now),
        estimated=rate is not None and rate.estimated,
    )
