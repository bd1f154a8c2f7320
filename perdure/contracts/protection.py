"""What the job's workflow hears and answers: attach, reports of the node, a person's requests.

Agents call by name: update `attach` (with start), signal `report`, signal `notice`; people (through the API) call
update `take_checkpoint` and signal `configuration_changed`; the reconciler signals `doubted`; query `job` answers a
`Job`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from perdure.domain.checkpoints import Checkpoint, CheckpointKind, Rehearsal
from perdure.domain.configuration import EffectiveConfiguration, StoreConfiguration
from perdure.domain.retries import HandOver, RetryStrategy
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.domain.zone_snapshots import VolumeUse


class JobProtectionInput(Frozen):
    """Start of the workflow `batch-job/<job id>`. The caller gives it a static summary (name, queue, zone)."""

    job_id: str


class AttachRequest(Frozen):
    """A container of the job appeared on a node. The key is (instance_id, container_id): asked again, the answer is
    for the same epoch. `environment` holds only the variables that configure Perdure."""

    job_id: str
    container_id: str
    attempt: int
    instance_id: str
    zone: str
    instance_type: str = ""
    asked_at: datetime
    environment: dict[str, str] = Field(default_factory=dict)
    shared_mounts: list[str] = Field(default_factory=list)
    can_stop_ecs: bool = False
    """This node knows how to stop its ECS agent: way STOP_ECS may be chosen."""


class Verdict(StrEnum):
    """What the node is to do with the container."""

    FRESH = "fresh"
    """Start it clean: drop whatever earlier layer, data and checkpoints lie on the job root."""
    RESTORE = "restore"
    """Restore the newest sound checkpoint on the job root; if there is none, start it clean."""
    WAIT = "wait"
    """Not ready yet (volume on its way): ask again under a new update id."""
    REFUSED = "refused"
    """A newer container of this job exists, or the job is finished, or its owner ended it."""
    UNPROTECTED = "unprotected"
    """Run it as if Perdure were not there: Batch does not know the job, or it has several containers."""


class AttachReply(Frozen):
    """The plan for a container. Where its job root lives: on the volume `volume_id`, attached to the asking node once
    the verdict is FRESH or RESTORE; or, with `store`, on the node's own disk, and its checkpoints in that store.

    `retry`, `attempts_made` (this one included) and `hand_over` let the node act on a notice while nobody answers.
    `quarantined`: checkpoint numbers that failed twice on sound nodes and must not be tried. `predecessors`: jobs that
    this one was resumed from, whose checkpoints it may restore.
    `interval_seconds` of the configuration 0 means no periodic checkpoints.
    """

    verdict: Verdict
    reason: str = ""
    epoch: int = 0
    volume_id: str | None = None
    store: StoreConfiguration | None = None
    stored_as: str = ""
    """The job whose name its checkpoints bear in the store; empty: its own."""
    configuration: EffectiveConfiguration | None = None
    settings_number: int = 0
    """Of the checkpoint settings therein; those of a higher number are newer."""
    retry: RetryStrategy = RetryStrategy()
    attempts_made: int = 1
    hand_over: HandOver = HandOver.STAY_FROZEN
    quarantined: list[int] = Field(default_factory=list)
    predecessors: list[str] = Field(default_factory=list)
    cold_volume: bool = False
    """The volume was just made from a snapshot: whatever is read of it for the first time is slow."""
    forced_volume: bool = False
    """The volume was taken from its last instance by force: its file system is to be checked."""


class ReportKind(StrEnum):
    """What a node tells the job's workflow."""

    STARTED = "started"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_FAILED = "checkpoint failed"
    HANDED_OVER = "handed over"
    EXITED = "exited"
    REHEARSED = "rehearsed"
    """A checkpoint was restored beside the running job, or why it was not."""
    PREFLIGHT = "preflight"
    """Whether the job can be protected, and what stands in the way (`reason`, `level`)."""
    REMARK = "remark"
    """Anything worth a line on the job's timeline (`reason`, `level`)."""


class RestoreRung(Frozen):
    """One rung of the ladder that did not hold: which checkpoint, and why, CRIU's own words included (its log stays on
    a node that may be gone when somebody reads this). `node_fault`: surely the node was to blame. `image_fault`: the
    cause is in the checkpoint. Neither: either may be. `again`: the same checkpoint is tried once more, here."""

    number: int
    reason: str
    node_fault: bool = False
    image_fault: bool = False
    again: bool = False


class NodeReport(Frozen):
    """A fact from the node. `report_id` is the key: the node spools reports and may send one twice.

    STARTED: `restored_from` (None = clean), `rungs`, `found` (committed checkpoints on the job root), `phases`
    (seconds: waited, attached, checked, verified, rolled back, restored). CHECKPOINT: `checkpoint`. CHECKPOINT_FAILED:
    `reason`, `error` (which of perdure.domain.errors), `checkpoint_kind`. HANDED_OVER: `hand_over` (the way taken),
    `checkpoint`, `phases` (seconds: ended, unmounted). EXITED: `max_rootfs_bytes`. REMARK: `unprotected` (the container
    runs without us from now on), `rungs` (of a container that was given up). REHEARSED: `rehearsal`.
    """

    report_id: str
    job_id: str
    epoch: int
    kind: ReportKind
    at: datetime
    instance_id: str
    reason: str = ""
    level: str = "info"
    error: str = ""
    unprotected: bool = False
    checkpoint: Checkpoint | None = None
    checkpoint_kind: CheckpointKind | None = None
    restored_from: int | None = None
    rungs: list[RestoreRung] = Field(default_factory=list)
    found: list[Checkpoint] = Field(default_factory=list)
    phases: dict[str, float] = Field(default_factory=dict)
    hand_over: HandOver | None = None
    max_rootfs_bytes: int | None = None
    rehearsal: Rehearsal | None = None
    volume_use: VolumeUse | None = None
    """Of the job volume, with a CHECKPOINT; None where the job root is no volume."""
    store_use: StoreUse | None = None
    """What was asked of the store since the report before; None where the checkpoints are on a volume."""


class Doubt(Frozen):
    """Signal `doubted`: the container on that instance may be gone although nobody told. `reason` is a sentence for
    people. Only AWS Batch can tell what became of it, so the workflow asks there."""

    instance_id: str
    reason: str


class TakeCheckpoint(Frozen):
    """A person asks for a checkpoint now. `request_id` is the key."""

    request_id: str


class CheckpointTaken(Frozen):
    """Answer to `TakeCheckpoint`: the committed checkpoint, or why there is none."""

    checkpoint: Checkpoint | None = None
    failure: str = ""
