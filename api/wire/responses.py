"""The wire: what API answers look like. Apart from domain and tables, so that each can change by itself.

Every model is filled from the domain value of the same meaning by field name; a test keeps the fields in step.
"""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field

from perdure.domain.budget import BudgetColour, budget_of, predicted
from perdure.domain.checkpoints import CheckpointKind, RehearsalVerdict
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.jobs import JobState
from perdure.domain.nodes import NodeState, NoticeKind

Item = TypeVar("Item")


class Wire(BaseModel):
    """Filled from attributes of a domain value."""

    model_config = ConfigDict(from_attributes=True)


class PageOf(Wire, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(None, description="Pass it as `cursor` for the next page; null on the last one.")


class BudgetView(Wire):
    """What a final checkpoint would take."""

    seconds: float = Field(description="From the notice until the volume is free, predicted.", examples=[14.2])
    notice_seconds: float = Field(description="What Spot gives.", examples=[120])
    colour: BudgetColour = Field(description="`green`: it fits twice; `amber`: it fits; `red`: it may not.")
    advice: str = Field(description="What would help; empty when green.")


class CheckpointView(Wire):
    """A committed, restorable point of one job."""

    number: int = Field(description="Rises with every checkpoint of the job.", examples=[3])
    kind: CheckpointKind
    epoch: int = Field(description="The container it was taken of.")
    frozen_at: datetime = Field(description="The instant that a restore brings back.")
    committed_at: datetime
    image_bytes: int = Field(
        description="Bytes of its memory image, which is complete; it may share some with older ones."
    )
    written_bytes: int | None = Field(
        description="Bytes that the disk or the store took for it. Null: unknown.", examples=[4_194_304]
    )
    holds_bytes: int | None = Field(
        description="Bytes that a restore lays down: its memory image and, out of a store, the job's files. Null:"
        " unknown.",
        examples=[1_073_741_824],
    )
    shares_bytes: int | None = Field(
        description="What it uses of bytes that were there already (on a volume, zeros too). Null: unknown.",
        examples=[1_069_547_520],
    )
    full: int = Field(
        description="The full checkpoint with which, and with those after it, it may share pages; its own number if it "
        "is the full one; 0: nobody knows."
    )
    phases: dict[str, float] = Field(description="Seconds by step, as the node measured them.")
    cpu_features: str = Field(description="Instruction sets that its processes may rely on.", examples=["avx avx2"])

    @computed_field(description="Seconds that the job stood still for it.", examples=[0.4])  # type: ignore[prop-decorator]
    @property
    def freeze_seconds(self) -> float | None:
        return self.phases.get("frozen")

    @computed_field(description="Seconds in which its memory was written out.", examples=[3.2])  # type: ignore[prop-decorator]
    @property
    def dump_seconds(self) -> float | None:
        return self.phases.get("dump")

    @computed_field(  # type: ignore[prop-decorator]
        description="Seconds until it was safe after that: checksums, commit, and the way to the store if it has one.",
        examples=[1.1],
    )
    @property
    def upload_seconds(self) -> float | None:
        steps = ("assemble", "sync", "checksums", "commit", "upload")
        known = [self.phases[step] for step in steps if step in self.phases]
        return sum(known) if known else None

    @computed_field(  # type: ignore[prop-decorator]
        description="What a final checkpoint would take now, predicted from this one, against the notice."
    )
    @property
    def budget(self) -> BudgetView | None:
        found = budget_of(self.phases)
        return BudgetView(**found.model_dump()) if found else None


class PastCheckpointView(CheckpointView):
    """A checkpoint that was committed once."""

    offered: bool = Field(description="Can it still be restored, as far as anybody knows?")


class AttemptView(Wire):
    """One container of the job."""

    epoch: int = Field(description="Perdure's own count of containers; always rises.")
    attempt: int = Field(description="Batch's attempt number.")
    instance_id: str = Field(examples=["i-0123456789abcdef0"])
    zone: str = Field(examples=["us-east-1a"])
    container_id: str
    accepted_at: datetime
    started_at: datetime | None
    restored_from: int | None = Field(
        description="Number of the checkpoint it went on from; null: a clean start, or not started (see started_at)."
    )
    ended_at: datetime | None
    end: str | None = Field(description="Why it ended: exited, handed over, node lost, replaced.")
    restore_failures: int = Field(description="Checkpoints that could not be restored before it started.")
    batch_started_at: datetime | None = Field(description="As AWS Batch counts it.")
    batch_stopped_at: datetime | None = Field(description="When AWS Batch saw its end.")
    noticed_at: datetime | None = Field(description="When AWS said that it takes the instance back.")
    notice_deadline: datetime | None = Field(description="When it will.")
    log_stream: str = Field(description="CloudWatch's log stream of its output; empty: not known.")
    log_url: str | None = Field(None, description="That stream's page in the AWS console.")


class VolumeView(Wire):
    """A volume of the job, gone or not."""

    volume_id: str
    zone: str
    volume_type: str
    size_gib: int
    created_at: datetime
    deleted_at: datetime | None


class SnapshotView(Wire):
    """A snapshot that brought the job's volume to another zone."""

    snapshot_id: str
    volume_id: str
    size_gib: int
    created_at: datetime
    deleted_at: datetime | None


class RetryRuleView(Wire):
    """One `evaluateOnExit` rule of the job; what is absent matches anything."""

    action: str = Field(examples=["RETRY"])
    on_exit_code: str | None
    on_reason: str | None
    on_status_reason: str | None = Field(examples=["Host EC2*"])


class RetryStrategyView(Wire):
    """The job's retry strategy in AWS Batch."""

    attempts: int
    rules: list[RetryRuleView]


class OutageView(Wire):
    """The time the job stood still because of one reclaim."""

    epoch: int
    kind: str = Field(description="`notice` or `no notice`.")
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    phases: dict[str, float] = Field(
        description="frozen, dumped, detached, waited, attached, checked, restored: seconds each."
    )
    restored_from: int | None = Field(
        description="Number of the checkpoint it went on from; null: a clean start, or not over (see ended_at)."
    )
    work_lost_seconds: float | None = Field(description="Run time that had to be done again.")


class EventView(Wire):
    """One line of the job's timeline."""

    sequence: int
    at: datetime
    kind: str = Field(description="Short and stable, for programs.", examples=["restored"])
    message: str = Field(description="One plain sentence.")
    level: str = Field(description="info, warning or error.")
    epoch: int | None


class RehearsalView(Wire):
    """Was a checkpoint restored beside the running job, and did it come back?"""

    number: int = Field(description="Of the checkpoint.", examples=[3])
    epoch: int = Field(description="Of the container that it was taken of.")
    at: datetime = Field(description="When it was over.")
    verdict: RehearsalVerdict = Field(description="`passed`, `failed` or `not tried`.")
    reason: str = Field(description="The cause of a failure, or why it was not tried; empty: it passed.")
    seconds: float = Field(description="How long it took, at low priority.", examples=[2.8])


class JobSummary(Wire):
    """A job in a list."""

    job_id: str = Field(description="AWS Batch's job id.")
    name: str
    queue: str
    state: JobState = Field(description="What Perdure is doing with it.")
    batch_status: str | None = Field(description="AWS Batch's own status.", examples=["RUNNING"])
    exit_code: int | None
    vcpus: float | None
    memory_mib: int | None
    created_at: datetime
    changed_at: datetime | None
    finished_at: datetime | None
    protections: int = Field(description="Reclaims survived.")
    checkpoints_committed: int
    checkpoint_failures: int
    volume_zone: str | None
    max_rootfs_bytes: int | None = Field(
        description="Bytes of its writable layer, the most seen at a checkpoint or an exit."
    )
    attempts_left: int | None
    unprotected: str = Field(description="Why a reclaim would cost the job its work; empty: it is protected.")


class JobPlaced(JobSummary):
    """A job in a list, and where it is."""

    instance_id: str | None = Field(None, description="Where its newest container is, or was.")
    zone: str | None = Field(None, description="Of that instance.")


class JobListed(JobPlaced):
    """A job in a list, with what takes a look into its attempts. Only with `detail`; else that is null."""

    attempts: int | None = Field(None, description="Batch's number of the newest attempt.")
    last_checkpoint_at: datetime | None = Field(None, description="The instant that its newest checkpoint brings back.")
    run_seconds: float | None = Field(None, description="Run time of its processes.")


class StoredView(Wire):
    """Where in a store a job's checkpoints lie."""

    store: StoreConfiguration
    job_id: str = Field(description="The job whose name they bear there: its own, or that of the one it goes on from.")


class JobDetail(JobSummary):
    """Everything known of one job."""

    timeout_seconds: int | None = Field(description="AWS Batch's limit for one attempt; null: none.")
    retry: RetryStrategyView
    interval_seconds: float | None = Field(description="Seconds between periodic checkpoints; 0: off.")
    interval_source: str = Field(description="`system`, or the job's environment variable that won.")
    diagnosis: bool
    environment: dict[str, str] = Field(description="The job's own variables that configure Perdure.")
    epoch: int
    attempts: list[AttemptView]
    checkpoints: list[CheckpointView] = Field(description="Those still offered, oldest first.")
    outages: list[OutageView]
    frozen_seconds: float = Field(description="How long it stood still for checkpoints after which it ran on, in all.")
    checkpoint_failed_at: datetime | None = Field(description="When a checkpoint last failed.")
    checkpoint_failure: str = Field(description="Why it did.")
    checkpoint_error: str = Field(description="The kind of that failure.", examples=["JobRootFull"])
    checkpoint_failures_in_a_row: int = Field(description="Failures since the newest that was committed.")
    rehearsal: RehearsalView | None = Field(description="The newest; null: none yet, or rehearsals are off.")
    rehearsals: int = Field(description="How many passed or failed.")
    rehearsal_failures: int = Field(description="How many of these failed.")
    quarantined: list[int] = Field(description="Checkpoints that could not be restored and are not tried again.")
    volume_id: str | None
    volumes: list[VolumeView]
    snapshots: list[SnapshotView]
    stored: StoredView | None = Field(description="Where its checkpoints lie if it has no volume; else null.")
    shared_mounts: list[str] = Field(description="Mounts that are not rolled back: outside the exactly-once promise.")
    hand_over: str | None = Field(description="How the job leaves a node that is reclaimed.")
    log_group: str = Field(description="CloudWatch's log group of its output; empty: not known, or none.")

    @computed_field(  # type: ignore[prop-decorator]
        description="What a final checkpoint would take now against the notice, predicted from the newest that wrote"
        " only what had changed; null: none tells it yet."
    )
    @property
    def budget(self) -> BudgetView | None:
        found = predicted(self.checkpoints)
        return BudgetView(**found.model_dump()) if found else None


class VerdictView(Wire):
    """What AWS Batch would do after one kind of end."""

    ending: str = Field(description="`reclaim`, `hand over`, `failed start` or `own failure`.")
    retried: bool
    rule: str = Field(description="The retry rule that decides.", examples=["rule 2, `Host EC2*`"])
    message: str = Field(examples=["A reclaim (`Host EC2 …`) would be retried: rule 2, `Host EC2*`."])


class AlertView(Wire):
    """Something that is wrong with a job, or soon will be. It stands as long as it is true."""

    code: str = Field(description="Short and stable, for programs.", examples=["last-attempt"])
    level: str = Field(description="`error`: the job ends, or work is lost; else `warning`.")
    message: str = Field(description="For people.")
    since: datetime | None = Field(description="When it became true, as far as that is known.")


class JobCosts(Wire):
    """What the job's ledger adds up to; see `/ledger` for its lines and `/report?job=` for the formulas."""

    cpu_hours: float = Field(description="vCPUs asked for x (complete - start).", examples=[8.0])
    instance_cost_usd: float = Field(description="Whole instances, as if each ran this job alone.", examples=[0.42])
    cost_share_usd: float = Field(description="The job's part of them, by its vCPUs.", examples=[0.21])
    on_demand_cost_usd: float = Field(description="Whole instances at the on-demand price.", examples=[1.4])
    protection_cost_usd: float = Field(description="Its volumes, snapshots, store, keys and waiting.", examples=[0.02])
    saved_usd: float = Field(description="Work that protection preserved, less the time that it took.", examples=[0.3])
    saved_hours: float = Field(description="The same in hours of run time.", examples=[1.9])
    naive_saved_usd: float = Field(description="As MMBatch counts it: nothing subtracted.", examples=[0.4])
    lost_hours: float = Field(description="Run time that had to be done again.", examples=[0.1])
    estimated_usd: float = Field(description="How much of all costs rests on an estimated price.", examples=[0.0])


class ReclaimNowView(Wire):
    """What would be left of a job if AWS took its instance at this moment."""

    checkpoint: int | None = Field(description="The newest that can be restored; null: it would start anew.")
    frozen_at: datetime | None = Field(description="The instant that it brings back.")
    at_risk_seconds: float | None = Field(
        description="Run time since then, lost if AWS gives no notice; null: it does not run now."
    )
    final_seconds: float | None = Field(
        description="How long a final checkpoint would take, as the newest one did; null: there is none yet."
    )
    notice_seconds: float = Field(description="How long AWS's notice leaves for it.", examples=[120.0])


class KeptCheckpointView(Wire):
    """The checkpoint that a job which is over can be resumed from, or was."""

    checkpoint: int
    until: datetime | None = Field(
        description="When it is deleted (`server.keep_volume_seconds`); null: by a person, or the job was resumed."
    )
    resumed_as: str | None = Field(
        description="The job that goes on from it; empty: which one is not known yet; null: nobody resumed it."
    )


class JobWithTimeline(JobDetail):
    """A job, what is to be said of it now, what it cost, and its timeline."""

    standing: str = Field(
        description="How it stands, in a sentence or two.",
        examples=["It has run 2 h 3 min on i-0123456789abcdef0 in us-east-1a. Its newest checkpoint, 7, is 4 min old."],
    )
    reclaim_now: ReclaimNowView | None = Field(description="Null: it is finished, or has not begun.")
    kept: KeptCheckpointView | None = Field(description="What it can be resumed from once it is over; null: nothing.")
    costs: JobCosts
    alerts: list[AlertView] = Field(description="The worst first; none once the job is finished.")
    verdicts: list[VerdictView] = Field(description="How AWS Batch would take each of its ends, attempts permitting.")
    timeout_left_seconds: float | None = Field(
        description="Until AWS Batch ends the running attempt for its time-out; null: no time-out, or nothing runs."
    )
    batch_run_seconds: float | None = Field(
        description="Run time as AWS Batch counts it, attempts summed; null: it has told of none yet."
    )
    run_seconds: float = Field(description="Run time of its processes: without outages, freezes and waits.")
    preflight: EventView | None = Field(description="What preflight said last; null: it has not looked yet.")
    events: list[EventView] = Field(description="Oldest first; at most the newest 500, see `/events` for the rest.")


class CheckpointCommitted(Wire):
    """Answer to a request for a checkpoint."""

    number: int = Field(description="Number of the committed checkpoint.", examples=[4])
    checkpoint: CheckpointView


class InstanceTypeFitView(Wire):
    """Whether an instance type can restore a checkpoint."""

    instance_type: str = Field(description="A type, or a whole family.", examples=["m6i.large", "c6i.*"])
    basis: str = Field(
        description="`seen` on a node of that type, or `expected` by a dated table shipped with Perdure."
    )
    fits: bool
    missing: list[str] = Field(description="CPU features that it lacks.", examples=[["avx512f"]])


class CompatibleInstanceTypes(Wire):
    """Where a job's newest checkpoint can be restored."""

    job_id: str
    checkpoint: int | None = Field(description="The checkpoint asked about; null: none yet, so its node's CPU counts.")
    needs: list[str] = Field(description="CPU features that its processes may rely on.")
    table_date: str = Field(description="Date of the table behind `expected`.")
    instance_types: list[InstanceTypeFitView] = Field(description="Those that fit first.")


class NoticeView(Wire):
    """What AWS announced of a node."""

    notice_id: str
    kind: NoticeKind
    instance_id: str
    seen_at: datetime
    deadline: datetime | None


class NodeView(Wire):
    """A worker instance with an agent on it."""

    instance_id: str
    zone: str
    instance_type: str
    state: NodeState
    agent_version: str
    cpu_features: str = Field(description="Instruction sets of its CPU.", examples=["avx avx2"])
    first_seen_at: datetime | None
    changed_at: datetime | None
    notice: NoticeView | None
    region: str
    pay_type: str = Field(description="`spot` or `on-demand`; empty: not known.")
    launched_at: datetime | None = Field(description="What AWS bills begins here.")
    ended_at: datetime | None
    ended_by: str = Field(description="`aws` took it back, or `user`; empty: not known.")
    host_name: str
    ips: list[str]
    arch: str
    vcpus: int | None
    memory_mib: int | None
    cpu_model: str
    cpu_vendor: str


class Part(Wire):
    """One thing that Perdure depends on."""

    ok: bool
    message: str = Field("", description="What is wrong, if something is.")


class Health(Wire):
    """Can this server do its work?"""

    status: str = Field(description="`ok` or `broken`: can this server answer?")
    version: str
    database: Part
    temporal: Part
    control_worker: Part = Field(
        description="Is there one? Without it, jobs run on and nobody moves them; this server answers all the same."
    )
