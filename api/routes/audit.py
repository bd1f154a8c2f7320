"""The audit log: who changed what, and who was refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field
from sqlmodel import Session

from api.auth.rules import admins_only
from api.dependencies import Cursor, Limit
from api.serving.reading import reads
from api.wire.responses import PageOf, Wire
from perdure.records.access.audit import list_audit

router = APIRouter(prefix="/audit", tags=["access"])

Exactly = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class AuditLineView(Wire):
    """One thing that somebody did, or was refused."""

    number: int = Field(description="Rises with every line.", examples=[17])
    at: datetime = Field(description="UTC.")
    who: str = Field(
        description="Name as the sign-in knows it; empty: nobody was signed in.", examples=["ci (token 3)"]
    )
    via: str = Field(description="How we know: `loopback`, `token`, `cognito`, `cli`; empty: we do not.")
    action: str = Field(description="Method and route.", examples=["POST /api/v1/jobs/{job_id}/checkpoints"])
    target: str = Field(description="The path that was asked for.", examples=["/api/v1/jobs/5b3f1d0e/checkpoints"])
    outcome: int = Field(description="HTTP status of the answer.", examples=[200])
    address: str = Field(description="Where the request came from.", examples=["192.0.2.7"])
    detail: dict[str, Any] = Field(
        description="Which fields were set (never their values), why it was refused, and what the route adds.",
        examples=[{"fields": ["interval_seconds"]}],
    )


@router.get("", summary="The audit log, newest first")
@admins_only
@reads
def read(
    session: Session,
    limit: Limit = 50,
    cursor: Cursor = None,
    who: Annotated[Exactly, Query(description="Only of this name.", examples=["ci (token 3)"])] = None,
    action: Annotated[Exactly, Query(description="Only of this method and route.")] = None,
    after: Annotated[AwareDatetime | None, Query(description="From this instant on (ISO 8601 with a zone).")] = None,
    before: Annotated[AwareDatetime | None, Query(description="Before this instant (ISO 8601 with a zone).")] = None,
) -> PageOf[AuditLineView]:
    """Every change and every refused request has a line. Of a flood of refusals, 30 a minute from one address have; the
    others are counted in one line. Lines are kept for `server.keep_audit_seconds` of the configuration."""
    page = list_audit(session, limit=limit, after=cursor, who=who, action=action, since=after, before=before)
    return PageOf[AuditLineView].model_validate(page)
