"""AWS and nodes as workflow tests see them: the stubs of perdure.contracts, answered from memory.

They keep the rules that the real ones keep (a volume is in one zone, attached to one instance; keys make calls
idempotent; a checkpoint of an older epoch is fenced), so that a workflow that breaks one fails its test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure.contracts.control import (
    AttachVolume,
    BatchActivities,
    BatchAttempt,
    BatchJob,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    GrowVolume,
    InstanceActivities,
    JobRecord,
    JobRef,
    JobSnapshots,
    LeaveInstance,
    RecordActivities,
    RefreshSnapshots,
    SnapshotRef,
    VolumeActivities,
    VolumeRef,
)
from perdure.contracts.node import (
    CheckpointOutcome,
    CheckpointRequest,
    CheckpointSettings,
    FinalCheckpointRequest,
    LogSettings,
    NodeActivities,
)
from perdure.contracts.stores import ForgetCheckpoints, Forgotten, StoreActivities
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.errors import (
    AttachmentLimitReached,
    Fenced,
    StoreRefused,
    UnknownJob,
    VolumeFailed,
    VolumeGone,
    VolumeQuotaReached,
)
from perdure.domain.jobs import Job, JobEvent, JobState
from perdure.domain.nodes import Node, Notice, as_told
from perdure.domain.retries import HandOver, RetryRule, RetryStrategy
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import EPOCH
from perdure.domain.volumes import JobVolume
from perdure.domain.zone_snapshots import SnapshotState, VolumeUse, ZoneSnapshot

RETRY_ALL = RetryStrategy(
    attempts=10,
    rules=[
        RetryRule(action="EXIT", on_reason="OutOfMemory*"),
        RetryRule(action="RETRY", on_status_reason="Host EC2*"),
        RetryRule(action="RETRY", on_exit_code="137"),
        RetryRule(action="EXIT", on_exit_code="*"),
    ],
)
HOST_LOST = "Host EC2 (instance i-gone) terminated."

Now = Callable[[], Awaitable[datetime]]


class FakeCloud(BatchActivities, InstanceActivities, VolumeActivities, RecordActivities, StoreActivities):
    """Batch, EBS, stores and the database. `calls` holds the names of all activities that ran, in order."""

    def __init__(self) -> None:
        self.batch: dict[str, BatchJob] = {}
        self.volumes: dict[str, JobVolume] = {}
        self.deleted: list[str] = []
        self.snapshots: dict[str, JobVolume] = {}
        self.by_token: dict[str, str] = {}
        self.configuration = SystemConfiguration()
        self.configuration_number = 0
        self.records: dict[str, JobRecord] = {}
        self.states: list[JobState] = []
        """Of the one job of a story, as the records were told, each once in a row."""
        self.events: dict[str, dict[int, JobEvent]] = {}
        self.nodes: dict[str, Node] = {}
        self.calls: list[str] = []
        self.volume_gate = asyncio.Event()
        self.volume_gate.set()
        self.snapshot_gate = asyncio.Event()
        self.snapshot_gate.set()
        self.failing_snapshots = 0
        """How many snapshots of a move end as `error`."""
        self.quota_reached = False
        self.slots_taken = False
        """No instance can hold one more volume."""
        self.failing_volumes = 0
        """How many volumes cannot be made: the zone has no capacity."""
        self.move_gate = asyncio.Event()
        """Snapshots of moves end when it is set."""
        self.move_gate.set()
        self.refuses_growth = False
        self.detached_by_force = False
        self.let_go: list[bool] = []
        """Of each detach that was asked for: did the instance say that it had unmounted the volume?"""
        self.snapshot_pending = False
        """The one before is not completed yet."""
        self.before_snapshot: Callable[[], Awaitable[None]] | None = None
        """What happens before a zone snapshot is made."""
        self.database_down = False
        self.forgotten: list[ForgetCheckpoints] = []
        self.store_failure = ""
        self.store_uses: list[StoreUse] = []
        """As recorded."""
        self.mounted: set[str] = set()
        """Volumes that a live instance has mounted: EC2 does not detach them."""
        self.held: set[str] = set()
        """Volumes that EC2 takes its time to detach, though nobody has them mounted."""

    def _called(self) -> None:
        self.calls.append(activity.info().activity_type)

    def job(self, job_id: str, **changes: object) -> None:
        """Change what Batch says of a job."""
        known = self.batch.get(job_id) or BatchJob(job_id=job_id, name="chain", queue="default", status="RUNNING")
        self.batch[job_id] = known.model_copy(update=changes)

    def attempt_runs(self, job_id: str, at: datetime) -> None:
        """Batch has seen the container start."""
        if job_id in self.batch:
            self.job(job_id, status="RUNNING", started_at=at)

    def attempt_over(self, job_id: str, status: str, at: datetime, **end: object) -> None:
        """Batch closes the running attempt."""
        seen = {"started_at": self.batch[job_id].started_at or at, "stopped_at": at, **end}
        attempts = [*self.batch[job_id].attempts, BatchAttempt.model_validate(seen)]
        final = {"stopped_at": at, "exit_code": end.get("exit_code")} if status in {"SUCCEEDED", "FAILED"} else {}
        reason = end.get("status_reason")
        self.job(job_id, attempts=attempts, status=status, status_reason=reason, started_at=None, **final)

    @activity.defn(name="describe_job")
    async def describe_job(self, job: JobRef) -> BatchJob:
        self._called()
        if job.job_id not in self.batch:
            raise UnknownJob(f"no job {job.job_id}")
        return self.batch[job.job_id]

    @activity.defn(name="leave_instance")
    async def leave_instance(self, request: LeaveInstance) -> bool:
        self._called()
        return True

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        self._called()
        await self.volume_gate.wait()
        if self.quota_reached:
            raise VolumeQuotaReached("AWS refused to make a volume: VolumeLimitExceeded")
        if self.failing_volumes:
            self.failing_volumes -= 1
            raise VolumeFailed(f"There is not enough capacity in {request.zone}")
        volume_id = self.by_token.setdefault(request.token, f"vol-{len(self.by_token) + 1}")
        if volume_id not in self.volumes:
            self.volumes[volume_id] = JobVolume(volume_id=volume_id, zone=request.zone, size_gib=request.size_gib)
        return self.volumes[volume_id]

    def _volume(self, volume_id: str) -> JobVolume:
        if volume_id not in self.volumes:
            raise VolumeGone(f"{volume_id} does not exist")
        return self.volumes[volume_id]

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        self._called()
        volume = self._volume(request.volume_id)
        if volume.attached_to not in {None, request.instance_id}:
            raise VolumeFailed(f"{volume.attached_to} holds {volume.volume_id}")
        if self.slots_taken:
            raise AttachmentLimitReached(f"AWS refused to attach {volume.volume_id}: AttachmentLimitExceeded")
        self.volumes[volume.volume_id] = volume.model_copy(update={"attached_to": request.instance_id})
        return self.volumes[volume.volume_id]

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        self._called()
        self.let_go.append(request.unmounted)
        while request.volume_id in self.mounted | self.held:
            activity.heartbeat()
            await asyncio.sleep(0.05)
        volume = self._volume(request.volume_id)
        if volume.attached_to is not None and request.instance_id not in {None, volume.attached_to}:
            raise VolumeFailed(f"{volume.attached_to} holds {volume.volume_id}, not {request.instance_id}")
        self.volumes[volume.volume_id] = volume.model_copy(update={"attached_to": None})
        return self.volumes[volume.volume_id].model_copy(update={"forced": self.detached_by_force})

    @activity.defn(name="grow_volume")
    async def grow_volume(self, request: GrowVolume) -> JobVolume:
        self._called()
        if self.refuses_growth:
            raise VolumeFailed("EC2 allows no other change of this volume yet")
        volume = self._volume(request.volume_id)
        self.volumes[volume.volume_id] = volume.model_copy(update={"size_gib": request.size_gib})
        return self.volumes[volume.volume_id]

    @activity.defn(name="create_snapshot")
    async def create_snapshot(self, request: CreateSnapshot) -> SnapshotRef:
        self._called()
        volume = self._volume(request.volume_id)
        if volume.attached_to is not None and volume.volume_id not in self.held:
            raise VolumeFailed(f"{volume.volume_id} is still attached")
        if self.failing_snapshots:
            self.failing_snapshots -= 1
            raise VolumeFailed(f"Snapshot of {volume.volume_id} failed")
        while not self.move_gate.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        snapshot_id = f"snap-of-{volume.volume_id}"
        self.snapshots[snapshot_id] = volume
        return SnapshotRef(snapshot_id=snapshot_id)

    @activity.defn(name="refresh_snapshots")
    async def refresh_snapshots(self, request: RefreshSnapshots) -> JobSnapshots:
        self._called()
        made = None
        if request.token:
            await self.snapshot_gate.wait()
            if self.before_snapshot is not None:
                await self.before_snapshot()
            if self.snapshot_pending:
                return JobSnapshots(snapshots=[])
            made = f"snap-{request.token[:8]}"
            self.snapshots.setdefault(made, self._volume(request.volume_id))
        for snapshot_id in list(self.snapshots)[: -1 if request.keep_newest else None]:
            del self.snapshots[snapshot_id]
        shown = [
            ZoneSnapshot(
                snapshot_id=snapshot_id, volume_id=volume.volume_id, state=SnapshotState.COMPLETED, started_at=EPOCH
            )
            for snapshot_id, volume in self.snapshots.items()
        ]
        return JobSnapshots(snapshots=shown, made=made)

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        self._called()
        volume = self.volumes.pop(request.volume_id, None)
        assert volume is None or volume.attached_to is None, f"{request.volume_id} was deleted while attached"
        self.deleted.append(request.volume_id)

    @activity.defn(name="delete_snapshot")
    async def delete_snapshot(self, request: SnapshotRef) -> None:
        self._called()
        self.snapshots.pop(request.snapshot_id, None)

    @activity.defn(name="forget_checkpoints")
    async def forget_checkpoints(self, request: ForgetCheckpoints) -> Forgotten:
        self._called()
        if self.store_failure:
            raise StoreRefused(self.store_failure)
        self.forgotten.append(request)
        use = StoreUse(use_id="forgotten", at=EPOCH, writes=3, held_bytes=0)
        return Forgotten(checkpoints=1, store_use=use)

    @activity.defn(name="record_job")
    async def record_job(self, record: JobRecord) -> None:
        self._called()
        if self.database_down:
            raise ApplicationError("the database is away", type="OperationalError")
        job_id = record.job.job_id
        self.store_uses += record.store_uses
        if record.job.state not in self.states[-1:]:
            self.states.append(record.job.state)
        known = self.records.get(job_id)
        if known is None or known.revision < record.revision:
            self.records[job_id] = record
        for event in record.events:
            self.events.setdefault(job_id, {}).setdefault(event.sequence, event)

    @activity.defn(name="record_node")
    async def record_node(self, node: Node) -> None:
        self._called()
        known = self.nodes.get(node.instance_id)
        if known is None or not (known.changed_at and node.changed_at and node.changed_at < known.changed_at):
            self.nodes[node.instance_id] = as_told(known, node)

    @activity.defn(name="load_configuration")
    async def load_configuration(self) -> SystemConfiguration:
        self._called()
        if self.database_down:
            raise ApplicationError("the database is away", type="OperationalError")
        return self.configuration

    @activity.defn(name="load_log_settings")
    async def load_log_settings(self) -> LogSettings:
        self._called()
        return LogSettings(number=self.configuration_number, section=self.configuration.log)

    def recorded(self, job_id: str) -> Job:
        """The job as the records have it."""
        return self.records[job_id].job

    def timeline(self, job_id: str) -> list[JobEvent]:
        """The job's recorded timeline."""
        return [event for _, event in sorted(self.events.get(job_id, {}).items())]

    def kinds(self, job_id: str) -> list[str]:
        """The kinds of the timeline's lines."""
        return [event.kind for event in self.timeline(job_id)]


