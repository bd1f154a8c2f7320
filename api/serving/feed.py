"""Live updates: one look at the database a second, shared by everybody who follows.

A follower gets bounded room. One that does not take its messages is dropped: it can come back and go on after the last
position that it saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from api.serving.errors import Crowded
from api.wire.responses import EventView, JobPlaced, NodeView, Wire
from perdure.records.jobs.changes import Change, changes_after, last_position
from perdure.records.schema.database import reading

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
ROOM = 2000
"""Messages that wait for one follower."""
MOST_FOLLOWERS = 200
FURTHEST_BACK = 20_000
"""Positions that a follower may have missed and still get; beyond, lists are quicker."""


class EventChange(EventView):
    """A new line of a job's timeline."""

    job_id: str
    queue: str


@dataclass(eq=False)
class Follower:
    """Somebody who follows everything, one job (with what happens to it) or one queue."""

    job_id: str | None = None
    queue: str | None = None
    messages: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(ROOM))
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def wants(self, change: Change) -> bool:
        """Nodes are of no job and no queue."""
        return (self.job_id is None or change.job_id == self.job_id) and (
            self.queue is None or change.queue == self.queue
        )

    def offer(self, message: bytes) -> None:
        """Put it with the waiting ones, or drop the follower."""
        try:
            self.messages.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped.set()


class Feed:
    """Followers, and the task that looks for them while there are any."""

    def __init__(self, engine: Engine, poll_seconds: float = POLL_SECONDS) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._followers: set[Follower] = set()
        self._joining = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._position = 0

    @asynccontextmanager
    async def following(self, follower: Follower) -> AsyncIterator[int]:
        """Everything after the position that this yields reaches the follower. Raises Crowded."""
        if len(self._followers) >= MOST_FOLLOWERS:
            raise Crowded(f"{MOST_FOLLOWERS} others follow already; try again later.")
        async with self._joining:
            if self._task is None:
                self._position = await run_in_threadpool(self._last)
                self._task = asyncio.create_task(self._look())
            self._followers.add(follower)
            position = self._position
        try:
            yield position
        finally:
            self._followers.discard(follower)
            if not self._followers:
                await self.close()

    async def close(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def missed(self, follower: Follower, after: int, upto: int) -> AsyncIterator[bytes]:
        """What the follower wants of the changes after position `after`, up to `upto`."""
        while after < upto:
            changes, after = await run_in_threadpool(self._changes, after, upto)
            for change in changes:
                if follower.wants(change):
                    yield message(change)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                newest = await run_in_threadpool(self._last)
                while self._position < newest:
                    changes, reached = await run_in_threadpool(self._changes, self._position, newest)
                    self._position = reached
                    self._tell(changes)
            except SQLAlchemyError as problem:
                log.warning("live updates wait for the database", problem=str(problem)[:200])

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            rendered = b""
            for follower in self._followers:
                if follower.wants(change):
                    rendered = rendered or message(change)
                    follower.offer(rendered)

    def _last(self) -> int:
        with reading(self._engine) as session:
            return last_position(session)

    def _changes(self, after: int, upto: int) -> tuple[list[Change], int]:
        with reading(self._engine) as session:
            return changes_after(session, after, upto=upto)


def message(change: Change) -> bytes:
    """As server-sent events are written: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    kind: str
    value: Wire
    if change.event is not None:
        view = EventView.model_validate(change.event)
        kind, value = "event", EventChange(**dict(view), job_id=change.job_id or "", queue=change.queue or "")
    elif change.node is not None:
        kind, value = "node", NodeView.model_validate(change.node)
    else:
        kind, value = "job", JobPlaced.model_validate(change.job)
    return written(kind, change.position, value.model_dump_json())


def written(kind: str, position: int, json: str) -> bytes:
    """One message. JSON has no line breaks outside its strings, where they are escaped."""
    return f"event: {kind}\nid: {position}\ndata: {json}\n\n".encode()
