"""The tables of kept log bundles and of resumptions. Neither refers to the jobs table: a bundle may come before its
job is recorded, and a resumption must be remembered as long as its volume lives."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from perdure.records.schema.tables import Instant


class LogBundleRow(SQLModel, table=True):
    """A zip archive that a node sent. Of a whole node: `job_id` is empty."""

    __tablename__ = "log_bundles"
    __table_args__ = (
        Index("ix_log_bundles_job", "job_id", "at"),
        Index("ix_log_bundles_node", "instance_id", "at"),
        Index("ix_log_bundles_at", "at"),
    )

    key: str = Field(primary_key=True)
    job_id: str
    instance_id: str
    epoch: int
    kind: str
    at: datetime = Field(sa_type=Instant)
    size: int
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class ResumptionRow(SQLModel, table=True):
    """A new job submitted (or about to be: `new_job_id` is empty) from the kept checkpoint of one that ended.

    Only the control worker writes it; it is what lets the new job take the old one's volume.
    """

    __tablename__ = "resumptions"

    job_id: str = Field(primary_key=True)
    request_id: str
    job_name: str
    new_job_id: str | None = Field(index=True)
    checkpoint: int
    volume_id: str
    epoch: int
    asked_by: str
    asked_at: datetime = Field(sa_type=Instant)
    taken_at: datetime | None = Field(sa_type=Instant)
