"""What the API asks of the jobs' workflows, with time limits and clear errors. Called by name, never imported."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError as UpdateTimedOut
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from api.serving.errors import NoAnswer, NotRunning
from perdure.contracts import names
from perdure.contracts.inventory import NodeWatchInput
from perdure.contracts.kept_volumes import RemoveVolume, VolumeRemoved
from perdure.contracts.logs import CollectedLogs, CollectLogs
from perdure.contracts.orphans import FindOrphans, OrphansFound
from perdure.contracts.outputs import JobOutput, ReadOutput
from perdure.contracts.protection import CheckpointTaken, TakeCheckpoint
from perdure.contracts.resumption import Resumed, ResumeJob
from perdure.domain.checkpoints import Checkpoint
from perdure.domain.errors import CheckpointFailed, NotResumable, TemporalUnavailable, VolumeInUse

T = TypeVar("T")

REACH_SECONDS = 3.0
"""How long Temporal may take to say that it is there."""
POLL_SECONDS = 90.0
"""A control worker that has not asked for work for so long is gone: a question to Temporal lasts 60 s at most, and
Temporal notes when it began. It forgets who asked after 5 minutes."""
TELL_SECONDS = 20.0
"""How long telling all open workflows of a change may take."""
CHECKPOINT_SECONDS = 180.0
"""How long a person waits for a checkpoint: longer than any dump may take (dump_limit_seconds is 110 by default)."""
TELL_AT_ONCE = 20
RESUME_SECONDS = 75.0
"""How long a person waits for a new job: AWS is asked for at most 60 s."""
REMOVE_SECONDS = 50.0
"""How long a person waits for a volume's deletion, or a look for orphans: AWS is asked for at most 40 s."""
OUTPUT_SECONDS = 20.0
"""How long a person waits for what a job printed."""
LOGS_SECONDS = 12.0
"""How long a person waits for a node's logs: a node that is gone is known to be after 8 s."""


