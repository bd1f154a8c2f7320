"""Jobs: lists, one job with its timeline, and a checkpoint on request."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import StringConstraints
from sqlalchemy import Engine
from sqlmodel import Session

from api.dependencies import Cursor, Database, JobId, Limit, Settings, Workflows
from api.serving.errors import NotRunning, described
from api.serving.parameters import NAME, Text, Time, time
from api.serving.reading import reads
from api.wire.responses import (
    AlertView,
    AttemptView,
    CheckpointCommitted,
    CheckpointView,
    CompatibleInstanceTypes,
    EventView,
    InstanceTypeFitView,
    JobCosts,
    JobDetail,
    JobListed,
    JobWithTimeline,
    KeptCheckpointView,
    PageOf,
    PastCheckpointView,
    ReclaimNowView,
    VerdictView,
)
from perdure.domain.alerts import alerts, timeout_left_seconds, verdicts
from perdure.domain.errors import UnknownJob, UnknownNode
from perdure.domain.figures import Figures
from perdure.domain.instance_types import TABLE_DATE, judge_types
from perdure.domain.jobs import FINISHED_STATES, Job, JobOrder, JobState
from perdure.domain.log_pages import log_page
from perdure.domain.run_time import batch_run_seconds, real_run_seconds
from perdure.domain.standing import reclaim_now, standing
from perdure.records.costs.job_costs import figures_of_jobs
from perdure.records.jobs.events import list_events, newest_event_of_kind, newest_events
from perdure.records.jobs.job_lists import JobFilter, list_jobs
from perdure.records.jobs.jobs import get_job, get_jobs, list_checkpoints
from perdure.records.jobs.kept_jobs import kept_of
from perdure.records.nodes.nodes import cpu_features_seen, get_node
from perdure.records.schema.database import reading

router = APIRouter(prefix="/jobs", tags=["jobs"])
EVENTS_WITH_JOB = 500
MOST_NAMES = 20
_HOUR_MS = 3_600_000
_USD = 1_000_000
"""Micro-dollars."""


Name = Annotated[str, StringConstraints(pattern=NAME)]


async def job_filter(
    q: Text = "",
    status: Annotated[list[JobState] | None, Query(max_length=14, description="In these states; repeatable.")] = None,
    queue: Annotated[
        list[Name] | None, Query(max_length=MOST_NAMES, description="Of these job queues; repeatable.")
    ] = None,
    zone: Annotated[
        list[Name] | None, Query(max_length=MOST_NAMES, description="In these zones, or last there; repeatable.")
    ] = None,
    node: Annotated[
        list[Name] | None, Query(max_length=MOST_NAMES, description="On these instances, or last there; repeatable.")
    ] = None,
    unprotected: Annotated[
        bool, Query(description="Only jobs that a reclaim would cost, or would have cost, their work.")
    ] = False,
    created_after: Annotated[Time, time("Created then or later")] = None,
    created_before: Annotated[Time, time("Created earlier")] = None,
    finished_after: Annotated[Time, time("Finished then or later")] = None,
    finished_before: Annotated[Time, time("Finished earlier")] = None,
) -> JobFilter:
    """Which jobs a list holds, from its query."""
    return JobFilter(
        text=q.strip(),
        states=frozenset(status or ()),
        queues=frozenset(queue or ()),
        zones=frozenset(zone or ()),
        nodes=frozenset(node or ()),
        unprotected=unprotected,
        created_after=created_after,
        created_before=created_before,
        finished_after=finished_after,
        finished_before=finished_before,
    )


Filtered = Annotated[JobFilter, Depends(job_filter)]
Sorted = Annotated[
    JobOrder,
    Query(description="`-`: the largest first. Jobs that are not finished are not in a list sorted by `finished_at`."),
]


@router.get("", summary="List jobs, newest first")
@reads
def jobs(
    session: Session,
    where: Filtered,
    limit: Limit = 50,
    cursor: Cursor = None,
    sort: Sorted = JobOrder.NEWEST,
    detail: Annotated[bool, Query(description="Also each job's attempts, newest checkpoint and run time.")] = False,
) -> PageOf[JobListed]:
    """A list is equally fast at any depth. With `q`, a page may be short, even empty, while `next` is not null: texts
    of 1 or 2 characters, and those that very many jobs have, are looked for in 10,000 jobs per page."""
    page = list_jobs(session, limit=limit, after=cursor, where=where, order=sort)
    items = [JobListed.model_validate(job) for job in page.items]
    if detail:
        now = datetime.now(UTC)
        known = {job.job_id: job for job in get_jobs(session, [item.job_id for item in items])}
        items = [_with_place(item, known[item.job_id], now) if item.job_id in known else item for item in items]
    return PageOf(items=items, next=page.next)


def _with_place(item: JobListed, job: Job, now: datetime) -> JobListed:
    newest = job.attempts[-1] if job.attempts else None
    more = {
        "attempts": newest and newest.attempt,
        "last_checkpoint_at": job.checkpoints[-1].frozen_at if job.checkpoints else None,
        "run_seconds": real_run_seconds(job, now),
    }
    return item.model_copy(update=more)


@router.get("/{job_id}", summary="One job with its timeline", responses=described(HTTPStatus.NOT_FOUND))
@reads
def job(session: Session, job_id: JobId, settings: Settings) -> JobWithTimeline:
    known, now = get_job(session, job_id), datetime.now(UTC)
    detail = JobDetail.model_validate(known)
    if not settings.aws_endpoint_url:
        detail.attempts = [_with_log_page(one, known.log_group) for one in detail.attempts]
    events = newest_events(session, job_id, limit=EVENTS_WITH_JOB)
    preflight = newest_event_of_kind(session, job_id, "preflight")
    figures = figures_of_jobs(session, [job_id]).get(job_id, Figures())
    kept = kept_of(session, known)
    return JobWithTimeline(
        **dict(detail),
        standing=standing(known, now, kept),
        reclaim_now=(left := reclaim_now(known, now)) and ReclaimNowView.model_validate(left),
        kept=kept and KeptCheckpointView.model_validate(kept),
        costs=_costs(figures),
        alerts=[AlertView.model_validate(alert) for alert in alerts(known, now)],
        verdicts=[VerdictView.model_validate(verdict) for verdict in verdicts(known)],
        timeout_left_seconds=timeout_left_seconds(known, now),
        batch_run_seconds=batch_run_seconds(known, now),
        run_seconds=real_run_seconds(known, now),
        preflight=preflight and EventView.model_validate(preflight),
        events=[EventView.model_validate(event) for event in events],
    )


def _with_log_page(attempt: AttemptView, group: str) -> AttemptView:
    return attempt.model_copy(update={"log_url": log_page(attempt.zone, group, attempt.log_stream)})


def _costs(figures: Figures) -> JobCosts:
    protection = sum(getattr(figures, f"{kind}_micros") for kind in ("volume", "snapshot", "store", "key", "wait"))
    return JobCosts(
        cpu_hours=figures.cpu_ms / _HOUR_MS,
        instance_cost_usd=figures.instance_micros / _USD,
        cost_share_usd=figures.share_micros / _USD,
        on_demand_cost_usd=figures.on_demand_micros / _USD,
        protection_cost_usd=protection / _USD,
        saved_usd=figures.saved_micros / _USD,
        saved_hours=figures.saved_ms / _HOUR_MS,
        naive_saved_usd=figures.naive_saved_micros / _USD,
        lost_hours=figures.lost_ms / _HOUR_MS,
        estimated_usd=figures.estimated_micros / _USD,
    )


@router.get(
    "/{job_id}/events", summary="A job's timeline, oldest line first", responses=described(HTTPStatus.NOT_FOUND)
)
@reads
def events(
    session: Session,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Only lines with a higher sequence.")] = 0,
    limit: Limit = 200,
) -> list[EventView]:
    found = list_events(session, job_id, after_sequence=after, limit=limit)
    return [EventView.model_validate(event) for event in found]


@router.get(
    "/{job_id}/checkpoints",
    summary="Every checkpoint that was ever committed, oldest first",
    responses=described(HTTPStatus.NOT_FOUND),
)
@reads
def checkpoints(session: Session, job_id: JobId) -> list[PastCheckpointView]:
    return [
        PastCheckpointView(**dict(CheckpointView.model_validate(checkpoint)), offered=offered)
        for checkpoint, offered in list_checkpoints(session, job_id)
    ]


@router.get(
    "/{job_id}/compatible-instance-types",
    summary="Instance types that can restore the job's newest checkpoint",
    responses=described(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
@reads
def compatible_instance_types(session: Session, job_id: JobId) -> CompatibleInstanceTypes:
    """Judged by the CPU features that the checkpoint's processes may rely on: all that its node had, since programs
    choose their code once, at their start. 409 while nothing is known of any node of the job."""
    job = get_job(session, job_id)
    newest = job.checkpoints[-1] if job.checkpoints else None
    wanted = newest.cpu_features if newest else ""
    if not wanted and job.attempts:
        with contextlib.suppress(UnknownNode):  # not recorded yet
            wanted = get_node(session, job.attempts[-1].instance_id).cpu_features
    if not wanted:
        raise NotRunning(f"Nothing is known yet of the CPU that job {job_id} needs; ask again once it has run.")
    fits = judge_types(wanted, cpu_features_seen(session))
    return CompatibleInstanceTypes(
        job_id=job_id,
        checkpoint=newest.number if newest else None,
        needs=wanted.split(),
        table_date=TABLE_DATE,
        instance_types=[InstanceTypeFitView.model_validate(fit) for fit in fits],
    )


@router.post(
    "/{job_id}/checkpoints",
    summary="Take a checkpoint now",
    status_code=HTTPStatus.CREATED,
    responses=described(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GATEWAY_TIMEOUT),
)
async def take_checkpoint(database: Database, workflows: Workflows, job_id: JobId) -> CheckpointCommitted:
    """Returns when the checkpoint is committed, with its number; the job runs on.

    409 when the job does not run, or why it could not be checkpointed. 504 when nobody answered in time: the
    checkpoint may still be taken.
    """
    known = await run_in_threadpool(_known, database, job_id)
    if known is not None and known.state in FINISHED_STATES:
        raise NotRunning(f"Job {job_id} is finished ({known.state}); there is nothing to checkpoint.")
    try:
        checkpoint = await workflows.take_checkpoint(job_id)
    except NotRunning:
        if known is None:
            raise UnknownJob(f"There is no job {job_id}.") from None
        raise
    return CheckpointCommitted(number=checkpoint.number, checkpoint=CheckpointView.model_validate(checkpoint))


def _known(database: Engine, job_id: str) -> Job | None:
    """The job as recorded; None when its workflow has not written it yet, or there is none."""
    with reading(database) as session:
        try:
            return get_job(session, job_id)
        except UnknownJob:
            return None
