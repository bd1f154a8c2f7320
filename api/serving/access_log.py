"""The access log: one JSON line for each request, in a rotating file beside the server's own log.

It has no query strings, headers or bodies: those may hold tokens and sign-in codes. A path is written as JSON, so that
nothing a client sends begins a line of its own.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.domain.configuration import LogConfiguration
from perdure.logs import ACCESS, MB, RotatedFile

_LONGEST_PATH = 500
_DEFAULTS = LogConfiguration()


def access_log_file(log_file: Path) -> Path:
    """Where the access log of a server with this log lies: `api.log` has `api-access.log` beside it."""
    return log_file.with_name(f"{log_file.stem}-access{log_file.suffix or '.log'}")


def open_access_log(log_file: Path | None) -> None:
    """From now on requests are written beside `log_file`; without one, nowhere. It rotates by the log
    section, which apply_log_settings keeps in force."""
    logger = logging.getLogger(ACCESS)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if log_file is None:
        logger.addHandler(logging.NullHandler())
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    writer = RotatedFile(
        access_log_file(log_file),
        maxBytes=_DEFAULTS.max_size_mb * MB,
        backupCount=_DEFAULTS.max_backups,
        encoding="utf-8",
    )
    writer.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(writer)


class AccessLog:
    """ASGI middleware, outermost: what it writes is what the client saw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})  # shared with what stands inside, which says who asks
        begun, status, size = time.monotonic(), 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            _write(scope, status, size, time.monotonic() - begun)


def _write(scope: Scope, status: int, size: int, seconds: float) -> None:
    """Status 0: no answer was begun."""
    who = scope["state"].get("principal")
    line = {
        "timestamp": datetime.now(UTC).isoformat(),
        "client": (scope.get("client") or ("",))[0],
        "who": who.name if who is not None else "",
        "via": who.via if who is not None else "",
        "method": scope["method"],
        "path": scope["path"][:_LONGEST_PATH],
        "status": status,
        "bytes": size,
        "ms": round(seconds * 1000, 1),
    }
    logging.getLogger(ACCESS).info("%s", json.dumps(line))
