"""The tables, and how each maps to the domain. Nothing outside this package sees a row.

Instants are integers, microseconds since 1970 UTC: they sort and compare alike in SQLite and PostgreSQL. A test per
table keeps its columns in step with the fields of its domain model.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    Table,
    TypeDecorator,
    text,
)
from sqlmodel import Field, SQLModel

from perdure.domain.values import instant_of, microseconds


class Instant(TypeDecorator[datetime]):
    """A point in time, stored as microseconds since 1970 UTC. A naive datetime is refused."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return microseconds(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else instant_of(int(value))


def plain(row: type[SQLModel]) -> Table:
    """A class's table, for queries without the ORM: it makes objects for longer than the database looks for rows."""
    return SQLModel.metadata.tables[str(row.__tablename__)]


BigPrimary = BigInteger().with_variant(Integer(), "sqlite")
"""A primary key of 64 bits. SQLite keeps a table in the order of a key that is called INTEGER, of any size."""


class JobRow(SQLModel, table=True):
    """A job without its lists; `revision` is the workflow's count of changes."""

    __tablename__ = "jobs"
    __table_args__ = (
        # One index per order of a list, and for the usual order one per filter too (records.job_lists).
        Index("ix_jobs_newest", "created_at", "job_id"),
        Index("ix_jobs_state", "state", "created_at", "job_id"),
        Index("ix_jobs_queue", "queue", "created_at", "job_id"),
        Index("ix_jobs_queue_state", "queue", "state", "created_at", "job_id"),
        Index("ix_jobs_finished", "finished_at", "job_id"),
        Index("ix_jobs_name", "name", "job_id"),
        Index("ix_jobs_protections", "protections", "job_id"),
        # Few jobs are unprotected, and reports count them by their reasons.
        Index(
            "ix_jobs_unprotected",
            "created_at",
            "job_id",
            sqlite_where=text("unprotected <> ''"),
            postgresql_where=text("unprotected <> ''"),
        ),
        # Few jobs have checkpoints in a store; of those that are over some have an end (records.jobs.kept_checkpoints).
        Index(
            "ix_jobs_stored",
            "finished_at",
            "job_id",
            sqlite_where=text("stored IS NOT NULL"),
            postgresql_where=text("stored IS NOT NULL"),
        ),
        Index("ix_jobs_zone", "zone", "created_at", "job_id"),
        Index("ix_jobs_instance", "instance_id", "created_at", "job_id"),
    )

    job_id: str = Field(primary_key=True)
    revision: int
    position: int = Field(sa_type=BigInteger, index=True)
    name: str
    queue: str
    state: str
    batch_status: str | None
    exit_code: int | None
    vcpus: float | None
    memory_mib: int | None
    created_at: datetime = Field(sa_type=Instant)
    changed_at: datetime | None = Field(sa_type=Instant)
    finished_at: datetime | None = Field(sa_type=Instant)
    timeout_seconds: int | None
    retry: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    interval_seconds: float | None
    interval_source: str
    diagnosis: bool
    environment: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    epoch: int
    checkpoints_committed: int
    checkpoint_failures: int
    frozen_seconds: float
    checkpoint_failed_at: datetime | None = Field(sa_type=Instant)
    checkpoint_failure: str
    checkpoint_error: str
    checkpoint_failures_in_a_row: int
    quarantined: list[int] = Field(sa_column=Column(JSON, nullable=False))
    rehearsal: dict[str, Any] | None = Field(sa_column=Column(JSON(none_as_null=True)))
    rehearsals: int
    rehearsal_failures: int
    protections: int
    volume_id: str | None
    volume_zone: str | None
    stored: dict[str, Any] | None = Field(None, sa_column=Column(JSON(none_as_null=True)))
    stored_ending_at: datetime | None = Field(default=None, sa_type=Instant)
    """Since when the control worker is deleting its kept checkpoints from the store: from then on nothing is resumed
    from them."""
    unprotected: str
    shared_mounts: list[str] = Field(sa_column=Column(JSON, nullable=False))
    max_rootfs_bytes: int | None = Field(sa_type=BigInteger)
    hand_over: str | None
    attempts_left: int | None
    log_group: str
    instance_id: str | None
    """Where the newest container is or was, copied of its attempt: lists are filtered by it, …"""
    zone: str | None
    """… and by this."""


class AttemptRow(SQLModel, table=True):
    """One accepted container of a job."""

    __tablename__ = "attempts"

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    epoch: int = Field(primary_key=True)
    attempt: int
    instance_id: str = Field(index=True)
    zone: str
    container_id: str
    accepted_at: datetime = Field(sa_type=Instant)
    started_at: datetime | None = Field(sa_type=Instant)
    restored_from: int | None
    ended_at: datetime | None = Field(sa_type=Instant)
    end: str | None
    restore_failures: int
    batch_started_at: datetime | None = Field(sa_type=Instant)
    batch_stopped_at: datetime | None = Field(sa_type=Instant)
    noticed_at: datetime | None = Field(sa_type=Instant)
    notice_deadline: datetime | None = Field(sa_type=Instant)
    log_stream: str


