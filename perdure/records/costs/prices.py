"""Prices as AWS told them: written after each look, read for a job's ledger; and what is to be asked for next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Table, and_, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from perdure.domain.jobs import FINISHED_STATES, Job, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.domain.price_table import TABLE_REGION
from perdure.domain.prices import PricePoint, Prices, SpotPoints, region_of
from perdure.domain.values import Frozen
from perdure.records.schema.price_tables import on_demand_prices, spot_price_looks, spot_prices, storage_prices
from perdure.records.schema.tables import AttemptRow, JobRow, NodeRow, plain

_JOBS, _ATTEMPTS, _NODES = plain(JobRow).c, plain(AttemptRow).c, plain(NodeRow).c
_SPOT, _LOOKS, _LISTED, _STORAGE = spot_prices.c, spot_price_looks.c, on_demand_prices.c, storage_prices.c
LONGEST_PROBLEM = 500


class SpotPair(Frozen):
    """An instance type in a zone whose Spot price is to be asked for, from `since` (UTC) on. `new`: it is not known."""

    instance_type: str
    zone: str
    region: str
    since: datetime
    new: bool


class ListedType(Frozen):
    """An instance type whose on-demand price in a region is to be asked for."""

    instance_type: str
    region: str


def save_spot_points(
    session: Session, instance_type: str, zone: str, points: Iterable[PricePoint], *, known_until: datetime
) -> None:
    """AWS was asked for the prices of that pair up to `known_until`, and these are the changes it named. Key:
    (instance_type, zone, instant); of an instant that is known already the newer price counts."""
    pair = {"instance_type": instance_type, "zone": zone}
    by_instant = {point.at: point.micros_per_hour for point in points}
    _upsert(session, spot_prices, [{**pair, "at": at, "micros_per_hour": price} for at, price in by_instant.items()])
    _upsert(session, spot_price_looks, [{**pair, "known_until": known_until, "looked_at": known_until, "problem": ""}])


def note_spot_problem(session: Session, instance_type: str, zone: str, *, at: datetime, problem: str) -> None:
    """AWS was asked and gave no price of that pair. What was known before stays."""
    row = {"instance_type": instance_type, "zone": zone, "looked_at": at, "problem": problem[:LONGEST_PROBLEM]}
    _upsert(session, spot_price_looks, [row])


def save_on_demand(session: Session, instance_type: str, region: str, micros_per_hour: int, *, at: datetime) -> None:
    """The list price. Key: (instance_type, region)."""
    row = {"instance_type": instance_type, "region": region, "micros_per_hour": micros_per_hour}
    _upsert(session, on_demand_prices, [{**row, "looked_at": at, "problem": ""}])


def note_on_demand_problem(session: Session, instance_type: str, region: str, *, at: datetime, problem: str) -> None:
    """AWS was asked and gave no list price. What was known before stays."""
    row = {"instance_type": instance_type, "region": region, "looked_at": at, "problem": problem[:LONGEST_PROBLEM]}
    _upsert(session, on_demand_prices, [row])


def save_storage(session: Session, region: str, prices: Mapping[str, int], *, at: datetime) -> None:
    """List prices of a region per GiB-month, by kind. Key: (kind, region)."""
    rows = [
        {"kind": kind, "region": region, "micros_per_gib_month": micros, "looked_at": at}
        for kind, micros in prices.items()
    ]
    _upsert(session, storage_prices, rows)


def _upsert(session: Session, table: Table, rows: list[dict[str, Any]]) -> None:
    """Columns that the rows do not name keep their values."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    values = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def prices_of_job(
    session: Session, job: Job, nodes: Mapping[str, Node], until: datetime, stores: Collection[str] = ()
) -> Prices:
    """Every price that the job's ledger up to `until` needs: of its nodes, volumes and snapshots, and of the stores in
    these regions."""
    used = [node for attempt in job.attempts if (node := nodes.get(attempt.instance_id)) is not None]
    pairs = {(node.instance_type, node.zone) for node in used if node.instance_type}
    zones = {volume.zone for volume in job.volumes} | {job.volume_zone or ""}
    regions = {node.region or region_of(node.zone) for node in used} | {region_of(zone) for zone in zones}
    regions |= {*stores}
    # An outage counts the new instance from its boot on.
    starts = [node.launched_at for node in used if node.launched_at] + [one.accepted_at for one in job.attempts]
    return load_prices(session, pairs, regions, min(starts, default=until), until)


