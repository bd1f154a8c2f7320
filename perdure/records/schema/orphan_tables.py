"""The tables of orphans, and of the one name by which AWS's tags tell this installation from another."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from perdure.records.schema.tables import Instant


class InstallationRow(SQLModel, table=True):
    """One row, made by the migration. It goes along with a backup: the installation stays the same."""

    __tablename__ = "installation"

    name: str = Field(primary_key=True)


class OrphanRow(SQLModel, table=True):
    """A volume or snapshot that nobody owns. `found_at`: since when that is so without a break. The row goes when the
    thing is owned or gone without us; once we deleted it, it stays as the account of what that saved."""

    __tablename__ = "orphans"

    resource_id: str = Field(primary_key=True)
    kind: str
    job_id: str
    place: str
    volume_type: str
    size_gib: int
    created_at: datetime = Field(sa_type=Instant)
    reason: str
    refusal: str
    found_at: datetime = Field(sa_type=Instant, index=True)
    deleted_at: datetime | None = Field(sa_type=Instant)
