"""Control-plane activities, served on the queue `control`: Batch, volumes, records. Stubs only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, field_serializer
from temporalio import activity

from perdure.contracts.node import LogSettings
from perdure.domain.configuration import JobConfiguration
from perdure.domain.jobs import Job, JobEvent
from perdure.domain.nodes import Node
from perdure.domain.retries import RetryStrategy
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.domain.volumes import JobVolume, VolumeOptions
from perdure.domain.zone_snapshots import ZoneSnapshot


class BatchAttempt(Frozen):
    """One finished attempt as DescribeJobs shows it; `exit_code` is absent when the host was lost. Times UTC."""

    exit_code: int | None = None
    reason: str | None = None
    status_reason: str | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    log_stream: str = ""
    """CloudWatch's log stream of its output; empty: Batch names none."""


class BatchJob(Frozen):
    """A job as AWS Batch sees it now. `container_count` > 1 means Perdure cannot protect it yet.

    `terminated`: a person (or client) ended or cancelled it. Times UTC.
    """

    job_id: str
    name: str = ""
    queue: str = ""
    status: str
    status_reason: str | None = None
    exit_code: int | None = None
    vcpus: float | None = None
    memory_mib: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    """Of the attempt that runs now, or ran last."""
    stopped_at: datetime | None = None
    timeout_seconds: int | None = None
    retry: RetryStrategy = RetryStrategy()
    attempts: list[BatchAttempt] = Field(default_factory=list)
    container_count: int = 1
    terminated: bool = False
    log_stream: str = ""
    """Of the attempt that runs now, or ran last."""
    log_group: str = ""
    """Empty: its output does not go to CloudWatch."""

    @property
    def final(self) -> bool:
        """Batch will not run it again."""
        return self.status in {"SUCCEEDED", "FAILED"}


class JobRef(Frozen):
    """A Batch job id."""

    job_id: str


class CreateVolume(Frozen):
    """Make a job volume, blank or from a snapshot, and wait until it is `available`. Key: `token` (EC2 ClientToken)."""

    job_id: str
    zone: str
    volume_type: str
    size_gib: int
    token: str
    snapshot_id: str | None = None
    initialization_mib_per_second: int = 0
    """100 to 300: EBS fills the volume from the snapshot by itself; 0: as its blocks are touched."""
    options: VolumeOptions = VolumeOptions()
    tags: dict[str, str] = Field(default_factory=dict)


class AttachVolume(Frozen):
    """Attach to the instance and wait until attached. Key: (volume_id, instance_id)."""

    volume_id: str
    instance_id: str


class DetachVolume(Frozen):
    """Wait until the volume is `available`, detaching it first. Key: volume_id.

    A volume that may be mounted is never taken from a live instance by force: while `instance_id` still runs, only an
    ordinary detach is asked for, which EC2 completes once the file system is unmounted; from a terminated one EC2 lets
    go by itself.
    """

    volume_id: str
    instance_id: str | None = None
    unmounted: bool = False
    """The node said that it let go of it: what stays `detaching` is then taken by force, which loses nothing."""
    deadline: datetime | None = None
    """When the instance goes (UTC): asked for later, the volume is held for minutes. It comes before what has none."""


class VolumeRef(Frozen):
    """A volume to delete. `job_waits`: a job stands still until that is done."""

    volume_id: str
    job_waits: bool = False


class GrowVolume(Frozen):
    """Make the volume `size_gib` large at least, attached or not. Key: both."""

    volume_id: str
    size_gib: int


class CreateSnapshot(Frozen):
    """Snapshot a detached volume and wait until completed. Key: `token`, kept as a tag (EC2 has no token here)."""

    volume_id: str
    job_id: str
    token: str
    tags: dict[str, str] = Field(default_factory=dict)


class SnapshotRef(Frozen):
    """A snapshot. `job_waits`: a job stands still until it is deleted."""

    snapshot_id: str
    job_waits: bool = False