class JobWorkflows:
    """The open `JobProtection` workflows, seen from outside."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def reachable(self) -> None:
        """Returns if Temporal answers and serves; TemporalUnavailable within REACH_SECONDS otherwise."""
        async with self._errors(REACH_SECONDS):
            if not await self._client.service_client.check_health():
                raise TemporalUnavailable("Temporal answers but does not serve yet; try again in a moment.")

    async def control_workers(self) -> int:
        """How many control workers have asked for work within POLL_SECONDS. TemporalUnavailable."""
        asked = DescribeTaskQueueRequest(
            namespace=self._client.namespace,
            task_queue=TaskQueue(name=names.CONTROL_QUEUE),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
        async with self._errors(REACH_SECONDS):
            found = await self._client.workflow_service.describe_task_queue(asked)
        since = datetime.now(UTC) - timedelta(seconds=POLL_SECONDS)
        return sum(poller.last_access_time.ToDatetime(UTC) > since for poller in found.pollers)

    async def take_checkpoint(self, job_id: str, wait_seconds: float = CHECKPOINT_SECONDS) -> Checkpoint:
        """Ask the job's workflow for a checkpoint now and wait until it is committed.

        NotRunning: there is no open workflow of that id. CheckpointFailed: there was none, with the reason; the job
        runs on. NoAnswer: not within `wait_seconds`; it may still come. TemporalUnavailable.
        """
        await self.reachable()
        wish = TakeCheckpoint(request_id=uuid.uuid4().hex)
        handle = self._client.get_workflow_handle(names.job_workflow_id(job_id))
        try:
            async with asyncio.timeout(wait_seconds):
                taken: CheckpointTaken = await handle.execute_update(
                    "take_checkpoint", wish, id=wish.request_id, result_type=CheckpointTaken
                )
        except (TimeoutError, UpdateTimedOut) as late:
            raise NoAnswer(
                f"No checkpoint of job {job_id} after {wait_seconds:g} s. It may still be taken: look at the job."
            ) from late
        except WorkflowUpdateFailedError as refused:
            raise CheckpointFailed(f"Job {job_id} took no checkpoint: {refused.cause or refused}") from refused
        except RPCError as problem:
            if problem.status == RPCStatusCode.NOT_FOUND:
                raise NotRunning(f"Job {job_id} is not running under Perdure's protection.") from problem
            raise TemporalUnavailable(f"Temporal failed: {problem.message}") from problem
        if taken.checkpoint is None:
            reason = (taken.failure or "no reason was given").removesuffix(".")
            raise CheckpointFailed(f"Job {job_id} took no checkpoint: {reason}.")
        return taken.checkpoint

    async def run_of(self, job_id: str) -> tuple[str, str, str | None]:
        """Where Temporal shows the job's workflow: its namespace, workflow id and run id. No run id: Temporal knows of
        no such workflow (any more). TemporalUnavailable."""
        workflow_id = names.job_workflow_id(job_id)
        try:
            async with self._errors(REACH_SECONDS):
                found = await self._client.get_workflow_handle(workflow_id).describe()
        except TemporalUnavailable as problem:
            if isinstance(problem.__cause__, RPCError) and problem.__cause__.status == RPCStatusCode.NOT_FOUND:
                return self._client.namespace, workflow_id, None
            raise
        return self._client.namespace, workflow_id, found.run_id

    async def collect_logs(self, request: CollectLogs, request_id: str) -> CollectedLogs:
        """What the agent on a node has to show, or in words why there is nothing. Never raises."""
        try:
            return await self._answer(
                names.LOG_COLLECTION, request, names.log_collection_id(request_id), CollectedLogs, LOGS_SECONDS, 3
            )
        except TimeoutError:
            return CollectedLogs(failure=f"nobody answered within {LOGS_SECONDS:g} s: is the control worker running?")
        except (TemporalUnavailable, WorkflowFailureError, RPCError, RuntimeError) as problem:
            return CollectedLogs(failure=f"{request.instance_id} was not asked: {problem}")

    async def read_output(self, request: ReadOutput, request_id: str) -> JobOutput:
        """What the job printed, or in words why there is nothing. Never raises."""
        try:
            return await self._answer(
                names.JOB_OUTPUT, request, names.job_output_id(request_id), JobOutput, OUTPUT_SECONDS, 2
            )
        except TimeoutError:
            return JobOutput(failure=f"Nobody answered within {OUTPUT_SECONDS:g} s: is the control worker running?")
        except (TemporalUnavailable, WorkflowFailureError, RPCError, RuntimeError) as problem:
            return JobOutput(failure=f"CloudWatch Logs was not asked: {problem}")

    async def _answer(
        self,
        workflow: str,
        request: object,
        workflow_id: str,
        kind: type[T],
        seconds: float,
        times: int,
        *,
        one_for_all: bool = False,
        summary: str | None = None,
    ) -> T:
        """What the control worker found out. TimeoutError: not within `seconds`; the workflow itself ends after so many
        `times` of them. `one_for_all`: whoever asks while it runs gets the same answer. TemporalUnavailable,
        WorkflowFailureError, RPCError, RuntimeError."""
        policy = WorkflowIDConflictPolicy.USE_EXISTING if one_for_all else WorkflowIDConflictPolicy.UNSPECIFIED
        await self.reachable()
        async with asyncio.timeout(seconds):
            found: T = await self._client.execute_workflow(
                workflow,
                request,
                id=workflow_id,
                task_queue=names.CONTROL_QUEUE,
                id_conflict_policy=policy,
                execution_timeout=timedelta(seconds=times * seconds),
                static_summary=summary,
                result_type=kind,
            )
        return found

    async def resume(self, request: ResumeJob) -> Resumed:
        """The new job. NotResumable: with the reason. NoAnswer: not in time; asked again with the same request id, it
        goes on. TemporalUnavailable."""
        resumed = await self._carry_out(
            names.RESUMPTION,
            request,
            names.resumption_id(request.job_id),
            Resumed,
            RESUME_SECONDS,
            late=f"No word of a new job for {request.job_id} after {RESUME_SECONDS:g} s: ask again, it may yet come.",
            unknown=f"Whether job {request.job_id} was resumed is not known",
            asked_by=request.asked_by,
        )
        if resumed.refusal:
            raise NotResumable(resumed.refusal)
        return resumed

    async def remove_volume(self, request: RemoveVolume) -> VolumeRemoved:
        """Delete a kept volume. VolumeInUse: why it was not. NoAnswer: not in time; it may yet go.
        TemporalUnavailable."""
        done = await self._carry_out(
            names.VOLUME_REMOVAL,
            request,
            names.volume_removal_id(request.volume_id),
            VolumeRemoved,
            REMOVE_SECONDS,
            late=f"No word of {request.volume_id} after {REMOVE_SECONDS:g} s: ask again, it may yet be deleted.",
            unknown=f"Whether {request.volume_id} was deleted is not known",
            asked_by=request.asked_by,
        )
        if done.refusal:
            raise VolumeInUse(done.refusal)
        return done

    async def find_orphans(self, request: FindOrphans) -> OrphansFound:
        """What nobody owns in AWS now. NoAnswer: not in time, or AWS does not answer; TemporalUnavailable."""
        unknown = "Which orphans there are is not known"
        found = await self._carry_out(
            names.ORPHAN_SEARCH,
            request,
            names.ORPHAN_SEARCH_ID,
            OrphansFound,
            REMOVE_SECONDS,
            late=f"AWS was not looked at within {REMOVE_SECONDS:g} s: ask again.",
            unknown=unknown,
        )
        if found.problem:
            raise NoAnswer(f"{unknown}: {found.problem}")
        return found

    async def _carry_out(
        self,
        workflow: str,
        request: object,
        workflow_id: str,
        answer: type[T],
        limit_seconds: float,
        *,
        late: str,
        unknown: str,
        asked_by: str | None = None,
    ) -> T:
        """What the workflow answers; whoever asks while it runs gets the same. NoAnswer with `late` after the limit,
        TemporalUnavailable with `unknown` and the reason."""
        summary = None if asked_by is None else f"for {asked_by}"[:200]
        try:
            return await self._answer(
                workflow, request, workflow_id, answer, limit_seconds, 2, one_for_all=True, summary=summary
            )
        except TimeoutError as problem:
            raise NoAnswer(late) from problem
        except (RPCError, WorkflowFailureError) as problem:
            raise TemporalUnavailable(f"{unknown}: {problem}") from problem

    async def configuration_changed(self) -> int:
        """Signal every open job workflow, so that it reads the configuration anew. Returns how many were told.

        Telling twice does no harm. TemporalUnavailable when not all could be told.
        """

        async def tell(workflow_id: str) -> int:
            try:
                await self._client.get_workflow_handle(workflow_id).signal("configuration_changed")
            except RPCError as problem:
                if problem.status != RPCStatusCode.NOT_FOUND:  # which means: finished meanwhile
                    raise
                return 0
            return 1

        await self.reachable()
        async with self._errors(TELL_SECONDS):
            query = f"WorkflowType = '{names.JOB_PROTECTION}' AND ExecutionStatus = 'Running'"
            open_ones = [
                found.id
                async for found in self._client.list_workflows(query)
                if found.status == WorkflowExecutionStatus.RUNNING
            ]
            return sum(await _some_at_once(map(tell, open_ones)))

    async def log_settings_changed(self, instance_ids: Sequence[str]) -> int:
        """Tell the workflows of these nodes: their agents log by the new settings within seconds. Returns how many.

        TemporalUnavailable when not all could be told.
        """

        async def tell(instance_id: str) -> None:
            await self._client.start_workflow(
                names.NODE_WATCH,
                NodeWatchInput(instance_id=instance_id),
                id=names.node_workflow_id(instance_id),
                task_queue=names.CONTROL_QUEUE,
                start_signal="log_settings_changed",
                static_summary=f"instance {instance_id}",
            )

        await self.reachable()
        async with self._errors(TELL_SECONDS):
            return len(await _some_at_once(map(tell, instance_ids)))

    @asynccontextmanager
    async def _errors(self, limit_seconds: float) -> AsyncIterator[None]:
        where = self._client.service_client.config.target_host
        try:
            async with asyncio.timeout(limit_seconds):
                yield
        except TimeoutError as late:
            words = f"Temporal at {where} does not answer within {limit_seconds:g} s; try again later."
            raise TemporalUnavailable(words) from late
        # A lazily connecting client reports a failed connection as RuntimeError.
        except (RPCError, RuntimeError) as problem:
            raise TemporalUnavailable(f"Temporal at {where} is out of reach; try again later.") from problem


async def _some_at_once(calls: Iterable[Awaitable[T]]) -> list[T]:
    limit = asyncio.Semaphore(TELL_AT_ONCE)

    async def one(call: Awaitable[T]) -> T:
        async with limit:
            return await call

    return await asyncio.gather(*map(one, calls))
