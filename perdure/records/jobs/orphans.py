"""Orphans as they are remembered: since when nobody owns them, what they cost, and what deleting them has saved.

Only the control worker's reconciler writes here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from perdure.domain.orphans import JobTrace, KnownOrphan, Orphan, OrphanKind, OrphanSums, Tagged, sums_of
from perdure.domain.prices import region_of
from perdure.records.costs.prices import load_prices
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.schema.orphan_tables import InstallationRow, OrphanRow
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import JobRow, SnapshotRow, VolumeRow

IDS_AT_ONCE = 200


def installation_name(session: Session) -> str:
    """The name that our tags carry; the same as long as the database, or a backup of it, lives."""
    return session.exec(select(InstallationRow.name)).one()


def traces(session: Session, job_ids: Collection[str]) -> dict[str, JobTrace]:
    """What the records know of these jobs; those that they do not know are left out."""
    ordered = sorted(job_ids)
    found: dict[str, JobTrace] = {}
    for start in range(0, len(ordered), IDS_AT_ONCE):
        columns = (col(JobRow.job_id), col(JobRow.finished_at), col(JobRow.volume_id))
        query = select(*columns).where(col(JobRow.job_id).in_(ordered[start : start + IDS_AT_ONCE]))
        for job_id, finished_at, volume_id in session.execute(query):
            found[job_id] = JobTrace(over=finished_at is not None, volume_id=volume_id)
    return found


def note(session: Session, orphans: Iterable[Orphan], now: datetime) -> list[KnownOrphan]:
    """These are all that there are now; since when, the oldest first. One that is an orphan no more is forgotten, and
    its time begins anew should it be one again."""
    before = found_since(session)
    known = [KnownOrphan(orphan=one, found_at=before.pop(one.thing.resource_id, now)) for one in orphans]
    for one in known:
        session.merge(_row(one.orphan, one.found_at))
    for resource_id in before:
        session.execute(delete(OrphanRow).where(col(OrphanRow.resource_id) == resource_id))
    return sorted(known, key=lambda one: one.found_at)


def found_since(session: Session) -> dict[str, datetime]:
    """Those that are there, and since when."""
    columns = (col(OrphanRow.resource_id), col(OrphanRow.found_at))
    rows = session.execute(select(*columns).where(col(OrphanRow.deleted_at).is_(None)))
    return {resource_id: found_at for resource_id, found_at in rows}


def deleted(session: Session, orphan: Orphan, at: datetime) -> None:
    """We deleted it. Its job's costs, where one is recorded, end then."""
    thing = orphan.thing
    session.execute(
        update(OrphanRow)
        .where(col(OrphanRow.resource_id) == thing.resource_id, col(OrphanRow.deleted_at).is_(None))
        .values(deleted_at=at)
    )
    row, key = (
        (VolumeRow, col(VolumeRow.volume_id))
        if thing.kind is OrphanKind.VOLUME
        else (SnapshotRow, col(SnapshotRow.snapshot_id))
    )
    ended = (
        update(row)
        .where(col(row.job_id) == thing.job_id, key == thing.resource_id, col(row.deleted_at).is_(None))
        .values(deleted_at=at)
    )
    if session.execute(ended).rowcount:  # type: ignore[attr-defined]
        session.flush()
        refresh_ledger(session, thing.job_id, at)


def forget_before(session: Session, at: datetime) -> int:
    """Those that were deleted before; how many."""
    gone = session.execute(delete(OrphanRow).where(col(OrphanRow.deleted_at) < at))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def list_orphans(
    session: Session, *, now: datetime, limit: int = 100, after: str | None = None, gone: bool = False
) -> Page[KnownOrphan]:
    """Those that are there, or those that were deleted (`gone`); the newest first. `after` is the `next` of the page
    before; ConfigurationInvalid."""
    keyset = Keyset(col(OrphanRow.found_at), col(OrphanRow.resource_id), down=True, question=["orphans", gone])
    there = col(OrphanRow.deleted_at)
    query = select(OrphanRow).where(there.is_not(None) if gone else there.is_(None))
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    rows = session.exec(query.order_by(*keyset.directed()).limit(limit + 1)).all()
    found = priced(session, [_known(row) for row in rows], now)
    return keyset.page(found, limit, lambda one: [one.found_at, one.orphan.thing.resource_id])


def sum_orphans(session: Session, *, now: datetime) -> OrphanSums:
    """Of all that are there, and of all that were deleted and are remembered."""
    return sums_of(priced(session, [_known(row) for row in session.exec(select(OrphanRow))], now))


def priced(session: Session, orphans: list[KnownOrphan], now: datetime) -> list[KnownOrphan]:
    """The same, with what each costs a month."""
    regions = {region_of(one.orphan.thing.place) for one in orphans}
    prices = load_prices(session, [], regions, now, now)
    found = []
    for one in orphans:
        thing = one.orphan.thing
        rate = prices.storage(thing.priced_as, region_of(thing.place))
        month = None if rate is None else rate.micros * thing.size_gib
        found.append(one.model_copy(update={"month_micros": month, "estimated": rate is not None and rate.estimated}))
    return found


def _row(orphan: Orphan, found_at: datetime) -> OrphanRow:
    thing = orphan.thing.model_dump(exclude={"holder", "installation"})
    return OrphanRow(
        **thing | {"kind": orphan.thing.kind.value},
        reason=orphan.reason,
        refusal=orphan.refusal,
        found_at=found_at,
        deleted_at=None,
    )


def _known(row: OrphanRow) -> KnownOrphan:
    thing = Tagged(
        resource_id=row.resource_id,
        kind=OrphanKind(row.kind),
        job_id=row.job_id,
        installation="",
        place=row.place,
        volume_type=row.volume_type,
        size_gib=row.size_gib,
        created_at=row.created_at,
    )
    orphan = Orphan(thing=thing, reason=row.reason, refusal=row.refusal)
    return KnownOrphan(orphan=orphan, found_at=row.found_at, deleted_at=row.deleted_at)