class RefreshSnapshots(Frozen):
    """Look at the snapshots of a job, begin another one of `volume_id` under `token` (empty: none), and delete those
    that nobody needs: all that failed and all completed ones but the newest; that one too without `keep_newest`.

    Nothing is waited for. Key: `token`, kept as a tag.
    """

    job_id: str
    volume_id: str = ""
    token: str = ""
    keep_newest: bool = True
    job_waits: bool = False
    """A job stands still until that is done."""
    tags: dict[str, str] = Field(default_factory=dict)


class JobSnapshots(Frozen):
    """The snapshots of a job that exist now, oldest first. `made`: the one under the token; None where another one is
    still pending: what is begun beside it would move the same blocks again."""

    snapshots: list[ZoneSnapshot] = Field(default_factory=list)
    made: str | None = None


class LeaveInstance(Frozen):
    """Deregister the container instance on which `job_id` ran, if it is that EC2 instance. Key: instance_id."""

    job_id: str
    instance_id: str


class JobRecord(Frozen):
    """The job as it is now, and the timeline lines and uses of its store since the last record. Keys: (job_id,
    revision), event sequence, use_id."""

    job: Job
    events: list[JobEvent] = Field(default_factory=list)
    store_uses: list[StoreUse] = Field(default_factory=list)
    revision: int

    @field_serializer("job")
    def _briefly(self, job: Job) -> dict[str, Any]:
        """What is as it was made is not written: the control worker keeps each record until the history ends."""
        return job.model_dump(mode="json", exclude_defaults=True)


class BatchActivities:
    """What AWS Batch knows."""

    @activity.defn(name="describe_job")
    async def describe_job(self, job: JobRef) -> BatchJob:
        """DescribeJobs for one id. Read-only. UnknownJob when Batch does not know it."""
        raise NotImplementedError


class VolumeActivities:
    """EBS, for job volumes only (they carry our owner tags)."""

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        """Idempotent by token."""
        raise NotImplementedError

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        """Idempotent by (volume_id, instance_id). VolumeFailed while another instance holds it."""
        raise NotImplementedError

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        """Idempotent by volume_id: returns at once for an available one."""
        raise NotImplementedError

    @activity.defn(name="grow_volume")
    async def grow_volume(self, request: GrowVolume) -> JobVolume:
        """Idempotent by (volume_id, size_gib). VolumeFailed when EC2 allows no change now. The file system on it is the
        agent's."""
        raise NotImplementedError

    @activity.defn(name="create_snapshot")
    async def create_snapshot(self, request: CreateSnapshot) -> SnapshotRef:
        """Idempotent by token."""
        raise NotImplementedError

    @activity.defn(name="refresh_snapshots")
    async def refresh_snapshots(self, request: RefreshSnapshots) -> JobSnapshots:
        """Idempotent by token."""
        raise NotImplementedError

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        """Idempotent by volume_id: an unknown volume is a deleted one."""
        raise NotImplementedError

    @activity.defn(name="delete_snapshot")
    async def delete_snapshot(self, request: SnapshotRef) -> None:
        """Idempotent by snapshot_id: an unknown snapshot is a deleted one."""
        raise NotImplementedError


class InstanceActivities:
    """ECS, for instances that AWS takes back."""

    @activity.defn(name="leave_instance")
    async def leave_instance(self, request: LeaveInstance) -> bool:
        """Whether it was registered until now. Idempotent by instance_id. Never another instance than that one."""
        raise NotImplementedError


class RecordActivities:
    """The database, as workflows see it."""

    @activity.defn(name="record_job")
    async def record_job(self, record: JobRecord) -> None:
        """Idempotent by (job_id, revision): an older revision changes nothing; events are inserted once."""
        raise NotImplementedError

    @activity.defn(name="record_node")
    async def record_node(self, node: Node) -> None:
        """Idempotent by instance_id and changed_at: an older message changes nothing."""
        raise NotImplementedError

    @activity.defn(name="load_configuration")
    async def load_configuration(self) -> JobConfiguration:
        """What jobs go by, as stored or by default: nothing of the server's own sections. Read-only."""
        raise NotImplementedError

    @activity.defn(name="load_log_settings")
    async def load_log_settings(self) -> LogSettings:
        """How agents are to log, as stored or by default. Read-only."""
        raise NotImplementedError
