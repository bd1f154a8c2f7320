"""A job's life over its nodes as a picture needs it, and where Temporal shows its workflow."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import Engine
from sqlmodel import Session

from api.dependencies import Database, JobId, Settings, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from api.wire.responses import Wire
from perdure.domain.life_line import Stretch, StretchKind, life_line
from perdure.records.jobs.jobs import get_job, list_checkpoints
from perdure.records.schema.database import reading

router = APIRouter(prefix="/jobs", tags=["jobs"])


class LaneView(Wire):
    """One container of the job: a line of the picture."""

    epoch: int
    attempt: int = Field(description="Batch's attempt number.")
    instance_id: str = Field(examples=["i-0123456789abcdef0"])
    zone: str = Field(examples=["us-east-1a"])
    end: str | None = Field(description="Why it ended: exited, handed over, node lost, replaced.")


class StretchView(Wire):
    """What the job did for a while."""

    kind: StretchKind = Field(
        description="`start`: its container is there, its processes are not yet. `lost`: it ran, and that work had to "
        "be done again. `wait`: for an instance."
    )
    epoch: int = Field(description="The lane that it belongs to.")
    started_at: datetime
    ended_at: datetime | None = Field(description="Null: it goes on.")
    seconds: float = Field(description="So far, if it goes on.")

    @classmethod
    def of(cls, stretch: Stretch, now: datetime) -> StretchView:
        """A stretch as it is now."""
        seconds = ((stretch.ended_at or now) - stretch.started_at).total_seconds()
        return cls(**stretch.model_dump(), seconds=round(max(0.0, seconds), 3))


class MarkView(Wire):
    """An instant of the job's life."""

    kind: str = Field(description="`periodic`, `requested` or `final`: a checkpoint. `notice`: AWS's.")
    epoch: int
    at: datetime
    number: int | None = Field(description="Of the checkpoint.")
    stood_seconds: float | None = Field(description="How long the job stood still for the checkpoint.")


class LifeLineView(Wire):
    """A job's life so far. Stretches follow each other; freezes for checkpoints are marks, within a run."""

    now: datetime = Field(description="Until when it is known.")
    lanes: list[LaneView] = Field(description="By epoch.")
    stretches: list[StretchView] = Field(description="By their begin.")
    marks: list[MarkView] = Field(description="By their instant.")


class WorkflowView(Wire):
    """The job's workflow in Temporal."""

    workflow_id: str
    run_id: str | None = Field(description="Null: Temporal does not know it (any more).")
    url: str | None = Field(description="Temporal's page of it; null: there is none that this server knows of.")


@router.get(
    "/{job_id}/life-line",
    summary="A job's life over nodes and zones, as a picture needs it",
    responses=described(HTTPStatus.NOT_FOUND),
)
@reads
def job_life_line(session: Session, job_id: JobId) -> LifeLineView:
    job, now = get_job(session, job_id), datetime.now(UTC)
    found = life_line(job, [one for one, _ in list_checkpoints(session, job_id)], now)
    return LifeLineView(
        now=job.finished_at or now,
        lanes=[LaneView.model_validate(attempt) for attempt in job.attempts],
        stretches=[StretchView.of(stretch, now) for stretch in found.stretches],
        marks=[MarkView.model_validate(mark) for mark in found.marks],
    )


@router.get(
    "/{job_id}/workflow",
    summary="Where Temporal shows a job's workflow",
    responses=described(HTTPStatus.NOT_FOUND),
)
async def job_workflow(database: Database, workflows: Workflows, settings: Settings, job_id: JobId) -> WorkflowView:
    """Finished workflows are kept for as long as their namespace says. Temporal's page needs the run id: without it, it
    answers 500 for some workflows."""
    await run_in_threadpool(_must_be_known, database, job_id)
    namespace, workflow_id, run_id = await workflows.run_of(job_id)
    url = None
    if settings.temporal_ui_url and run_id:
        path = "/".join(quote(part, safe="") for part in (workflow_id, run_id))
        url = f"{settings.temporal_ui_url.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows/{path}/history"
    return WorkflowView(workflow_id=workflow_id, run_id=run_id, url=url)


def _must_be_known(engine: Engine, job_id: str) -> None:
    with reading(engine) as session:
        get_job(session, job_id)
