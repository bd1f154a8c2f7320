"""API tokens at the door: `Authorization: Bearer prd_…`."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from api.auth.principals import Principal
from perdure.domain.access import ApiToken
from perdure.domain.errors import NotSignedIn
from perdure.records.access.tokens import PREFIX, find_token, note_use, use_is_worth_noting
from perdure.records.schema.database import reading, writing

log = structlog.get_logger(__name__)


async def by_api_token(request: Request) -> Principal | None:
    """An authenticator for the door. NotSignedIn: unknown, expired or revoked."""
    secret = bearer(request)
    if secret is None or not secret.startswith(PREFIX):
        return None
    return await run_in_threadpool(principal_of, request.app.state.engine, secret, datetime.now(UTC))


def bearer(request: Request) -> str | None:
    """What a Bearer header carries; None: there is no such header."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else None


def principal_of(engine: Engine, secret: str, now: datetime) -> Principal:
    """Whose token this is. NotSignedIn: unknown, expired or revoked."""
    with reading(engine) as session:
        token = find_token(session, secret)
    if token is None:
        raise NotSignedIn("There is no such API token here; ask an admin for one.")
    refusal = token.refusal(now)
    if refusal is not None:
        raise NotSignedIn(f"The API token {token.label} {refusal}; ask an admin for a new one.")
    if use_is_worth_noting(token, now):
        _note_use(engine, token, now)
    return Principal(token.label, token.role, "token", frozenset(token.areas))


def _note_use(engine: Engine, token: ApiToken, now: datetime) -> None:
    try:
        with writing(engine) as session:
            note_use(session, token, now)
    except OperationalError as problem:  # a full disk: reading goes on
        log.warning("the use of an API token could not be noted", token=token.number, problem=str(problem)[:200])
