"""Tables behind the lists: what jobs are found by, and the count of changes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column
from sqlmodel import Field, SQLModel

from perdure.records.schema.tables import BigPrimary

JOB_TEXT_INDEX = "ix_job_texts_trigrams"
"""PostgreSQL: trigrams of `text`. Missing where the extension pg_trgm could not be created."""
JOB_TEXT_SEARCH = "job_texts_search"
"""SQLite: the full-text table of trigrams, kept in step with job_texts by triggers."""


class JobTextRow(SQLModel, table=True):
    """What a job is found by: its id, name and queue, folded (records.job_texts). Apart from the job, which changes
    often while this never does: an index of trigrams is costly to write."""

    __tablename__ = "job_texts"

    number: int | None = Field(default=None, sa_column=Column(BigPrimary, primary_key=True))
    job_id: str = Field(foreign_key="jobs.job_id", ondelete="CASCADE", unique=True)
    text: str


class PositionRow(SQLModel, table=True):
    """One row: the position of the newest change (records.changes)."""

    __tablename__ = "positions"

    name: str = Field(primary_key=True)
    last: int = Field(sa_column=Column(BigInteger, nullable=False))
