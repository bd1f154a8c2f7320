"""Plays agents and Batch towards the workflow of one job."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, WithStartWorkflowOperation, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.beating import Beating
from perdure.contracts import names
from perdure.contracts.protection import (
    AttachReply,
    AttachRequest,
    CheckpointTaken,
    Doubt,
    JobProtectionInput,
    NodeReport,
    ReportKind,
    RestoreRung,
    TakeCheckpoint,
    Verdict,
)
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Job, JobState
from perdure.domain.nodes import Notice, NoticeKind
from tests.fakes import RETRY_ALL, FakeCloud, FakeNode
from tests.patience import PATIENCE
from tests.temporal_server import end_workers
from workflows.job_protection import JobProtection
from workflows.node_watch import NodeWatch
from workflows.volume_migration import VolumeMigration

HISTORIES = Path(__file__).parent / "histories"
RUNS = {JobState.RUNNING, JobState.RESTORE_SUCCEEDED, JobState.RESTORE_FAILED}


class Story:
    """Plays nodes and Batch towards one job's workflow."""

    job_id = "0a1b2c3d-job"
    more_activities: Sequence[Callable[..., Any]] = ()
    """Of the control worker, beside the cloud's."""

    def __init__(self, client: Client, environment: WorkflowEnvironment) -> None:
        self.client, self.environment = client, environment
        self.cloud = FakeCloud()
        self.nodes: dict[str, FakeNode] = {}
        self._node_workers: dict[str, Worker] = {}
        self._polls = itertools.count(1)
        self._reports = itertools.count(1)
        self._stack = contextlib.AsyncExitStack()
        self._control: Worker

    @classmethod
    @contextlib.asynccontextmanager
    async def begin(cls, client: Client, environment: WorkflowEnvironment) -> AsyncIterator[Story]:
        story = cls(client, environment)
        async with story.begun():
            yield story

    @contextlib.asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """Batch has the job, and the control worker serves; nodes come as they are named."""
        self.cloud.job(self.job_id, retry=RETRY_ALL)
        try:
            await self._start_control_worker()
            yield
        finally:
            await end_workers(self._stack)

    async def _start_control_worker(self) -> None:
        self._control = await self._stack.enter_async_context(self._control_worker())

    @contextlib.asynccontextmanager
    async def without_control_worker(self) -> AsyncIterator[None]:
        """Nobody works on workflows meanwhile; what is signalled then comes to them all at once."""
        await self._control.shutdown()
        yield
        await self._start_control_worker()

    def _control_worker(self) -> Worker:
        cloud = self.cloud
        return Worker(
            self.client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[JobProtection, VolumeMigration, NodeWatch],
            activities=[
                cloud.describe_job,
                cloud.create_volume,
                cloud.attach_volume,
                cloud.detach_volume,
                cloud.create_snapshot,
                cloud.refresh_snapshots,
                cloud.grow_volume,
                cloud.leave_instance,
                cloud.delete_volume,
                cloud.delete_snapshot,
                cloud.forget_checkpoints,
                cloud.record_job,
                cloud.record_node,
                cloud.load_configuration,
                cloud.load_log_settings,
                *self.more_activities,
            ],
            interceptors=[Beating()],
        )

    @property
    def handle(self) -> WorkflowHandle[JobProtection, Job]:
        return self.client.get_workflow_handle_for(JobProtection.run, names.job_workflow_id(self.job_id))

    async def now(self) -> datetime:
        return await self.environment.get_current_time()

    async def sleep(self, seconds: float) -> None:
        """Let that much of the server's time pass. Not to the very instant at which a timer is due (multiples of 15 or
        20): this server strands a workflow that cancels a timer just when it fires (sdk-java#3088)."""
        assert all(2 <= seconds % period <= period - 2 for period in (15, 20)), f"{seconds} s may meet a timer"
        end = await self.now() + timedelta(seconds=seconds)
        while (due := self._next_beat(end)) is not None:
            instant, instance_id = due
            await self._let_pass(instant)
            await self._beat(instance_id)
        await self._let_pass(end)

    async def _let_pass(self, until: datetime) -> None:
        left = until - await self.now()
        if left > timedelta(0):
            await self.environment.sleep(left)

    def _next_beat(self, before: datetime) -> tuple[datetime, str] | None:
        """When the first agent takes its next checkpoint, and which that is."""
        due = [(at, one) for one in self._node_workers if (at := self.nodes[one].due_at()) is not None and at < before]
        return min(due, default=None)

    async def _beat(self, instance_id: str) -> None:
        """A periodic checkpoint, as the agent takes it: nobody asks for it, and it is reported once committed."""
        node = self.nodes[instance_id]
        if node.failure:
            node.beat_at = await self.now()
            await self.report(ReportKind.CHECKPOINT_FAILED, instance_id, node.epoch, reason=node.failure)
        else:
            taken = await node.commit(CheckpointKind.PERIODIC)
            await self.report(
                ReportKind.CHECKPOINT, instance_id, node.epoch, checkpoint=taken, volume_use=node.volume_use
            )

    async def doubt(self, instance_id: str) -> None:
        """As the reconciler does when the instance is gone, or silent for too long."""
        await self.handle.signal(JobProtection.doubted, Doubt(instance_id=instance_id, reason="Nothing was heard."))

    async def node(self, instance_id: str, *, again: bool = False) -> FakeNode:
        """The agent of an instance, serving its queue; made when first named. `again`: it was lost and is back."""
        if instance_id not in self.nodes or again:
            node = self.nodes.setdefault(instance_id, FakeNode(self.now))
            node.beat_at = await self.now()
            worker = Worker(
                self.client,
                task_queue=names.node_queue(instance_id),
                activities=[
                    node.checkpoint,
                    node.final_checkpoint,
                    node.apply_checkpoint_settings,
                    node.apply_log_settings,
                    node.hear_notice,
                ],
                max_heartbeat_throttle_interval=timedelta(seconds=1),
            )
            self._node_workers[instance_id] = await self._stack.enter_async_context(worker)
        return self.nodes[instance_id]

    async def lose(self, instance_id: str) -> None:
        """The instance dies: nobody serves its queue any more."""
        await self._node_workers.pop(instance_id).shutdown()

    async def attach(
        self, instance_id: str, zone: str, attempt: int = 1, container: str = "", **more: object
    ) -> AttachReply:
        """One question of an agent; the container is the instance's only one unless named."""
        request = AttachRequest.model_validate(
            {
                "job_id": self.job_id,
                "container_id": container or f"container-{instance_id}",
                "attempt": attempt,
                "instance_id": instance_id,
                "zone": zone,
                "asked_at": await self.now(),
                **more,
            }
        )
        start: WithStartWorkflowOperation[JobProtection, Job] = WithStartWorkflowOperation(
            names.JOB_PROTECTION,
            JobProtectionInput(job_id=self.job_id),
            id=names.job_workflow_id(self.job_id),
            task_queue=names.CONTROL_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=f"`chain` in default / {zone}",
        )
        async with asyncio.timeout(PATIENCE):
            reply: AttachReply = await self.client.execute_update_with_start_workflow(
                "attach",
                request,
                id=f"attach-{next(self._polls)}",
                start_workflow_operation=start,
                result_type=AttachReply,
            )
            await start.workflow_handle()
        return reply

    async def run_on(
        self,
        instance_id: str,
        zone: str,
        attempt: int = 1,
        *,
        container: str = "",
        restored_from: int | None = None,
        found: list[Checkpoint] | None = None,
        rungs: list[RestoreRung] | None = None,
        **more: object,
    ) -> AttachReply:
        """A container that gets its plan and starts as planned."""
        node = await self.node(instance_id)
        while (reply := await self.attach(instance_id, zone, attempt, container, **more)).verdict is Verdict.WAIT:
            await asyncio.sleep(0.05)
        assert reply.verdict in {Verdict.FRESH, Verdict.RESTORE}, reply
        if reply.store is None:
            assert self.cloud.volumes[reply.volume_id or ""].attached_to == instance_id
            assert self.cloud.volumes[reply.volume_id or ""].zone == zone
        node.epoch, node.beat_at = reply.epoch, await self.now()
        assert reply.configuration is not None
        node.follow(reply.configuration.checkpoint)
        self.cloud.attempt_runs(self.job_id, await self.now())
        await self.report(
            ReportKind.STARTED,
            instance_id,
            reply.epoch,
            restored_from=restored_from,
            found=found or [],
            rungs=rungs or [],
        )
        await self.until(self.runs)
        return reply

    async def runs(self) -> bool:
        """Whether the newest container runs; the state may tell how its restore went."""
        job = await self.job()
        return job.state in RUNS and job.attempts[-1].started_at is not None

    async def report(self, kind: ReportKind, instance_id: str, epoch: int, **more: object) -> None:
        """A fact from a node, under a key of its own unless `report_id` is given."""
        fields = {
            "report_id": f"report-{next(self._reports)}",
            "job_id": self.job_id,
            "epoch": epoch,
            "kind": kind,
            "at": await self.now(),
            "instance_id": instance_id,
            **more,
        }
        await self.handle.signal(JobProtection.report, NodeReport.model_validate(fields))

    async def notice(self, instance_id: str, *, seconds: float = 120, name: str = "", **more: object) -> None:
        """AWS announces that it takes the instance back."""
        now = await self.now()
        fields = {
            "notice_id": name or f"notice-{instance_id}",
            "kind": NoticeKind.INTERRUPTION,
            "instance_id": instance_id,
            "seen_at": now,
            "deadline": now + timedelta(seconds=seconds),
            **more,
        }
        await self.handle.signal(JobProtection.notice, Notice.model_validate(fields))

    async def wish(self, name: str) -> CheckpointTaken:
        return await self.handle.execute_update(JobProtection.take_checkpoint, TakeCheckpoint(request_id=name))

    async def job(self) -> Job:
        return await self.handle.query(JobProtection.job)

    async def until(self, what: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
        """Wait, in real time, for something that follows without the server's time passing."""
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = what()
                if await answer if isinstance(answer, Awaitable) else answer:
                    return
                await asyncio.sleep(0.01)

    async def reaches(self, state: JobState) -> Job:
        """The job, once it is in that state."""

        async def there() -> bool:
            return (await self.job()).state is state

        await self.until(there)
        return await self.job()

    async def happens(self, kind: str) -> None:
        """Wait until a line of that kind is in the recorded timeline."""
        await self.until(lambda: kind in self.cloud.kinds(self.job_id))

    async def ends(self, status: str = "SUCCEEDED", **end: object) -> Job:
        """The container exits, Batch calls the job over, and the workflow completes."""
        job = await self.job()
        self.cloud.attempt_over(self.job_id, status, await self.now(), **{"exit_code": 0, **end})
        await self.report(ReportKind.EXITED, job.attempts[-1].instance_id, job.epoch, max_rootfs_bytes=4096)
        return await self.result()

    async def result(self) -> Job:
        """The job when its workflow completes; the server's time passes until then."""
        async with asyncio.timeout(PATIENCE):
            while (await self.handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await (self.sleep(7.3) if self.environment.supports_time_skipping else asyncio.sleep(0.05))
            return await self.handle.result()

    async def record_history(self, name: str) -> None:
        """Keep the history for the replay test: on one line per event, without this machine's name."""
        text = re.sub(r'"identity": ?"[^"]*"', '"identity":"worker"', (await self.handle.fetch_history()).to_json())
        history = json.loads(text)
        lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in history["events"])
        (HISTORIES / f"{name}.json").write_text(f'{{"events":[\n{lines}\n]}}\n')
