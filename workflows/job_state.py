"""What the workflow of a job knows. No Temporal in here: time is an argument.

`JobProgress` is all of it, and continue-as-new carries it whole: what must not be lost stands here and nowhere else.
`Job` is the part that people are shown. Every change of it goes through `show`, every line of its timeline through
`tell`, so that the records know what is new. How reports change it stands in job_reports, what the end of a container
means in job_endings.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field, field_serializer

from perdure.contracts.control import BatchJob, CreateVolume
from perdure.contracts.protection import AttachReply, AttachRequest, CheckpointTaken, JobProtectionInput, Verdict
from perdure.domain.configuration import (
    EffectiveConfiguration,
    JobConfiguration,
    StoreConfiguration,
    effective_configuration,
)
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState, Outage, StoredUnder
from perdure.domain.nodes import Notice
from perdure.domain.outages import Milestones
from perdure.domain.retries import HandOver, RetryStrategy, choose_hand_over
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import format_duration
from perdure.domain.volumes import JobVolume
from perdure.domain.zone_snapshots import ZoneSnapshots
from workflows.batch_times import with_batch_times

REMEMBERED = 256
"""Keys of reports, notices and checkpoints that are kept to recognise a repetition."""
MOST_ANSWERS = 16
"""Answers to people's wishes that are kept, for those who ask again."""
MOST_EVENTS = 1000
"""Timeline lines, and uses of a store, kept for a database that is away; the oldest go first."""


class Stage(StrEnum):
    """What the workflow is doing; finer than the states that people are shown."""

    AWAITING = "awaiting a container"
    PREPARING = "preparing a container"
    STARTING = "container starting"
    RUNNING = "running"
    EXITED = "exited, asking Batch"
    FINISHED = "finished"


HOLDS_CONTAINER = frozenset({Stage.PREPARING, Stage.STARTING, Stage.RUNNING})


