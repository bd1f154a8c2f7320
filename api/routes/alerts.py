"""What is wrong, or soon will be, with jobs that are not finished; and jobs that are, which somebody can resume."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from sqlmodel import Session

from api.dependencies import Cursor
from api.serving.reading import reads
from api.wire.responses import AlertView, KeptCheckpointView, Wire
from perdure.domain.alerts import Alert, alerts, worst_first
from perdure.domain.jobs import FINISHED_STATES, Job, JobState
from perdure.domain.standing import Kept, standing
from perdure.records.jobs.job_lists import JobFilter, list_jobs
from perdure.records.jobs.jobs import get_jobs
from perdure.records.jobs.kept_jobs import waiting_jobs

router = APIRouter(tags=["jobs"])
MOST_RESUMABLE = 100
SOON = timedelta(days=1)
UNFINISHED = JobFilter(states=frozenset(JobState) - FINISHED_STATES)


class JobAlertView(AlertView):
    """An alert, and the job that it is about."""

    job_id: str
    name: str
    queue: str
    state: JobState


class ResumableView(KeptCheckpointView):
    """A job that is over, did not succeed, and left a checkpoint from which nobody has resumed it yet."""

    job_id: str
    name: str
    queue: str
    state: JobState
    standing: str = Field(description="What became of it, for people.")
    finished_at: datetime | None
    ends_soon: bool = Field(description="The checkpoint is deleted within a day.")


class Alerts(Wire):
    """The alerts of one page of unfinished jobs, the worst first."""

    items: list[JobAlertView]
    jobs: int = Field(description="How many unfinished jobs were looked at for this page.")
    next: str | None = Field(description="Pass it as `cursor` for the next jobs; null: all were looked at.")
    resumable: list[ResumableView] = Field(
        description=f"Jobs that are over and wait for somebody to resume them, at most {MOST_RESUMABLE}: first those"
        " whose checkpoint is deleted first. Only with the first page."
    )


@router.get("/alerts", summary="Alerts of all jobs that are not finished, and ended jobs to resume")
@reads
def all_alerts(
    session: Session,
    jobs: Annotated[int, Query(ge=1, le=500, description="Unfinished jobs to look at for one page.")] = 500,
    cursor: Cursor = None,
) -> Alerts:
    """Worked out now from the jobs as recorded, the newest jobs first. The alerts of one page are sorted, the worst
    first; with more unfinished jobs than one page takes (`next` is not null), each page is sorted by itself."""
    page = list_jobs(session, limit=jobs, after=cursor, where=UNFINISHED)
    now = datetime.now(UTC)
    known = get_jobs(session, [line.job_id for line in page.items])
    found = [(alert, job) for job in known for alert in alerts(job, now)]
    found.sort(key=lambda pair: worst_first(pair[0]))
    waiting = [] if cursor else [_resumable(job, kept, now) for job, kept in waiting_jobs(session, MOST_RESUMABLE)]
    return Alerts(items=[_view(alert, job) for alert, job in found], jobs=len(known), next=page.next, resumable=waiting)


def _resumable(job: Job, kept: Kept, now: datetime) -> ResumableView:
    return ResumableView(
        **kept.model_dump(),
        job_id=job.job_id,
        name=job.name,
        queue=job.queue,
        state=job.state,
        standing=standing(job, now, kept),
        finished_at=job.finished_at,
        ends_soon=kept.until is not None and kept.until - now < SOON,
    )


def _view(alert: Alert, job: Job) -> JobAlertView:
    return JobAlertView(**alert.model_dump(), job_id=job.job_id, name=job.name, queue=job.queue, state=job.state)
