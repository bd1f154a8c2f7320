"""Orphans: volumes and snapshots in AWS that no live job and no kept record owns, and what they cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import Engine
from sqlmodel import Session

from api.auth.rules import only_asks
from api.dependencies import Cursor, Database, Limit, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from api.wire.responses import PageOf, Wire
from perdure.contracts.orphans import FindOrphans
from perdure.domain.orphans import KnownOrphan, OrphanKind, OrphanSums
from perdure.records.jobs.orphans import list_orphans, sum_orphans
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration

router = APIRouter(prefix="/volumes/orphans", tags=["volumes"])
GIB = 1 << 30


class OrphanView(Wire):
    """A volume or snapshot with Perdure's tags that nobody owns."""

    resource_id: str = Field(examples=["vol-0123456789abcdef0", "snap-0123456789abcdef0"])
    kind: OrphanKind
    job_id: str = Field(description="The job that it was made for, by its tag.")
    reason: str = Field(description="Why nobody owns it.")
    refusal: str = Field(description="Why it is not deleted all the same; empty: it is.")
    place: str = Field(description="A volume's zone, a snapshot's region.", examples=["us-east-1a"])
    volume_type: str = Field(description="Empty for snapshots.", examples=["gp3"])
    size_bytes: int = Field(description="Of a snapshot: at most so many, it shares blocks with others.")
    created_at: datetime
    found_at: datetime = Field(description="Since when nobody has owned it, at each look.")
    deletes_at: datetime | None = Field(
        description="From then on it is deleted (`server.orphan_grace_seconds`); null: it is not, or it was."
    )
    deleted_at: datetime | None = Field(description="When Perdure deleted it; null: it is there.")
    usd_per_month: float | None = Field(description="Null: no price is known.", examples=[8.0])
    estimated: bool = Field(description="Does that rest on a price that is estimated?")


class OrphanTotals(Wire):
    """All orphans, whatever the page: found, and deleted (as long as `server.keep_audit_seconds` remembers)."""

    found: int
    found_bytes: int
    found_usd_per_month: float = Field(description="Of those whose price is known.")
    kept: int = Field(description="Of those found: they are only told of, see `refusal`.")
    deleted: int
    deleted_bytes: int
    saved_usd_per_month: float = Field(description="What those that were deleted would go on costing.")
    estimated: bool = Field(description="Does any of it rest on a price that is estimated?")
    unpriced: int = Field(description="How many have no known price.")


class PageOfOrphans(PageOf[OrphanView]):
    """One page, and the sums of all."""

    totals: OrphanTotals


class OrphanSearchAnswer(Wire):
    """What AWS shows now: the dearest first, at most 1,000; the totals are of all."""

    items: list[OrphanView]
    totals: OrphanTotals


@router.get("", summary="Orphans, as the hourly look found them")
@reads
def orphans(
    session: Session,
    limit: Limit = 100,
    cursor: Cursor = None,
    deleted: Annotated[bool, Query(description="Those that were deleted, instead of those that are there.")] = False,
) -> PageOfOrphans:
    """The latest found first. AWS is not asked; POST to /volumes/orphans/search does that."""
    now = datetime.now(UTC)
    page = list_orphans(session, now=now, limit=limit, after=cursor, gone=deleted)
    grace = _grace(session)
    return PageOfOrphans(
        items=[_view(one, grace) for one in page.items],
        next=page.next,
        totals=_totals(sum_orphans(session, now=now)),
    )


@router.post(
    "/search",
    summary="Look for orphans in AWS now; nothing is deleted",
    responses=described(HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE),
)
@only_asks
async def search(database: Database, workflows: Workflows) -> OrphanSearchAnswer:
    """A dry run of the hourly look: what it would find, and from when on it would delete each."""
    found = await workflows.find_orphans(FindOrphans(now=datetime.now(UTC)))
    grace = await run_in_threadpool(_read_grace, database)
    return OrphanSearchAnswer(items=[_view(one, grace) for one in found.items], totals=_totals(found.totals))


def _read_grace(engine: Engine) -> timedelta:
    with reading(engine) as session:
        return _grace(session)


def _grace(session: Session) -> timedelta:
    return timedelta(seconds=current_configuration(session).server.orphan_grace_seconds)


def _view(known: KnownOrphan, grace: timedelta) -> OrphanView:
    orphan = known.orphan
    ends = bool(grace) and not orphan.refusal and known.deleted_at is None
    return OrphanView(
        **orphan.thing.model_dump(exclude={"installation", "holder", "size_gib"}),
        reason=orphan.reason,
        refusal=orphan.refusal,
        size_bytes=orphan.thing.size_gib * GIB,
        found_at=known.found_at,
        deletes_at=known.found_at + grace if ends else None,
        deleted_at=known.deleted_at,
        usd_per_month=None if known.month_micros is None else known.month_micros / 1_000_000,
        estimated=known.estimated,
    )


def _totals(sums: OrphanSums) -> OrphanTotals:
    return OrphanTotals(
        found=sums.found,
        found_bytes=sums.size_gib * GIB,
        found_usd_per_month=sums.month_micros / 1_000_000,
        kept=sums.kept,
        deleted=sums.deleted,
        deleted_bytes=sums.deleted_size_gib * GIB,
        saved_usd_per_month=sums.saved_month_micros / 1_000_000,
        estimated=sums.estimated,
        unpriced=sums.unpriced,
    )
