"""Going on from the kept checkpoint of a job that ended, in a new Batch job."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from api.dependencies import Asking, Database, JobId, Workflows
from api.serving.errors import described
from perdure.contracts.resumption import ResumeJob
from perdure.domain.errors import NotResumable
from perdure.domain.jobs import FINISHED_STATES, Job
from perdure.records.jobs.jobs import get_job
from perdure.records.schema.database import reading

router = APIRouter(prefix="/jobs", tags=["jobs"])
_JOB_ID_EXAMPLE = "5b3f1d0e-8a0c-4c8e-9f0e-2d6c8a1b7e55"


class ResumedJob(BaseModel):
    """The new Batch job."""

    job_id: str = Field(
        description="Batch's id of the new job; look at it under /api/v1/jobs.", examples=[_JOB_ID_EXAMPLE]
    )
    job_name: str = Field(description="Its name in Batch.", examples=["align-resumed-3f2a91c04d"])
    queue: str = Field(description="The job queue it was submitted to: the old one's.", examples=["spot"])
    resumed_from: str = Field(description="The job that ended.", examples=[_JOB_ID_EXAMPLE])
    checkpoint: int = Field(description="Number of the checkpoint that it goes on from.", examples=[7])
    cpu_features: list[str] = Field(
        description="Instruction sets that its instance must have, or its start fails there.",
        examples=[["avx", "avx2"]],
    )
    remarks: list[str] = Field(description="What to know about it.")


@router.post(
    "/{job_id}/resume",
    summary="Submit a new job that goes on from this one's kept checkpoint",
    status_code=HTTPStatus.CREATED,
    responses=described(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GATEWAY_TIMEOUT),
)
async def resume(
    database: Database,
    workflows: Workflows,
    asking: Asking,
    job_id: JobId,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern="^[A-Za-z0-9._-]{1,64}$",
            description="The same key gives the same new job, however often it is asked; another one is refused.",
        ),
    ] = None,
) -> ResumedJob:
    """For a job that ended and whose checkpoint was kept: a reclaim took its last attempt, or diagnosis mode is on. The
    new job has the old one's definition, queue, command, variables, resources, retry strategy, time-out and tags, and
    begins where the checkpoint was taken. 409 says why that cannot be: the job still runs, nothing was kept, its volume
    is gone, or it was resumed already.

    **It is a new job with a new id. Workflow managers such as Nextflow wait for the old id and will not follow it.**
    Inside its processes `AWS_BATCH_JOB_ID` and everything else that they read at their start stays the old job's.
    """
    job = await run_in_threadpool(_job, database, job_id)
    if job.state not in FINISHED_STATES:
        raise NotResumable(f"Job {job_id} has not ended ({job.state}); only a job that has can be resumed.")
    resumed = await workflows.resume(
        ResumeJob(
            job_id=job_id,
            request_id=idempotency_key or uuid.uuid4().hex,
            asked_by=asking.name,
            asked_at=datetime.now(UTC),
        )
    )
    used = next((one for one in job.checkpoints if one.number == resumed.checkpoint), None)
    return ResumedJob(
        job_id=resumed.new_job_id,
        job_name=resumed.job_name,
        queue=resumed.queue,
        resumed_from=job_id,
        checkpoint=resumed.checkpoint,
        cpu_features=used.cpu_features.split() if used else [],
        remarks=[
            f"This is a new Batch job. Workflow managers such as Nextflow wait for {job_id} and will not follow it.",
            f"Inside its processes AWS_BATCH_JOB_ID stays {job_id}, as does all else that they read at their start.",
            f"See /api/v1/jobs/{resumed.new_job_id} once its container starts; the timeline of {job_id} names it too.",
        ],
    )


def _job(engine: Engine, job_id: str) -> Job:
    with reading(engine) as session:
        return get_job(session, job_id)
