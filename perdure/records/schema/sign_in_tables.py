"""Tables of people who signed in with Cognito: browsers' sessions, and ways to the hosted page that are under way."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from perdure.records.schema.tables import Instant


class SessionRow(SQLModel, table=True):
    """A browser that is signed in. `refresh_token` is encrypted with a key that only the browser's cookie gives."""

    __tablename__ = "sign_in_sessions"

    id_hash: str = Field(primary_key=True)
    pool: str
    subject: str = Field(index=True)
    username: str
    groups: list[str] = Field(sa_column=Column(JSON, nullable=False))
    refresh_token: str | None
    created_at: datetime = Field(sa_type=Instant, index=True)
    used_at: datetime = Field(sa_type=Instant)
    checked_at: datetime = Field(sa_type=Instant)
    trusted_until: datetime = Field(sa_type=Instant)


class HostedWayRow(SQLModel, table=True):
    """A way to the hosted page. Deleted when it is come back from, so that nobody comes back twice."""

    __tablename__ = "hosted_ways"

    state_hash: str = Field(primary_key=True)
    browser_hash: str
    verifier: str
    nonce: str
    next_path: str
    created_at: datetime = Field(sa_type=Instant, index=True)