class FakeNode(NodeActivities):
    """The agent of one instance: its activities, and the rhythm that it keeps by itself (Story.sleep lets it)."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self.epoch = 0
        """Of the container that this node runs."""
        self.interval = 0.0
        self.beat_at: datetime | None = None
        """When its last checkpoint was begun, or its container started."""
        self.settings: list[CheckpointSettings] = []
        self.taken: list[Checkpoint] = []
        self.dump_seconds = 1.5
        self.requests: list[CheckpointRequest] = []
        self.finals: list[FinalCheckpointRequest] = []
        self.log_settings: list[LogSettings] = []
        self.notices: list[Notice] = []
        self.failure = ""
        self.ended = False
        """Its job has ended, and nobody has told that yet."""
        self.clock_error = timedelta(0)
        self.first_number = 1
        self.hand_over: HandOver | None = None
        self.volume_use: VolumeUse | None = None
        """What it tells of the job volume with each periodic checkpoint."""
        self.gate = asyncio.Event()
        """While closed, a periodic checkpoint does not end."""
        self.gate.set()

    def follow(self, checkpoint: CheckpointConfiguration) -> None:
        """Keep this rhythm from now on."""
        self.interval = checkpoint.interval_seconds if checkpoint.enabled else 0.0

    def due_at(self) -> datetime | None:
        """When it takes a checkpoint by itself."""
        if not self.interval or self.beat_at is None or any(one.kind is CheckpointKind.FINAL for one in self.taken):
            return None
        return self.beat_at + timedelta(seconds=self.interval)

    @activity.defn(name="apply_checkpoint_settings")
    async def apply_checkpoint_settings(self, settings: CheckpointSettings) -> None:
        self.settings.append(settings)
        self.follow(settings.checkpoint)

    @activity.defn(name="checkpoint")
    async def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        self.requests.append(request)
        if request.epoch != self.epoch:
            raise Fenced(f"this node runs epoch {self.epoch}, not {request.epoch}")
        while not self.gate.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        if self.failure:
            return CheckpointOutcome(failure=self.failure, ended=self.ended)
        return CheckpointOutcome(checkpoint=await self.commit(CheckpointKind.REQUESTED))

    @activity.defn(name="apply_log_settings")
    async def apply_log_settings(self, settings: LogSettings) -> None:
        self.log_settings.append(settings)

    @activity.defn(name="hear_notice")
    async def hear_notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    @activity.defn(name="final_checkpoint")
    async def final_checkpoint(self, request: FinalCheckpointRequest) -> CheckpointOutcome:
        self.finals.append(request)
        if self.failure:
            return CheckpointOutcome(failure=self.failure, ended=self.ended)
        ours = [one for one in self.taken if one.kind is CheckpointKind.FINAL]
        final = ours[0] if ours else await self.commit(CheckpointKind.FINAL)
        return CheckpointOutcome(checkpoint=final, handed_over=self.hand_over or request.hand_over)

    async def commit(self, kind: CheckpointKind) -> Checkpoint:
        """Take a checkpoint now, whoever wants it."""
        self.beat_at = await self._now()
        frozen = self.beat_at + self.clock_error
        checkpoint = Checkpoint(
            number=self.first_number + len(self.taken),
            kind=kind,
            epoch=self.epoch,
            frozen_at=frozen,
            committed_at=frozen + timedelta(seconds=2),
            image_bytes=1 << 20,
            phases={"pause": 0.25, "dump": self.dump_seconds, "frozen": self.dump_seconds + 0.25},
        )
        self.taken.append(checkpoint)
        return checkpoint
