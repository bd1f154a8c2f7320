"""Simulated agents: what an instance with one job says to Temporal and serves, without an instance."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from bench.lifecycle.control import RETRY
from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.contracts.node import CheckpointOutcome, FinalCheckpointRequest, NodeActivities
from perdure.contracts.protection import AttachReply, AttachRequest, NodeReport, ReportKind, Verdict
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, EffectiveConfiguration, JobVolumeConfiguration
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.retries import HandOver
from perdure.domain.volumes import JobVolume, VolumeLife
from workflows.job_state import JobProgress, JobStart, Stage

DUMP_SECONDS = 10.0
STARTS_AT_ONCE = 20


def instant() -> datetime:
    """Now, UTC."""
    return datetime.now(UTC)


class Agent(NodeActivities):
    """One instance with one job."""

    def __init__(self, client: Client, number: int, interval: float) -> None:
        self.client = client
        self.job_id, self.instance_id = f"bench-{number:06}", f"i-{number:017x}"
        self.interval = interval
        self.taken = 0
        self.noticed_at = self.joined_at = 0.0
        self._handed_over = asyncio.Event()
        self._final: Checkpoint | None = None
        self.handle = client.get_workflow_handle(names.job_workflow_id(self.job_id))

    def carried(self) -> JobStart:
        """The job as it runs, as continue-as-new would carry it."""
        now = instant()
        configuration = EffectiveConfiguration(
            checkpoint=CheckpointConfiguration(interval_seconds=self.interval), job_volume=JobVolumeConfiguration()
        )
        volume = JobVolume(volume_id=f"vol-{self.job_id}", zone="z", size_gib=100, attached_to=self.instance_id)
        attempt = Attempt(
            epoch=1,
            attempt=1,
            instance_id=self.instance_id,
            zone="z",
            container_id=f"c-{self.job_id}",
            accepted_at=now,
            started_at=now,
        )
        life = VolumeLife(volume_id=volume.volume_id, zone="z", volume_type="gp3", size_gib=100, created_at=now)
        job = Job(
            job_id=self.job_id,
            name="bench",
            queue="bench",
            state=JobState.RUNNING,
            created_at=now,
            epoch=1,
            attempts=[attempt],
            volumes=[life],
            volume_id=volume.volume_id,
            volume_zone="z",
            interval_seconds=self.interval,
            retry=RETRY,
        )
        request = AttachRequest(
            job_id=self.job_id,
            container_id=attempt.container_id,
            attempt=1,
            instance_id=self.instance_id,
            zone="z",
            asked_at=now,
        )
        reply = AttachReply(verdict=Verdict.FRESH, epoch=1, volume_id=volume.volume_id, configuration=configuration)
        progress = JobProgress(
            job=job,
            stage=Stage.RUNNING,
            request=request,
            reply=reply,
            configuration=configuration,
            retry=RETRY,
            volume=volume,
        )
        return JobStart(job_id=self.job_id, carried=progress)

    async def start(self) -> None:
        """The job's workflow, and its node's."""
        await self.client.start_workflow(
            names.JOB_PROTECTION, self.carried(), id=self.handle.id, task_queue=names.CONTROL_QUEUE
        )
        await self.tell_node(NodeState.READY, None)

    async def tell_node(self, state: NodeState, notice: Notice | None) -> None:
        """As an agent speaks of its instance."""
        node = Node(instance_id=self.instance_id, zone="z", state=state, changed_at=instant(), notice=notice)
        await self.client.start_workflow(
            names.NODE_WATCH,
            NodeWatchInput(instance_id=self.instance_id),
            id=names.node_workflow_id(self.instance_id),
            task_queue=names.CONTROL_QUEUE,
            start_signal="node_changed",
            start_signal_args=[NodeChanged(node=node, at=instant())],
        )

    async def report(self, kind: ReportKind, **fields: Any) -> None:
        """A fact, as the spool sends it."""
        key = f"{self.job_id}-{kind}-{self.taken}"
        told = NodeReport(
            report_id=key,
            job_id=self.job_id,
            epoch=1,
            kind=kind,
            at=instant(),
            instance_id=self.instance_id,
            **fields,
        )
        await self.handle.signal("report", told)

    async def commit(self, kind: CheckpointKind) -> Checkpoint:
        """A checkpoint has just been committed."""
        self.taken += 1
        now = instant()
        checkpoint = Checkpoint(
            number=self.taken,
            kind=kind,
            epoch=1,
            frozen_at=now,
            committed_at=now,
            image_bytes=1 << 30,
            phases={"pause": 0.01, "dump": 0.8, "frozen": 0.9},
        )
        await self.report(ReportKind.CHECKPOINT, checkpoint=checkpoint, max_rootfs_bytes=1 << 20)
        return checkpoint

    async def interrupt(self) -> None:
        """A notice comes: the final checkpoint begins in this instant, Temporal is told beside it."""
        self.noticed_at = time.time()
        now = instant()
        notice = Notice(
            notice_id=f"n-{self.instance_id}",
            kind=NoticeKind.INTERRUPTION,
            instance_id=self.instance_id,
            seen_at=now,
            deadline=now + timedelta(seconds=120),
        )
        await asyncio.gather(
            self.handle.signal("notice", notice), self.tell_node(NodeState.NOTICED, notice), self._save_and_hand_over()
        )

    async def _save_and_hand_over(self) -> None:
        await asyncio.sleep(DUMP_SECONDS)
        self._final = await self.commit(CheckpointKind.FINAL)
        await self.report(ReportKind.HANDED_OVER, hand_over=HandOver.END_CONTAINER, checkpoint=self._final)
        self._handed_over.set()

    @activity.defn(name="final_checkpoint")
    async def final_checkpoint(self, request: FinalCheckpointRequest) -> CheckpointOutcome:
        self.joined_at = self.joined_at or time.time()
        while not self._handed_over.is_set():
            activity.heartbeat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._handed_over.wait(), 1)
        return CheckpointOutcome(checkpoint=self._final, handed_over=HandOver.END_CONTAINER)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Its task queue, as the agent serves it."""
        worker = Worker(
            self.client,
            task_queue=names.node_queue(self.instance_id),
            activities=[self.final_checkpoint],
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        )
        async with worker:
            yield


async def start_all(agents: list[Agent]) -> None:
    """Some at once."""
    limit = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(agent: Agent) -> None:
        async with limit:
            await agent.start()

    await asyncio.gather(*map(start, agents))