class JobProgress(BaseModel):
    """Everything the workflow carries from run to run. Mutable; owned by one workflow."""

    job: Job
    stage: Stage = Stage.AWAITING
    revision: int = 1
    sequence: int = 0
    unrecorded: list[JobEvent] = Field(default_factory=list)
    unrecorded_uses: list[StoreUse] = Field(default_factory=list)
    """Of the store, as nodes told of them."""
    unprotected: bool = False
    request: AttachRequest | None = None
    """Of the newest accepted container."""
    verdict: Verdict | None = None
    """What that container will start from, once it is decided."""
    reply: AttachReply | None = None
    """That container's plan, once its volume is there."""
    environment: dict[str, str] = Field(default_factory=dict)
    configuration: EffectiveConfiguration | None = None
    retry: RetryStrategy = RetryStrategy()
    store: StoreConfiguration | None = None
    """Where its checkpoints are, if it has no volume: chosen for its first container, the same for its whole life."""
    stored_as: str = ""
    """The job whose name they bear there, if it is not this one: the first of those that it goes on from."""
    volume: JobVolume | None = None
    volume_asked_for: CreateVolume | None = None
    """A volume that was asked for and of which nothing was heard: it may exist."""
    left_volumes: list[JobVolume] = Field(default_factory=list)
    """In zones where the job is no more, with nothing on them that it needs: deleted as soon as nobody waits."""
    volumes_lost: int = 0
    cold_volume: bool = False
    """It was just made from a snapshot: what is read of it for the first time is slow."""
    zone_snapshots: ZoneSnapshots = ZoneSnapshots()
    grow_to: int = 0
    """GiB that the volume is to be made large now; 0: it stays as it is."""
    grow_asked_at: datetime | None = None
    snapshot_due: bool = False
    """Another one is to be taken now."""
    keep_volume: str = ""
    """Why the volume outlives the finished job; empty: it does not."""
    way: HandOver | None = None
    """How the newest container was handed over, if it was."""
    release: bool = False
    """The node let go of the volume: detach it, so that the next node need not wait."""
    leaves: bool = False
    """Its instance is to be taken off its cluster."""
    notice: Notice | None = None
    """The interruption of the node that holds the newest container."""
    interrupted_epochs: list[int] = Field(default_factory=list)
    final_settled: bool = False
    """The final checkpoint is taken, or never will be: nothing more is to be asked of that node."""
    out_of_touch: bool = False
    """The node did not answer; only Batch can tell."""
    look_at: datetime | None = None
    """When Batch is to be asked for its word on the running container; None while there is no reason to."""
    looks: int = 0
    """How often it was asked since anything was heard."""
    trouble: str = ""
    """What stood in the way last, as people were told."""
    wishes: dict[str, CheckpointTaken | None] = Field(default_factory=dict)
    """People's wishes for a checkpoint by their keys, with the answers of those that have one."""
    changes_heard: int = 0
    """How often the system's configuration was said to have changed …"""
    changes_read: int = 0
    """… and up to which of these it has been read."""
    settings_number: int = 0
    """Rises with each change of the job's checkpoint settings …"""
    settings_told: int = 0
    """… and which of these its node goes by."""
    recorded_revision: int = 0
    """What the records know …"""
    attributes: dict[str, str | int] = Field(default_factory=dict)
    """… and what the search attributes show."""
    clean_since: datetime | None = None
    """When the job last started from nothing."""
    clean_epoch: int = 0
    """Checkpoints of epochs before this one are not used any more: the job has started clean since."""
    milestones: Milestones = Milestones()
    failed_rungs: dict[int, int] = Field(default_factory=dict)
    """How often a checkpoint failed on sound nodes, by number."""
    failed_on: dict[int, list[str]] = Field(default_factory=dict)
    """The instances that `failed_rungs` counts."""
    quarantined: list[int] = Field(default_factory=list)
    seen: list[str] = Field(default_factory=list)
    predecessor: str = ""
    """The job that this one says it goes on from …"""
    takes_over: bool = False
    """… while it is not known whether it may."""
    predecessors: list[str] = Field(default_factory=list)
    """Jobs whose checkpoints may lie on the volume or in the store, beside its own."""

    def show(self, **changes: object) -> None:
        """Change what people see of the job."""
        changed = self.job.model_copy(update=changes)
        if changed != self.job:
            self.job = changed
            self.revision += 1

    def note(self, **changes: object) -> None:
        """Change the job without asking for a record: the change is written along with the next one that asks."""
        self.job = self.job.model_copy(update=changes)

    def tell(self, at: datetime, kind: str, message: str, level: str = "info", epoch: int | None = None) -> None:
        """Add a line to the timeline."""
        self.sequence += 1
        self.revision += 1
        line = JobEvent(
            sequence=self.sequence,
            at=at,
            kind=kind,
            message=message,
            level=level,
            epoch=epoch or self.job.epoch or None,
        )
        self.unrecorded = [*self.unrecorded, line][-MOST_EVENTS:]

    def use_store(self, use: StoreUse) -> None:
        """That was asked of the store for this job, and has its price."""
        self.revision += 1
        self.unrecorded_uses = [*self.unrecorded_uses, use][-MOST_EVENTS:]

    def recorded(self, up_to_sequence: int, uses: Iterable[StoreUse]) -> None:
        """The lines up to that sequence, and these uses, are in the database."""
        self.unrecorded = [line for line in self.unrecorded if line.sequence > up_to_sequence]
        known = {use.use_id for use in uses}
        self.unrecorded_uses = [use for use in self.unrecorded_uses if use.use_id not in known]

    def first_time(self, key: str) -> bool:
        """Whether this key is new; remembers it."""
        if key in self.seen:
            return False
        self.seen = [*self.seen, key][-REMEMBERED:]
        return True

    @property
    def finished(self) -> bool:
        """Batch will not run the job again, or does not know it."""
        return self.stage is Stage.FINISHED

    @property
    def current(self) -> Attempt | None:
        """The newest accepted container."""
        return self.job.attempts[-1] if self.job.attempts else None

    @property
    def passing(self) -> bool:
        """The state that people see tells how something went a moment ago: the job runs."""
        if self.stage is not Stage.RUNNING or self.final_settled:
            return False
        return self.job.state in {JobState.RESTORE_SUCCEEDED, JobState.RESTORE_FAILED, JobState.CHECKPOINT_FAILED}

    @property
    def open_outage(self) -> Outage | None:
        """The outage that has not ended, if the job stands still because of a reclaim."""
        return next((one for one in self.job.outages if one.ended_at is None), None)

    @property
    def doubtful(self) -> bool:
        """The container may be gone without anybody telling us: Batch is worth asking."""
        return self.out_of_touch or self.notice is not None or self.stage is Stage.STARTING

    def change_current(self, **changes: object) -> None:
        """Change the newest attempt as people see it."""
        if self.current is not None:
            self.show(attempts=[*self.job.attempts[:-1], self.current.model_copy(update=changes)])

    def accept(self, request: AttachRequest, now: datetime) -> int | None:
        """The epoch of this container: its own if it asked before, a new one if it is the newest, None if it is fenced.

        A container that dies while it starts may repeat its attempt number; a lower number is always an older one.
        """
        for attempt in self.job.attempts:
            if (attempt.instance_id, attempt.container_id) == (request.instance_id, request.container_id):
                return attempt.epoch if attempt.epoch == self.job.epoch else None
        before = self.current
        if before is not None:
            if request.attempt < before.attempt:
                return None
            if before.ended_at is None:
                self.change_current(ended_at=now, end="node lost" if before.started_at else "replaced")
        epoch = self.job.epoch + 1
        attempt = Attempt(
            epoch=epoch,
            attempt=request.attempt,
            instance_id=request.instance_id,
            zone=request.zone,
            container_id=request.container_id,
            accepted_at=now,
        )
        self.request, self.reply, self.verdict, self.notice = request, None, None, None
        self.way = self.look_at = None
        self.final_settled = self.out_of_touch = self.release = self.leaves = False
        self.stage, self.unprotected = Stage.PREPARING, False
        self.show(
            unprotected="" if self.configuration is None else _unprotected_by(self.configuration),
            epoch=epoch,
            attempts=[*self.job.attempts, attempt],
            shared_mounts=request.shared_mounts,
            state=JobState.CREATING if epoch == 1 else JobState.RESTORE_VOLUME_UNREADY,
        )
        self.tell(now, "attached", f"Attempt {request.attempt} arrived on {request.instance_id} in {request.zone}.")
        return epoch

    def know_batch(self, batch: BatchJob) -> None:
        """Take over what Batch says of the job, and of its attempts."""
        self.retry = batch.retry
        # Quietly: Batch may be asked often, and that a running attempt has its time is worth no record of its own.
        self.note(
            attempts=with_batch_times(self.job.attempts, batch),
            timeout_seconds=batch.timeout_seconds,
            log_group=batch.log_group,
            retry=batch.retry,
        )
        self.show(
            name=batch.name,
            queue=batch.queue,
            vcpus=batch.vcpus,
            memory_mib=batch.memory_mib,
            created_at=batch.created_at or self.job.created_at,
            batch_status=batch.status,
        )

    def know_chances(self, request: AttachRequest) -> None:
        """What the job's own settings and its retry rules mean for the container that asks."""
        self.environment = request.environment
        self.show(
            environment=request.environment,
            hand_over=choose_hand_over(self.retry, request.attempt, can_stop_ecs=request.can_stop_ecs).value,
            attempts_left=max(0, self.retry.attempts - request.attempt),
        )

    def configure(self, system: JobConfiguration, now: datetime) -> None:
        """Apply the system's configuration under the job's own; it holds from the next interval on."""
        before = self.configuration
        first = before is None
        self.configuration, warnings = effective_configuration(system, self.environment)
        if before is not None and before.checkpoint != self.configuration.checkpoint:
            self.settings_number += 1
        checkpoint = self.configuration.checkpoint
        interval = checkpoint.interval_seconds if checkpoint.enabled else 0.0
        if first:
            for warning in warnings:
                self.tell(now, "configuration", f"{warning}.", "warning")
        elif interval != self.job.interval_seconds:
            words = f"every {format_duration(interval)}" if interval else "off"
            self.tell(now, "configuration", f"Periodic checkpoints are now {words}.")
        if self.job.unprotected in ("", CHECKPOINTS_OFF):  # any other reason is as true as before
            self.note(unprotected=_unprotected_by(self.configuration))
        self.show(
            interval_seconds=interval,
            interval_source=self.configuration.interval_source,
            diagnosis=checkpoint.diagnosis,
        )

    @property
    def untold(self) -> bool:
        """The node that runs the job goes by older checkpoint settings than these."""
        return self.stage is Stage.RUNNING and self.settings_told != self.settings_number

    def wish(self, key: str) -> None:
        """A person wants a checkpoint. Only the newest answers are kept."""
        if key not in self.wishes:
            answered = [known for known, answer in self.wishes.items() if answer is not None]
            for known in answered[: -MOST_ANSWERS + 1]:
                del self.wishes[known]
            self.wishes[key] = None

    def has_volume(self, volume: JobVolume) -> None:
        """The job volume is this one, in this place."""
        self.volume, self.volume_asked_for = volume, None
        self.show(volume_id=volume.volume_id, volume_zone=volume.zone)

    def has_store(self, store: StoreConfiguration, stored_as: str = "") -> None:
        """The job's checkpoints are in this store, under its own name or that of the job that it goes on from."""
        self.store, self.stored_as = store, stored_as
        self.show(stored=StoredUnder(store=store, job_id=stored_as or self.job.job_id))

    def plan(self, request: AttachRequest, verdict: Verdict, now: datetime) -> None:
        """The container may start: its volume is there, or it needs none."""
        assert self.current is not None and (self.volume is not None or self.store is not None)
        if self.volume is not None:
            self.volume = self.volume.model_copy(update={"blank": False})
        self.reply = AttachReply(
            verdict=verdict,
            epoch=self.job.epoch,
            volume_id=self.volume.volume_id if self.volume is not None else None,
            store=self.store,
            stored_as=self.stored_as,
            configuration=self.configuration,
            settings_number=self.settings_number,
            retry=self.retry,
            attempts_made=request.attempt,
            hand_over=choose_hand_over(self.retry, request.attempt, can_stop_ecs=request.can_stop_ecs),
            quarantined=self.quarantined,
            predecessors=self.predecessors,
            cold_volume=self.cold_volume,
            forced_volume=self.volume is not None and self.volume.forced,
        )
        self.milestones = self.milestones.model_copy(update={"accepted_at": self.current.accepted_at, "ready_at": now})
        self.stage, self.settings_told = Stage.STARTING, self.settings_number
        self.show(state=JobState.CREATED if verdict is Verdict.FRESH else JobState.RESTORING)

    def refuse(self, reason: str, now: datetime) -> None:
        """The newest container is not to start at all."""
        self.reply = AttachReply(verdict=Verdict.REFUSED, reason=reason, epoch=self.job.epoch)
        self.stage = Stage.AWAITING
        self.tell(now, "refused", f"The container is not started: {reason.removesuffix('.')}.", "warning")

    def leave_unprotected(self, reason: str, now: datetime) -> None:
        """Perdure keeps its hands off this job."""
        self.unprotected = True
        self.reply = AttachReply(verdict=Verdict.UNPROTECTED, reason=reason, epoch=self.job.epoch)
        self.stage = Stage.AWAITING
        self.show(state=JobState.RUNNING, unprotected=reason)
        self.tell(now, "unprotected", f"The job runs unprotected: {reason.removesuffix('.')}.", "warning")


CHECKPOINTS_OFF = "checkpoints are turned off"


def _unprotected_by(configuration: EffectiveConfiguration) -> str:
    return "" if configuration.checkpoint.enabled else CHECKPOINTS_OFF


class JobStart(JobProtectionInput):
    """What a run of the workflow begins with; `carried` by continue-as-new."""

    carried: JobProgress | None = None

    @field_serializer("carried")
    def _briefly(self, carried: JobProgress | None) -> dict[str, Any] | None:
        """What is as it was made is not written: each byte here takes six in the control worker for as long as the
        job is open. So a default that changes is changed for jobs that run, too."""
        return None if carried is None else carried.model_dump(mode="json", exclude_defaults=True)
