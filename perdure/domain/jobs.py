"""A Batch job as Perdure sees it: its states, attempts, epochs, outages and its timeline."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from perdure.domain.checkpoints import Checkpoint, Rehearsal
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.retries import RetryStrategy
from perdure.domain.values import Frozen
from perdure.domain.volumes import SnapshotLife, VolumeLife


class JobState(StrEnum):
    """The job states shown to people (the reference product's words)."""

    CREATING = "Creating"
    CREATED = "Created"
    VOLUME_UNREADY = "Volume Unready"
    RUNNING = "Running"
    CHECKPOINTING = "Checkpointing"
    CHECKPOINT_SUCCEEDED = "Checkpoint Succeeded"
    CHECKPOINT_FAILED = "Checkpoint Failed"
    RESTORING = "Restoring"
    RESTORE_VOLUME_UNREADY = "Restore Volume Unready"
    RESTORE_SUCCEEDED = "Restore Succeeded"
    RESTORE_FAILED = "Restore Failed"
    STOPPED = "Stopped"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


FINISHED_STATES = frozenset({JobState.STOPPED, JobState.SUCCEEDED, JobState.FAILED})


class JobOrder(StrEnum):
    """What a list is sorted by; `-`: the largest first. Jobs without a finish are not in a list sorted by it."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    LAST_FINISHED = "-finished_at"
    FIRST_FINISHED = "finished_at"
    NAME = "name"
    NAME_DOWN = "-name"
    MOST_PROTECTIONS = "-protections"
    FEWEST_PROTECTIONS = "protections"


class Attempt(Frozen):
    """One container of the job that was accepted: Batch's attempt number beside our epoch. Times are UTC."""

    epoch: int
    attempt: int
    instance_id: str
    zone: str
    container_id: str
    accepted_at: datetime
    started_at: datetime | None = None
    restored_from: int | None = None
    ended_at: datetime | None = None
    end: str | None = None
    """Why it ended, in plain words: `exited`, `handed over`, `node lost`, `replaced`."""
    restore_failures: int = 0
    """Checkpoints that could not be restored before it started."""
    batch_started_at: datetime | None = None
    """As AWS Batch counts it, and …"""
    batch_stopped_at: datetime | None = None
    """… when it saw the container's end: with the time that a final checkpoint took."""
    noticed_at: datetime | None = None
    """When AWS said that it takes the instance back, and …"""
    notice_deadline: datetime | None = None
    """… when it will; None without a notice."""
    log_stream: str = ""
    """The CloudWatch log stream of its output, as AWS Batch names it; empty: not known."""


class Outage(Frozen):
    """The time a job stood still because of one reclaim.

    `seconds` runs from the freeze (with notice) or the node's death (without; as Batch reports it) to the moment the
    processes went on. `phases` are seconds by name in order: frozen, dumped, detached, waited, attached, checked,
    restored. `work_lost_seconds` is the job's own run time that had to be done again (0 after a final checkpoint).
    """

    epoch: int
    kind: str
    """`notice` or `no notice`."""
    started_at: datetime
    ended_at: datetime | None = None
    seconds: float | None = None
    phases: dict[str, float] = Field(default_factory=dict)
    restored_from: int | None = None
    work_lost_seconds: float | None = None


class JobEvent(Frozen):
    """One line of a job's timeline. `sequence` rises by one per job; (job_id, sequence) is the key."""

    sequence: int
    at: datetime
    kind: str
    """Short and stable, for machines: `attached`, `started`, `restored`, `checkpoint`, `notice`, …"""
    message: str
    """One plain sentence, for people."""
    level: str = "info"
    """`info`, `warning` or `error`."""
    epoch: int | None = None


class StoredUnder(Frozen):
    """Where the checkpoints of a job without a volume lie: the store, and the id of the job whose name they bear there.
    That is its own, or for a resumed one its first predecessor's."""

    store: StoreConfiguration
    job_id: str


class Job(Frozen):
    """Everything people are shown of one job. The job's workflow owns it; records keep a copy. Times are UTC."""

    job_id: str
    name: str = ""
    queue: str = ""
    state: JobState = JobState.CREATING
    batch_status: str | None = None
    exit_code: int | None = None
    vcpus: float | None = None
    memory_mib: int | None = None
    created_at: datetime
    changed_at: datetime | None = None
    """When the workflow last changed anything here."""
    finished_at: datetime | None = None
    timeout_seconds: int | None = None
    """Batch's limit for one attempt, if it has one."""
    retry: RetryStrategy = RetryStrategy()
    interval_seconds: float | None = None
    interval_source: str = "system"
    """Where the interval came from: `system` or the name of the environment variable."""
    diagnosis: bool = False
    environment: dict[str, str] = Field(default_factory=dict)
    """The job's own variables that configure Perdure, and no others."""
    epoch: int = 0
    attempts: list[Attempt] = Field(default_factory=list)
    checkpoints: list[Checkpoint] = Field(default_factory=list)
    """Committed ones that are still offered, oldest first."""
    checkpoints_committed: int = 0
    checkpoint_failures: int = 0
    frozen_seconds: float = 0.0
    """How long it stood still for checkpoints after which it ran on, in all."""
    checkpoint_failed_at: datetime | None = None
    """When the last one failed, …"""
    checkpoint_failure: str = ""
    """… why, in words, …"""
    checkpoint_error: str = ""
    """… which error of ours that was (perdure.domain.errors), …"""
    checkpoint_failures_in_a_row: int = 0
    """… and how many have failed since the newest that was committed."""
    quarantined: list[int] = Field(default_factory=list)
    """Numbers of checkpoints that failed on sound nodes and are not tried again."""
    rehearsal: Rehearsal | None = None
    """The newest: was a checkpoint restored beside the running job, and did it come back?"""
    rehearsals: int = 0
    """How many passed or failed, …"""
    rehearsal_failures: int = 0
    """… and how many of these failed."""
    protections: int = 0
    outages: list[Outage] = Field(default_factory=list)
    volume_id: str | None = None
    volume_zone: str | None = None
    volumes: list[VolumeLife] = Field(default_factory=list)
    """Every volume that was ever made for the job, oldest first."""
    snapshots: list[SnapshotLife] = Field(default_factory=list)
    stored: StoredUnder | None = None
    """None: it has a volume, or nothing of it is in a store."""
    unprotected: str = ""
    """Why a reclaim would cost the job its work; empty: it is protected, or nothing runs yet."""
    shared_mounts: list[str] = Field(default_factory=list)
    """Mounts outside promise 1: what is written there is not rolled back."""
    max_rootfs_bytes: int | None = None
    """The largest that its writable layer was at a checkpoint or at an exit. A peak in between is not seen."""
    hand_over: str | None = None
    attempts_left: int | None = None
    log_group: str = ""
    """The CloudWatch log group of its output; empty: not known, or its output does not go to CloudWatch."""


_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


def folder_name(job_id: str) -> str:
    """A file name for the job that is safe whatever the id holds: the id itself where it is plain, else a hash of it.

    Job ids are untrusted (a container sets its own environment): they never become paths as they are.
    """
    if _PLAIN_ID.fullmatch(job_id):
        return job_id
    return "job-" + hashlib.sha256(job_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
