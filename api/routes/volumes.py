"""Volumes: the job volumes that exist, whose they are, what they cost a month, and until when they are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import Engine
from sqlmodel import Session

from api.dependencies import Asking, Cursor, Database, Limit, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from api.wire.responses import PageOf, Wire
from perdure.contracts.kept_volumes import RemoveVolume
from perdure.domain.jobs import JobState
from perdure.records.jobs.kept_volumes import find_volume
from perdure.records.jobs.volume_lists import ExistingVolume, list_volumes, sum_volumes
from perdure.records.schema.database import reading

router = APIRouter(prefix="/volumes", tags=["volumes"])
VolumeId = Annotated[str, Path(pattern="^vol-[0-9a-zA-Z]{1,40}$", examples=["vol-0123456789abcdef0"])]


class ExistingVolumeView(Wire):
    """A job volume that was not deleted."""

    volume_id: str = Field(examples=["vol-0123456789abcdef0"])
    job_id: str = Field(description="Whose it is.")
    job_name: str
    queue: str
    job_state: JobState
    kept: bool = Field(description="Its job is over, and it was kept: the diagnosis setting, or a clean-up to come.")
    zone: str
    volume_type: str = Field(examples=["gp3"])
    size_gib: int
    created_at: datetime
    age_seconds: float = Field(description="How long it has existed.", examples=[86_400.0])
    kept_since: datetime | None = Field(description="When its job ended; null: its job is not over.")
    kept_until: datetime | None = Field(
        description="When it is deleted (`server.keep_volume_seconds` of the configuration); null: it goes with its"
        " job, or is kept until a person deletes it."
    )
    instance_id: str | None = Field(description="The node whose container has it now; null: none has.")
    usd_per_month: float | None = Field(description="Null: no price is known of that type there.", examples=[8.0])
    cost_usd: float | None = Field(description="What it has cost since it was made.", examples=[0.31])
    estimated: bool = Field(description="Does that rest on a price that is estimated?")


class VolumeTotals(Wire):
    """All volumes that exist, whatever the page."""

    volumes: int
    size_gib: int
    usd_per_month: float = Field(description="Of those whose price is known.")
    estimated: bool = Field(description="Does that rest on a price that is estimated?")
    unpriced: int = Field(description="Volumes whose price is not known.")
    kept: int = Field(description="Volumes of jobs that are over.")
    kept_usd_per_month: float


class PageOfVolumes(PageOf[ExistingVolumeView]):
    """One page, and the sums of all."""

    totals: VolumeTotals


@router.get("", summary="Volumes that exist, newest first")
@reads
def volumes(
    session: Session,
    limit: Limit = 100,
    cursor: Cursor = None,
    kept: Annotated[
        bool | None, Query(description="Only those of jobs that are over; or, if false, only the others.")
    ] = None,
) -> PageOfVolumes:
    """As the jobs' workflows told of them; AWS is not asked. Months are the calendar's."""
    now = datetime.now(UTC)
    page = list_volumes(session, now=now, limit=limit, after=cursor, kept=kept)
    sums = sum_volumes(session, now=now)
    totals = VolumeTotals(
        **sums.model_dump(exclude={"month_micros", "kept_month_micros"}),
        usd_per_month=sums.month_micros / 1_000_000,
        kept_usd_per_month=sums.kept_month_micros / 1_000_000,
    )
    return PageOfVolumes(items=[_view(each) for each in page.items], next=page.next, totals=totals)


class DeletedVolume(Wire):
    """A volume that is no more."""

    volume_id: str = Field(examples=["vol-0123456789abcdef0"])
    job_id: str = Field(description="The job that it was kept for. It cannot be resumed any more.")


@router.delete(
    "/{volume_id}",
    summary="Delete a kept volume, with the checkpoints on it",
    responses=described(
        HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE
    ),
)
async def delete_volume(database: Database, workflows: Workflows, asking: Asking, volume_id: VolumeId) -> DeletedVolume:
    """For a volume whose job is over. 409 says why it is not deleted: its job goes on, a resumed job is about to take
    it, it is attached to an instance, or it does not bear Perdure's tags."""
    await run_in_threadpool(_known, database, volume_id)
    request = RemoveVolume(volume_id=volume_id, asked_by=asking.name, asked_at=datetime.now(UTC))
    done = await workflows.remove_volume(request)
    return DeletedVolume(volume_id=volume_id, job_id=done.job_id)


def _known(engine: Engine, volume_id: str) -> None:
    """UnknownVolume."""
    with reading(engine) as session:
        find_volume(session, volume_id)


def _view(volume: ExistingVolume) -> ExistingVolumeView:
    return ExistingVolumeView(
        **volume.model_dump(exclude={"month_micros", "cost_micros"}),
        usd_per_month=None if volume.month_micros is None else volume.month_micros / 1_000_000,
        cost_usd=None if volume.cost_micros is None else volume.cost_micros / 1_000_000,
    )
