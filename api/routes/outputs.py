"""What a job printed: one log out of the log streams of its containers."""

from __future__ import annotations

import uuid
from datetime import datetime
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import Engine

from api.dependencies import Database, JobId, Settings, Workflows
from api.serving.errors import described
from api.wire.responses import Wire
from perdure.contracts.outputs import JobOutput, OutputStream, ReadOutput, StreamOutput
from perdure.domain.checkpoints import Checkpoint
from perdure.domain.jobs import Attempt, Job
from perdure.domain.log_pages import log_page
from perdure.domain.outputs import undone_after
from perdure.records.jobs.jobs import get_job, list_checkpoints
from perdure.records.schema.database import reading

router = APIRouter(prefix="/jobs", tags=["logs"])
UNKNOWN = "AWS Batch has named no CloudWatch log stream of this job: it has not run yet, or it logs elsewhere."


class PrintedLineView(Wire):
    """A line that the job printed."""

    at: datetime = Field(description="When the instance took it from the container.")
    text: str
    undone: bool = Field(description="The job went on from before this line, and printed it again.")


class ContainerOutputView(Wire):
    """The end of what one container printed."""

    epoch: int
    attempt: int = Field(description="Batch's attempt number.")
    instance_id: str
    zone: str
    restored_from: int | None = Field(description="The checkpoint that it went on from; null: it began clean.")
    log_stream: str
    log_url: str | None = Field(description="That stream's page in the AWS console.")
    lines: list[PrintedLineView]
    cut: bool = Field(description="Is there more before the first line?")
    failure: str = Field(description="Why nothing could be read; empty: something was.")


class JobOutputView(Wire):
    """What a job printed, in order."""

    log_group: str
    containers: list[ContainerOutputView] = Field(description="Oldest first; those whose log stream is known.")
    failure: str = Field(description="Why nothing could be read at all; empty: something was.")


@router.get("/{job_id}/output", summary="What a job printed, in one log", responses=described(HTTPStatus.NOT_FOUND))
async def job_output(database: Database, workflows: Workflows, settings: Settings, job_id: JobId) -> JobOutputView:
    """The newest 256 KiB of it, as CloudWatch Logs has it: the control worker reads the log stream of each container.
    Lines that a restore undid, and that the job printed again, are marked `undone`."""
    job, checkpoints = await run_in_threadpool(_known, database, job_id)
    attempts = {one.epoch: one for one in job.attempts if one.log_stream}
    if not (attempts and job.log_group):
        return JobOutputView(log_group=job.log_group, containers=[], failure=UNKNOWN)
    streams = [OutputStream(epoch=epoch, name=one.log_stream) for epoch, one in sorted(attempts.items())]
    request = ReadOutput(job_id=job_id, group=job.log_group, streams=streams)
    found: JobOutput = await workflows.read_output(request, uuid.uuid4().hex)
    undone = undone_after(job.attempts, checkpoints)
    console = not settings.aws_endpoint_url
    views = [_view(one, attempts[one.epoch], undone.get(one.epoch), console, job.log_group) for one in found.streams]
    return JobOutputView(log_group=job.log_group, containers=views, failure=found.failure)


def _known(engine: Engine, job_id: str) -> tuple[Job, list[Checkpoint]]:
    with reading(engine) as session:
        return get_job(session, job_id), [one for one, _ in list_checkpoints(session, job_id)]


def _view(
    found: StreamOutput, attempt: Attempt, undone: datetime | None, console: bool, group: str
) -> ContainerOutputView:
    return ContainerOutputView(
        **attempt.model_dump(include={"epoch", "attempt", "instance_id", "zone", "restored_from", "log_stream"}),
        log_url=log_page(attempt.zone, group, attempt.log_stream) if console else None,
        lines=[
            PrintedLineView(at=line.at, text=line.text, undone=undone is not None and line.at > undone)
            for line in found.lines
        ],
        cut=found.cut,
        failure=found.failure,
    )
