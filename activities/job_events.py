"""Batch's events about jobs: so that a job that never reached an agent is known too.

An event is no more than a hint that something of a job has changed: they come in any order, and late. Batch is asked
what is true now (activities/unseen_jobs.py). Jobs that an agent has told of have a workflow, which asks by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, ValidationError
from sqlalchemy import Engine

from activities.event_queue import Event
from activities.unseen_jobs import UnseenJobs
from perdure.domain.values import Frozen
from perdure.records.jobs.unseen_jobs import has_told_of_queue
from perdure.records.schema.database import reading

JOB_STATE_CHANGE = "Batch Job State Change"
TOLD_STATES = ("RUNNABLE", "RUNNING", "SUCCEEDED", "FAILED")
"""Which changes the rule of deploy/cloudformation and deploy/terraform sends: the others pass in seconds, or are of
jobs that wait for other jobs."""


class _Detail(Frozen):
    """Of the job as DescribeJobs shows it (Batch user guide, "Job state change events")."""

    job_id: str = Field(alias="jobId", pattern=r"^[A-Za-z0-9-]{1,64}(:[0-9]{1,6})?$")
    """A job, or an array's child. Nodes of a multi-node job (`…#0`) come with their job."""
    queue: str = Field(alias="jobQueue", max_length=300, pattern=r"^arn:[A-Za-z0-9:-]+:job-queue/[A-Za-z0-9_-]+$")
    array: dict[str, Any] = Field(default_factory=dict, alias="arrayProperties")

    @property
    def has_container(self) -> bool:
        """An array's parent has none: its children are jobs."""
        return "size" not in self.array or "index" in self.array


class JobEvents:
    """Of queues that Perdure protects: `queues` names them (JobQueues below)."""

    def __init__(self, engine: Engine, unseen: UnseenJobs, queues: str) -> None:
        self._unseen, self._queues = unseen, JobQueues(engine, queues)

    async def read(self, events: Sequence[Event]) -> None:
        """Idempotent: the records say what Batch says when they are written. Raises what UnseenJobs.look does."""
        details = [detail for event in events if (detail := read_detail(event)) is not None]
        ours = [one.job_id for one in details if await asyncio.to_thread(self._queues.holds, one.queue)]
        if ours:
            await self._unseen.look(ours)


def read_detail(event: Event) -> _Detail | None:
    """What matters of an event; None for one that tells nothing of a job with a container."""
    if (event.source, event.kind) != ("aws.batch", JOB_STATE_CHANGE):
        return None
    try:
        detail = _Detail.model_validate(event.detail)
    except ValidationError:
        return None
    return detail if detail.has_container else None


class JobQueues:
    """Batch's job queues that Perdure is there for: those that are named, or else those of which an agent has told."""

    def __init__(self, engine: Engine, named: str) -> None:
        """`named`: names or ARNs, separated by commas, `*` for any characters; empty: none is named."""
        self._engine = engine
        self._named = [one.strip() for one in named.split(",") if one.strip()]

    def holds(self, arn: str) -> bool:
        """Whether the queue with this ARN is one of them. Blocks."""
        name = arn.rpartition("job-queue/")[2]
        if self._named:
            return any(fnmatchcase(name, one) or fnmatchcase(arn, one) for one in self._named)
        with reading(self._engine) as session:
            return has_told_of_queue(session, name)
