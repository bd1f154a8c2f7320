"""What the audit log hears: every change, every refusal. Written before the answer goes out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth.principals import Principal
from api.auth.rate_limit import Refusals
from api.auth.rules import Routes
from perdure.records.access import audit
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

log = structlog.get_logger(__name__)

_READS = {"GET", "HEAD"}
_REFUSALS = {400, 401, 403, 405, 408, 413, 414, 421, 422, 429, 431}
"""Statuses of a read that are worth a line. Looking for what is not there (404) or out of date is nobody's fault."""
_LARGEST_BODY_READ = 64 * 1024
_TIDY_SECONDS, _FORGET_SECONDS = 60.0, 3600.0


class AuditTrail:
    """ASGI middleware, outermost. Endpoints may add to `request.state.audit` (a dict), never a secret."""

    def __init__(self, app: ASGIApp, refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        self._routes: Routes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["audit"] = {}
        body = bytearray()
        changes = scope["method"] not in _READS

        async def heard() -> Message:
            message = await receive()
            if changes and len(body) <= _LARGEST_BODY_READ:
                body.extend(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and (changes or message["status"] in _REFUSALS):
                await self._note(scope, int(message["status"]), bytes(body))
            await send(message)

        await self._app(scope, heard, noted)

    async def _note(self, scope: Scope, status: int, body: bytes) -> None:
        if self._routes is None:
            self._routes = Routes(scope["app"])
        route = self._routes.match(scope)
        if route and route.only_asks and status < 400:
            return
        address = address_of(scope)
        if status >= 400 and not self._refusals.admit(address, time.monotonic()):
            return  # counted: see write_counts
        state = scope["state"]
        detail = {**_fields(scope, body), **state["audit"], **(state.get("error", {}) if status >= 400 else {})}
        principal: Principal | None = state.get("principal")
        line = {
            "at": datetime.now(UTC),
            "who": principal.name if principal else "",
            "via": principal.via if principal else "",
            "action": f"{scope['method']} {route.template if route else '(unknown path)'}",
            "target": scope["path"],
            "outcome": status,
            "address": address,
            "detail": detail,
        }
        await run_in_threadpool(_write, scope["app"].state.engine, [line])


def address_of(scope: Scope) -> str:
    """Whom a request came from, as far as the connection tells."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def keep_tidy(app: FastAPI, refusals: Refusals) -> None:
    """For as long as the server runs: write down refusals that were only counted, delete lines that are too old."""
    forgotten_at = float("-inf")
    try:
        while True:
            if time.monotonic() - forgotten_at > _FORGET_SECONDS:
                await run_in_threadpool(_forget, app.state.engine)
                forgotten_at = time.monotonic()
            await asyncio.sleep(_TIDY_SECONDS)
            await run_in_threadpool(write_counts, app.state.engine, refusals)
    finally:
        write_counts(app.state.engine, refusals)


def write_counts(engine: Engine, refusals: Refusals) -> None:
    """One line for each address that was refused more often than there are lines."""
    lines = [
        {
            "at": datetime.now(UTC),
            "who": "",
            "via": "",
            "action": "(refused requests without a line of their own)",
            "target": "",
            "outcome": 429,
            "address": address,
            "detail": {"requests": number},
        }
        for address, number in refusals.take_counts().items()
    ]
    if lines:
        _write(engine, lines)


def _write(engine: Engine, lines: list[dict[str, Any]]) -> None:
    try:
        with writing(engine) as session:
            for line in lines:
                audit.note(session, **line)
    except SQLAlchemyError as problem:
        # What was done is done: the log, which is another place, says so instead.
        shown = [{**line, "at": str(line["at"])} for line in lines]
        log.error("the audit log cannot be written", lines=json.dumps(shown)[:2000], problem=str(problem)[:200])


def _forget(engine: Engine) -> None:
    try:
        with reading(engine) as session:
            seconds = current_configuration(session).server.keep_audit_seconds
        while seconds:
            with writing(engine) as session:
                if not audit.forget_before(session, datetime.now(UTC) - timedelta(seconds=seconds)):
                    return
    except SQLAlchemyError as problem:
        log.error("old lines of the audit log cannot be deleted", problem=str(problem)[:200])


def _fields(scope: Scope, body: bytes) -> dict[str, list[str]]:
    """Names of what a JSON body sets: its own fields and those one level below. No values."""
    if not body or len(body) > _LARGEST_BODY_READ or "json" not in Headers(scope=scope).get("content-type", ""):
        return {}
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return {"fields": _names(content)} if isinstance(content, Mapping) else {}


def _names(content: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for name, value in list(content.items())[:20]:
        below = list(value)[:20] if isinstance(value, Mapping) else []
        names += [f"{name}.{one}" for one in below] or [name]
    return names[:20]
