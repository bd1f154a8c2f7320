"""Endpoints that only read: session, work and JSON in one go of one thread.

FastAPI by itself would send such a request through its thread pool four times: for the session's beginning and its end,
for the endpoint, and to validate the answer that the endpoint has just made. Each time another thread's turn is waited
for, which with fifty readers is most of an answer's time (bench/README.md).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast, get_type_hints

import anyio.to_thread
from fastapi import Depends, FastAPI, Request, Response
from pydantic import TypeAdapter

from perdure.records.jobs.changes import last_position
from perdure.records.schema.database import reading

MOST_READERS = 4
"""Requests with a session at a time; the others wait without a thread. More threads that compute only get in each
other's way (bench/README.md), and the database's pool holds 15 connections."""

POSITION = "Perdure-Position"


def readers() -> anyio.CapacityLimiter:
    """For `app.state.readers`: what MOST_READERS is counted with."""
    return anyio.CapacityLimiter(MOST_READERS)


def reads(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
    """Makes `endpoint(session, …)` an endpoint: it gets a session of its own
    (perdure.records.schema.database.reading), and what it returns is sent as JSON of its return type, or as it is when
    it is a Response already. The header `Perdure-Position` tells up to which position of the stream of changes the JSON
    is true."""
    written = _writer(endpoint)

    def work(app: FastAPI, arguments: dict[str, Any]) -> Response:
        with reading(app.state.engine) as session:
            answer = endpoint(session, **arguments)
            if isinstance(answer, Response):
                return answer
            position = last_position(session)  # the session sees one state: that of the answer
        said = arguments.get("response")  # an endpoint that sets headers
        headers = {POSITION: str(position)} | (dict(said.headers) if said else {})
        return Response(written(answer), headers=headers, media_type="application/json")

    @functools.wraps(endpoint)
    async def answered(app: FastAPI, **arguments: Any) -> Response:
        return await anyio.to_thread.run_sync(work, app, arguments, limiter=app.state.readers)

    signature = inspect.signature(endpoint)
    _, *others = signature.parameters.values()
    app = inspect.Parameter(
        "app", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[FastAPI, Depends(_app)]
    )
    answered.__signature__ = signature.replace(parameters=[app, *others])  # type: ignore[attr-defined]
    return answered


async def _app(request: Request) -> FastAPI:
    return cast(FastAPI, request.app)


def _writer(endpoint: Callable[..., Any]) -> Callable[[Any], bytes]:
    wanted = get_type_hints(endpoint, include_extras=True)["return"]
    if inspect.isclass(wanted) and issubclass(wanted, Response):
        return bytes
    return functools.partial(TypeAdapter(wanted).dump_json, by_alias=True)
