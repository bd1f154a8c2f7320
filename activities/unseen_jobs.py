"""Jobs of which no agent has told: those that wait for an instance, fail before a container starts, or run where no
agent is. Batch's word about them goes into the records.

A job that an agent has seen has a workflow, which alone writes its record. These have none while they wait or run:
their record is written here, at revision 0, and the first record of a workflow replaces it. Once such a job is over,
its workflow is started after all: it asks Batch, tells the end, and completes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.batch import BatchLookups
from perdure.contracts import names
from perdure.contracts.control import BatchJob
from perdure.contracts.protection import JobProtectionInput
from perdure.domain.jobs import Job, JobState
from perdure.domain.unprotected import NO_AGENT
from perdure.records.jobs.unseen_jobs import record_unseen, seen_of
from perdure.records.schema.database import reading, writing


class UnseenJobs:
    """Reads Batch; writes records, and starts workflows of jobs that are over."""

    def __init__(self, engine: Engine, temporal: Client, batch: BatchLookups) -> None:
        self._engine, self._temporal, self._batch = engine, temporal, batch

    async def look(self, job_ids: Sequence[str], *, known: bool = False) -> int:
        """Have the records say what Batch says now of those of them that no agent has told of; how many these were.
        `known`: they are in the records, so one that Batch does not know is over. Key: the job id, at any time.

        Raises CloudUnavailable, RPCError and the database's errors.
        """
        unseen = await asyncio.to_thread(self._unseen, job_ids)
        found = await self._batch.jobs(unseen)
        now = datetime.now(UTC)
        open_jobs = [as_unseen(job, now) for job in found.values() if not job.final]
        if open_jobs:
            await asyncio.to_thread(self._record, open_jobs)
        over = [job_id for job_id in unseen if (found[job_id].final if job_id in found else known)]
        await asyncio.gather(*(self._end(job_id) for job_id in over))
        return len(unseen)

    def _unseen(self, job_ids: Sequence[str]) -> list[str]:
        with reading(self._engine) as session:
            seen = seen_of(session, job_ids)
        return [job_id for job_id in dict.fromkeys(job_ids) if job_id not in seen]

    def _record(self, jobs: Sequence[Job]) -> None:
        with writing(self._engine) as session:
            for job in sorted(jobs, key=lambda one: one.job_id):  # everybody locks jobs in this order
                record_unseen(session, job)

    async def _end(self, job_id: str) -> None:
        """Its workflow tells its end. One that runs, because an agent has told meanwhile, hears of it by itself."""
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await self._temporal.start_workflow(
                names.JOB_PROTECTION,
                JobProtectionInput(job_id=job_id),
                id=names.job_workflow_id(job_id),
                task_queue=names.CONTROL_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary="over, and no agent has told of it",
            )


def as_unseen(batch: BatchJob, now: datetime) -> Job:
    """The record of a job that only Batch has told of."""
    runs = batch.status == "RUNNING"
    return Job(
        job_id=batch.job_id,
        name=batch.name,
        queue=batch.queue,
        state=JobState.RUNNING if runs else JobState.CREATING,
        unprotected=NO_AGENT if runs else "",
        batch_status=batch.status,
        vcpus=batch.vcpus,
        memory_mib=batch.memory_mib,
        created_at=batch.created_at or now,
        changed_at=now,
        timeout_seconds=batch.timeout_seconds,
        retry=batch.retry,
        log_group=batch.log_group,
    )
