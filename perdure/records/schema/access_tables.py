"""Tables of who may ask and who did: API tokens and the audit log. Sign-in's own are elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

from perdure.records.schema.tables import Instant


class TokenRow(SQLModel, table=True):
    """An API token. Of the token itself only its SHA-256 is kept: 256 random bits need no slow hash."""

    __tablename__ = "api_tokens"

    number: int | None = Field(default=None, primary_key=True)
    sha256: str = Field(unique=True, index=True)
    name: str
    role: str
    areas: list[str] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=Instant)
    created_by: str
    expires_at: datetime = Field(sa_type=Instant)
    last_used_at: datetime | None = Field(sa_type=Instant)
    revoked_at: datetime | None = Field(sa_type=Instant)
    revoked_by: str | None


class AuditRow(SQLModel, table=True):
    """One line of the audit log. Appended, never changed; deleted by age alone."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_at", "at", "number"),
        Index("ix_audit_who", "who", "at", "number"),
        Index("ix_audit_action", "action", "at", "number"),
    )

    number: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=Instant)
    who: str
    via: str
    action: str
    target: str
    outcome: int
    address: str
    detail: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
