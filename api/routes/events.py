"""Timelines of all jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from sqlmodel import Session

from api.dependencies import Cursor, Limit
from api.serving.parameters import Time, time
from api.serving.reading import reads
from api.wire.responses import EventView, PageOf
from perdure.records.jobs.events import EventFilter, list_all_events

router = APIRouter(prefix="/events", tags=["events"])
JOB = r"^[A-Za-z0-9][A-Za-z0-9:_.-]{0,127}$"


class EventOfJob(EventView):
    """A line of a job's timeline, with its job."""

    job_id: str = Field(description="AWS Batch's job id.")
    name: str = Field(description="The job's name.", examples=["align-000017"])
    queue: str = Field(description="Its job queue.", examples=["spot"])


@router.get("", summary="Events of all jobs, newest first")
@reads
def events(
    session: Session,
    limit: Limit = 50,
    cursor: Cursor = None,
    job: Annotated[str | None, Query(pattern=JOB, description="Only of this job.")] = None,
    kind: Annotated[
        str | None, Query(pattern="^[a-z0-9 _-]{1,60}$", description="Only of this kind.", examples=["notice"])
    ] = None,
    level: Annotated[
        list[Literal["info", "warning", "error"]] | None,
        Query(max_length=3, description="Only of these levels; repeatable."),
    ] = None,
    since: Annotated[Time, time("Happened then or later")] = None,
    before: Annotated[Time, time("Happened earlier")] = None,
) -> PageOf[EventOfJob]:
    where = EventFilter(job_id=job, kind=kind, levels=frozenset(level or ()), since=since, before=before)
    page = list_all_events(session, limit=limit, after=cursor, where=where)
    items = [
        EventOfJob(**dict(EventView.model_validate(line.event)), job_id=line.job_id, name=line.name, queue=line.queue)
        for line in page.items
    ]
    return PageOf(items=items, next=page.next)