class VolumeRow(SQLModel, table=True):
    """One volume of a job, gone or not."""

    __tablename__ = "volumes"
    __table_args__ = (
        # Most volumes are gone: only the others are worth an index.
        Index(
            "ix_volumes_existing",
            "created_at",
            "job_id",
            "volume_id",
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    volume_id: str = Field(primary_key=True)
    zone: str
    volume_type: str
    size_gib: int
    iops: int = 0
    throughput_mib_per_second: int = 0
    created_at: datetime = Field(sa_type=Instant)
    deleted_at: datetime | None = Field(sa_type=Instant)
    ending_at: datetime | None = Field(default=None, sa_type=Instant)
    """Since when the control worker is deleting this kept volume: from then on nothing is resumed from it."""


class SnapshotRow(SQLModel, table=True):
    """One snapshot of a job's volume, gone or not."""

    __tablename__ = "snapshots"

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    snapshot_id: str = Field(primary_key=True)
    volume_id: str
    size_gib: int
    created_at: datetime = Field(sa_type=Instant)
    deleted_at: datetime | None = Field(sa_type=Instant)


class CheckpointRow(SQLModel, table=True):
    """One committed checkpoint. Those of the past stay as history; `offered` ones can be restored."""

    __tablename__ = "checkpoints"

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    epoch: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    offered: bool
    kind: str
    frozen_at: datetime = Field(sa_type=Instant)
    committed_at: datetime = Field(sa_type=Instant)
    image_bytes: int = Field(sa_type=BigInteger)
    written_bytes: int | None = Field(None, sa_type=BigInteger)
    holds_bytes: int | None = Field(None, sa_type=BigInteger)
    shares_bytes: int | None = Field(None, sa_type=BigInteger)
    full: int = 0
    phases: dict[str, float] = Field(sa_column=Column(JSON, nullable=False))
    cpu_features: str


class StoreUseRow(SQLModel, table=True):
    """What was asked of a store for a job, and what it held of it from then on. Appended, never changed."""

    __tablename__ = "store_uses"
    __table_args__ = (Index("ix_store_uses_at", "job_id", "at"),)

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    use_id: str = Field(primary_key=True)
    at: datetime = Field(sa_type=Instant)
    store: str
    region: str
    writes: int = Field(sa_type=BigInteger)
    reads: int = Field(sa_type=BigInteger)
    key_requests: int = Field(sa_type=BigInteger)
    held_bytes: int | None = Field(sa_type=BigInteger)


class OutageRow(SQLModel, table=True):
    """One time a job stood still because a node went."""

    __tablename__ = "outages"

    job_id: str = Field(primary_key=True, foreign_key="jobs.job_id", ondelete="CASCADE")
    epoch: int = Field(primary_key=True)
    kind: str
    started_at: datetime = Field(sa_type=Instant)
    ended_at: datetime | None = Field(sa_type=Instant)
    seconds: float | None
    phases: dict[str, float] = Field(sa_column=Column(JSON, nullable=False))
    restored_from: int | None
    work_lost_seconds: float | None


class EventRow(SQLModel, table=True):
    """One line of a job's timeline. Appended, never changed. `position`: see records.changes."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_job", "job_id", "sequence", unique=True),
        Index("ix_events_at", "at", "position"),
        Index("ix_events_kind", "kind", "at", "position"),
        # Most lines are `info`: only the others are worth an index.
        Index(
            "ix_events_level",
            "at",
            "position",
            sqlite_where=text("level <> 'info'"),
            postgresql_where=text("level <> 'info'"),
        ),
    )

    position: int = Field(sa_column=Column(BigPrimary, primary_key=True, autoincrement=False))
    job_id: str = Field(foreign_key="jobs.job_id", ondelete="CASCADE")
    sequence: int
    at: datetime = Field(sa_type=Instant)
    kind: str
    message: str
    level: str
    epoch: int | None


class NodeRow(SQLModel, table=True):
    """A worker instance. Its notice is kept as JSON: it is only ever read with the node."""

    __tablename__ = "nodes"
    __table_args__ = (
        Index("ix_nodes_first_seen", "first_seen_at", "instance_id"),
        Index("ix_nodes_ended", "ended_at", "instance_id"),
        Index("ix_nodes_state", "state", "instance_id"),
    )

    instance_id: str = Field(primary_key=True)
    position: int = Field(sa_type=BigInteger, index=True)
    zone: str
    instance_type: str
    state: str
    agent_version: str
    cpu_features: str
    first_seen_at: datetime | None = Field(sa_type=Instant)
    changed_at: datetime | None = Field(sa_type=Instant)
    notice: dict[str, Any] | None = Field(sa_column=Column(JSON(none_as_null=True)))
    region: str
    pay_type: str
    launched_at: datetime | None = Field(sa_type=Instant)
    ended_at: datetime | None = Field(sa_type=Instant)
    ended_by: str
    host_name: str
    ips: list[str] = Field(sa_column=Column(JSON, nullable=False))
    arch: str
    vcpus: int | None
    memory_mib: int | None
    cpu_model: str
    cpu_vendor: str


class ConfigurationRow(SQLModel, table=True):
    """The system configuration as it was saved; the highest number holds, the others are its history."""

    __tablename__ = "configuration"

    number: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=Instant)
    by: str
    configuration: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