def load_prices(
    session: Session, pairs: Collection[tuple[str, str]], regions: Collection[str], start: datetime, end: datetime
) -> Prices:
    """Spot prices of `pairs` (instance type, zone) that held at some time from `start` to `end`, and the list prices of
    these types, and of storage, in `regions`."""
    spot = {pair: seen for pair in pairs if (seen := _spot_points(session, *pair, start, end)) is not None}
    types = {instance_type for instance_type, _ in pairs}
    mine = and_(_LISTED.instance_type.in_(types), _LISTED.region.in_(regions), _LISTED.micros_per_hour.is_not(None))
    listed = session.execute(select(on_demand_prices).where(mine))
    kept = session.execute(select(storage_prices).where(_STORAGE.region.in_(regions)))
    return Prices(
        spot,
        {(row.instance_type, row.region): row.micros_per_hour for row in listed},
        {(row.kind, row.region): row.micros_per_gib_month for row in kept},
    )


def _spot_points(session: Session, instance_type: str, zone: str, start: datetime, end: datetime) -> SpotPoints | None:
    look = and_(_LOOKS.instance_type == instance_type, _LOOKS.zone == zone)
    known_until = session.scalar(select(_LOOKS.known_until).where(look))
    if known_until is None:
        return None
    mine = and_(_SPOT.instance_type == instance_type, _SPOT.zone == zone)
    holding = session.scalar(select(func.max(_SPOT.at)).where(mine, _SPOT.at <= start))
    if holding is None:
        # All that is known came later: the first of them is the best guess, and marked as one.
        holding = session.scalar(select(func.min(_SPOT.at)).where(mine))
    if holding is None:
        return None
    span = and_(mine, _SPOT.at >= holding, _SPOT.at <= max(end, holding))
    rows = session.execute(select(_SPOT.at, _SPOT.micros_per_hour).where(span).order_by(_SPOT.at))
    points = [PricePoint(at=at, micros_per_hour=micros) for at, micros in rows]
    return SpotPoints(points=points, known_until=known_until)


def _region(region: str, zone: str) -> str:
    """A region's name and nothing else: it becomes part of the address that AWS is asked at. "" when there is none."""
    return region_of(region) or region_of(zone)


def spot_pairs_to_ask(session: Session, *, earliest: datetime, unknown_only: bool) -> list[SpotPair]:
    """Pairs that nodes in the records have had since AWS was last asked, each with the instant to ask from: where it
    was left, or when its first node was launched, but not before `earliest` (AWS keeps 90 days).

    `unknown_only`: only pairs that AWS was never asked for.
    """
    born = func.coalesce(_NODES.launched_at, _NODES.first_seen_at, _NODES.changed_at)
    died = func.coalesce(_NODES.ended_at, _NODES.changed_at)
    alive = _NODES.state != NodeState.GONE.value
    look = and_(_LOOKS.instance_type == _NODES.instance_type, _LOOKS.zone == _NODES.zone)
    due = or_(_LOOKS.known_until.is_(None), alive, died > _LOOKS.known_until)
    query = (
        select(
            _NODES.instance_type,
            _NODES.zone,
            func.max(_NODES.region),
            func.min(born),
            func.max(_LOOKS.known_until),
        )
        .select_from(plain(NodeRow).outerjoin(spot_price_looks, look))
        .where(_NODES.instance_type != "", _NODES.zone != "", _NODES.pay_type != "on-demand")
        .where(or_(alive, died >= earliest), _LOOKS.looked_at.is_(None) if unknown_only else due)
        .group_by(_NODES.instance_type, _NODES.zone)
        .order_by(_NODES.instance_type, _NODES.zone)
    )
    return [
        SpotPair(
            instance_type=instance_type,
            zone=zone,
            region=_region(region, zone),
            since=max(known or first or earliest, earliest),
            new=known is None,
        )
        for instance_type, zone, region, first, known in session.execute(query)
    ]


