"""Live updates as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated, cast

import anyio
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.routes.events import JOB
from api.serving.errors import described
from api.serving.feed import FURTHEST_BACK, Feed, Follower, written
from api.serving.parameters import NAME

router = APIRouter(tags=["events"])
HEARTBEAT_SECONDS = 15.0
LONGEST_SECONDS = 900
"""Then the client connects again, and shows again who it is."""
_LAST_WORDS_SECONDS = 1.0


@router.get(
    "/stream",
    summary="Changes of jobs and nodes, and events, as they are recorded",
    response_class=Response,
    responses={
        200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **described(HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def stream(
    request: Request,
    job: Annotated[str | None, Query(pattern=JOB, description="Only this job and its events.")] = None,
    queue: Annotated[
        str | None, Query(pattern=NAME, description="Only jobs of this job queue, and their events.")
    ] = None,
    seconds: Annotated[
        int, Query(ge=1, le=LONGEST_SECONDS, description="The server ends the stream after so many seconds.")
    ] = LONGEST_SECONDS,
    after: Annotated[
        int | None,
        Query(ge=0, lt=10**18, description="Begin after this position; `Last-Event-ID` comes before it."),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(pattern="^[0-9]{1,18}$", description="Go on after this position; browsers send it by themselves."),
    ] = None,
) -> Response:
    """Server-sent events (`EventSource` in a browser). Each has a position as its id; with `Last-Event-ID`, what was
    missed comes first. Lists and other answers name, in their header `Perdure-Position`, the position up to which they
    are true: with it as `after`, what was recorded since comes first. `ready` comes at the beginning, with the position
    that everything later follows. `job` and `node` are those as they are now: several changes within a second are one
    message. `event` is a new line of a timeline. `reset`: too much was missed; load your lists anew. A comment comes
    every 15 s when nothing else does. A client that does not keep up is disconnected, and can go on where it was. At
    most 200 may follow at once."""
    feed = cast(Feed, request.app.state.feed)
    last = int(last_event_id) if last_event_id else after
    return EventStream(feed, Follower(job, queue), last, seconds)


class EventStream(Response):
    """Answers until the time is over, the client goes, or it does not keep up."""

    def __init__(self, feed: Feed, follower: Follower, last: int | None, seconds: float) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed, self._follower, self._last, self._seconds = feed, follower, last, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._feed.following(self._follower) as position:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with anyio.move_on_after(self._seconds):
                async with anyio.create_task_group() as group:

                    async def until(what: Callable[[], Awaitable[object]]) -> None:
                        await what()
                        group.cancel_scope.cancel()

                    group.start_soon(until, partial(_gone, receive))
                    group.start_soon(until, self._follower.dropped.wait)
                    await self._send_all(partial(_send, send), position)
        # A client that takes nothing would hold this forever.
        with anyio.move_on_after(_LAST_WORDS_SECONDS):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Callable[[bytes], Awaitable[None]], position: int) -> None:
        too_far = self._last is not None and self._last < position - FURTHEST_BACK
        begins = position if self._last is None or too_far else self._last
        await send(written("ready", begins, f'{{"position": {begins}}}'))
        if too_far:
            await send(written("reset", position, '{"reason": "too much was missed; load the lists anew"}'))
        async for message in self._feed.missed(self._follower, begins, position):
            await send(message)
        while True:
            message = b": still here\n\n"
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                message = await self._follower.messages.get()
            await send(message)


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
