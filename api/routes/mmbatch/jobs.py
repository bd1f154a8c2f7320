"""Jobs and nodes as MMBatch's API shows them, for scripts that read it. What is shown is ours, put into its shapes.

Its objects are known from its documentation's samples; `volumnId` is spelt as it spells it. Unlike there, lists come in
pages, newest first: the header `Link` leads to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from sqlmodel import Session

from api.dependencies import Cursor, JobId
from api.routes.jobs import Filtered
from api.routes.nodes import Filtered as FilteredNodes
from api.serving.errors import described
from api.serving.reading import reads
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState
from perdure.domain.nodes import Node
from perdure.records.jobs.events import timelines
from perdure.records.jobs.job_lists import list_jobs
from perdure.records.jobs.jobs import get_job, get_jobs
from perdure.records.nodes.node_lists import list_nodes

router = APIRouter(tags=["mmbatch"])
_TYPES = {
    "started": "Job-Running",
    "restored": "Job-RestoreSucceeded",
    "restore failed": "Job-RestoreFailed",
    "notice": "Job-Checkpointing",
    "checkpoint": "Job-CheckpointSucceeded",
    "checkpoint failed": "Job-CheckpointFailed",
}
"""Our kinds of events that are one of its types as they are."""
_ENDS = {JobState.SUCCEEDED: "Job-Succeeded", JobState.FAILED: "Job-Failed", JobState.STOPPED: "Job-Stopped"}

Limit = Annotated[int, Query(ge=1, le=1000, description="Entries per page.")]


class MMBatchEvent(BaseModel):
    """One step of a job."""

    timestamp: datetime = Field(examples=["2026-03-01T12:00:00Z"], description="UTC.")
    eventType: str = Field(examples=["Job-CheckpointSucceeded"], description="What happened.")
    nodeOid: str = Field(examples=["i-0123456789abcdef0"], description="The instance it happened on; may be empty.")
    containerId: str = Field(description="The container it happened to; may be empty.")
    batchJobId: str = Field(description="AWS Batch's job id.")
    volumnId: str = Field(examples=["vol-0123456789abcdef0"], description="The volume it is about; mostly empty.")


class MMBatchJob(BaseModel):
    """A job."""

    id: str = Field(description="AWS Batch's job id.")
    queueName: str = Field(examples=["spot"], description="The job queue.")
    createdAt: datetime = Field(description="UTC.")
    updatedAt: datetime = Field(description="When anything last changed.")
    status: JobState = Field(description="The states have the same names.")
    nodeOid: str = Field(description="The instance it runs, or ran last, on; may be empty.")
    containerId: str = Field(description="The container it runs, or ran last, in; may be empty.")
    spotProtCount: int = Field(examples=[2], description="Reclaims survived.")
    checkpointAttempts: int = Field(examples=[5], description="Checkpoints that were tried.")
    checkpointSucceeded: int = Field(examples=[5], description="Checkpoints that were committed.")
    batchJobIds: list[str] = Field(description="The same id: a job keeps it.")
    volumeIds: list[str] = Field(description="Every volume that was made for it.")
    events: list[MMBatchEvent] = Field(description="Oldest first; at most the first 500.")


class MMBatchInstance(BaseModel):
    """What EC2 says of a node."""

    zone: str = Field(examples=["us-east-1a"])
    instanceId: str = Field(examples=["i-0123456789abcdef0"])
    instanceType: str = Field(examples=["m5.2xlarge"])
    region: str = Field(examples=["us-east-1"])
    createTime: datetime | None = Field(description="When it was launched (UTC).")
    payType: str = Field(examples=["spot"], description="`spot` or `on-demand`; empty: not known.")


class MMBatchNode(BaseModel):
    """A worker instance."""

    id: str = Field(description="The instance id.")
    ips: list[str] = Field(examples=[["10.0.0.17"]])
    hostName: str = Field(examples=["ip-10-0-0-17"])
    cloud: str = Field(examples=["aws"])
    arch: str = Field(examples=["x86_64"])
    cores: int | None = Field(examples=[8], description="vCPUs.")
    cpuModel: str = Field(examples=["AMD EPYC 7R13"])
    cpuVendor: str = Field(examples=["AuthenticAMD"])
    memoryInMB: int | None = Field(examples=[31744], description="MiB.")
    instance: MMBatchInstance
    lastHeartbeat: datetime | None = Field(description="When the node last told of a change: there are no heartbeats.")


@router.get("/job", summary="Jobs in MMBatch's shape, newest first")
@reads
def mmbatch_jobs(
    session: Session,
    request: Request,
    response: Response,
    where: Filtered,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> list[MMBatchJob]:
    page = list_jobs(session, limit=limit, after=cursor, where=where)
    _link(request, response, page.next)
    ids = [line.job_id for line in page.items]
    lines = timelines(session, ids)
    return [_job(job, lines.get(job.job_id, [])) for job in get_jobs(session, ids)]


@router.get("/job/{job_id}", summary="One job in MMBatch's shape", responses=described(HTTPStatus.NOT_FOUND))
@reads
def mmbatch_job(session: Session, job_id: JobId) -> MMBatchJob:
    return _job(get_job(session, job_id), timelines(session, [job_id]).get(job_id, []))


@router.get("/node", summary="Nodes in MMBatch's shape, by instance id")
@reads
def mmbatch_nodes(
    session: Session,
    request: Request,
    response: Response,
    where: FilteredNodes,
    limit: Limit = 1000,
    cursor: Cursor = None,
) -> list[MMBatchNode]:
    page = list_nodes(session, limit=limit, after=cursor, where=where)
    _link(request, response, page.next)
    return [_node(node) for node in page.items]


def _link(request: Request, response: Response, following: str | None) -> None:
    if following is not None:
        # Without the host: that is whatever the client wrote.
        url = request.url.include_query_params(cursor=following)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


def _job(job: Job, lines: list[JobEvent]) -> MMBatchJob:
    last = job.attempts[-1] if job.attempts else None
    return MMBatchJob(
        id=job.job_id,
        queueName=job.queue,
        createdAt=job.created_at,
        updatedAt=job.changed_at or job.finished_at or job.created_at,
        status=job.state,
        nodeOid=last.instance_id if last else "",
        containerId=last.container_id if last else "",
        spotProtCount=job.protections,
        checkpointAttempts=job.checkpoints_committed + job.checkpoint_failures,
        checkpointSucceeded=job.checkpoints_committed,
        batchJobIds=[job.job_id],
        volumeIds=[volume.volume_id for volume in job.volumes],
        events=sorted(_events(job, lines), key=lambda event: event.timestamp),
    )


def _events(job: Job, lines: list[JobEvent]) -> Iterator[MMBatchEvent]:
    by_epoch = {attempt.epoch: attempt for attempt in job.attempts}
    arrived = False

    def event(at: datetime, kind: str, attempt: Attempt | None = None, volume: str = "") -> MMBatchEvent:
        return MMBatchEvent(
            timestamp=at,
            eventType=kind,
            nodeOid=attempt.instance_id if attempt else "",
            containerId=attempt.container_id if attempt else "",
            batchJobId=job.job_id,
            volumnId=volume,
        )

    yield event(job.created_at, "Job-Creating")
    for line in lines:
        attempt = by_epoch.get(line.epoch or 0)
        if line.kind == "attached":
            yield event(line.at, "Job-Restoring" if arrived else "Job-Created", attempt)
            arrived = True
        elif line.kind == "finished":
            yield event(line.at, _ENDS.get(job.state, "Job-Stopped"), attempt)
        elif line.kind in _TYPES:
            yield event(line.at, _TYPES[line.kind], attempt)
    for volume in job.volumes:
        yield event(volume.created_at, "Volume-Created", volume=volume.volume_id)
        for attempt in job.attempts:
            deleted = volume.deleted_at
            if (
                attempt.started_at
                and attempt.zone == volume.zone
                and volume.created_at <= attempt.started_at
                and (deleted is None or attempt.started_at < deleted)
            ):
                yield event(attempt.started_at, "Volume-Attached", attempt, volume.volume_id)


def _node(node: Node) -> MMBatchNode:
    return MMBatchNode(
        id=node.instance_id,
        ips=node.ips,
        hostName=node.host_name,
        cloud="aws",
        arch=node.arch,
        cores=node.vcpus,
        cpuModel=node.cpu_model,
        cpuVendor=node.cpu_vendor,
        memoryInMB=node.memory_mib,
        instance=MMBatchInstance(
            zone=node.zone,
            instanceId=node.instance_id,
            instanceType=node.instance_type,
            region=node.region,
            createTime=node.launched_at,
            payType=node.pay_type,
        ),
        lastHeartbeat=node.changed_at,
    )