def types_to_ask(session: Session, *, stale: datetime) -> list[ListedType]:
    """Instance types by region that nodes in the records have and whose list price was not looked at since `stale`."""
    query = select(_NODES.instance_type, _NODES.zone, _NODES.region).where(_NODES.instance_type != "").distinct()
    used = {(kind, _region(region, zone)) for kind, zone, region in session.execute(query)}
    fresh = select(_LISTED.instance_type, _LISTED.region).where(_LISTED.looked_at >= stale)
    used -= {(kind, region) for kind, region in session.execute(fresh)}
    return [ListedType(instance_type=kind, region=region) for kind, region in sorted(used) if region]


def storage_regions_to_ask(session: Session, *, stale: datetime, store: str = "") -> list[str]:
    """Regions of nodes in the records, and that of the `store`, whose storage prices were not looked at since
    `stale`."""
    query = select(_NODES.zone, _NODES.region).distinct()
    used = {_region(region, zone) for zone, region in session.execute(query)} | {region_of(store)}
    fresh = select(_STORAGE.region).where(_STORAGE.looked_at >= stale).distinct()
    return sorted(used - set(session.scalars(fresh)) - {""})


def newest_region(session: Session) -> str:
    """Where the newest node is; of the shipped price table while there is none."""
    newest = select(_NODES.zone, _NODES.region).where(_NODES.zone != "").order_by(_NODES.changed_at.desc()).limit(1)
    found = session.execute(newest).first()
    return (_region(found.region, found.zone) if found else "") or TABLE_REGION


def forget_old_points(session: Session, before: datetime) -> int:
    """Drop Spot prices that were over by `before`, or by the oldest running job's begin; the one that held then stays.
    How many went."""
    before = min(before, _oldest_running(session) or before)
    later = spot_prices.alias()
    over = (
        select(later.c.at)
        .where(later.c.instance_type == _SPOT.instance_type, later.c.zone == _SPOT.zone)
        .where(later.c.at > _SPOT.at, later.c.at <= before)
    )
    return int(session.connection().execute(delete(spot_prices).where(over.exists())).rowcount)


def jobs_to_work_out(
    session: Session, *, since: datetime | None, pairs: Collection[tuple[str, str]], after: str, limit: int
) -> list[str]:
    """Ids of jobs whose ledger may have changed without a word from them, in order, after `after`: those that run;
    those that ended, or whose node did, after `since` (None: none); those on nodes of `pairs`, whose prices are new."""
    running = [state.value for state in JobState if state not in FINISHED_STATES]
    queries = [select(_JOBS.job_id).where(_JOBS.state.in_(running))]
    touched = [and_(_NODES.instance_type == kind, _NODES.zone == zone) for kind, zone in pairs]
    if since is not None:
        queries.append(select(_JOBS.job_id).where(_JOBS.finished_at > since))
        touched.append(_NODES.ended_at > since)
    if touched:
        joined = plain(AttemptRow).join(plain(NodeRow), _NODES.instance_id == _ATTEMPTS.instance_id)
        queries.append(select(_ATTEMPTS.job_id).select_from(joined).where(or_(*touched)).distinct())
    found: set[str] = set()
    for query in queries:
        job_id = query.selected_columns[0]
        found.update(session.scalars(query.where(job_id > after).order_by(job_id).limit(limit)))
    return sorted(found)[:limit]


def _oldest_running(session: Session) -> datetime | None:
    running = [state.value for state in JobState if state not in FINISHED_STATES]
    oldest: datetime | None = session.scalar(select(func.min(_JOBS.created_at)).where(_JOBS.state.in_(running)))
    return oldest
