"""The account's EC2 limits, shared by all jobs: calls that change things wait their turn, looks are gathered.

EC2 takes so many mutating calls a second, for the whole account. When many instances are reclaimed at once, what must
be done by a deadline comes first, the nearest deadline before all others. A volume that is not detached before its host
dies is held for minutes.

    BY_DEADLINE   the call is worth something only if it comes in time (a detach inside a notice)
    JOB_WAITS     a job stands still until then (create, attach, the snapshot of a move)
    WHENEVER      nobody waits (deletions, zone snapshots)

`Mutations` spends one token bucket in that order and refills it more slowly while EC2 says RequestLimitExceeded.
`Lookup` turns looks at single things, within a moment, into one call, and keeps to a bucket of its own: the more jobs
look, the more of them share a call. So each may look again soon (`growing`). One event loop uses them; nothing here
blocks it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

from activities import aws
from perdure.domain.errors import CloudThrottled

T = TypeVar("T")

PER_SECOND, BURST = 5.0, 10.0
"""Mutating calls of one control worker. EC2's bucket is larger; others in the account need some of it."""
SLOWEST = 0.1
"""The part of the usual rate that is tried even while EC2 refuses all."""
RECOVERY_SECONDS = 30.0
"""After a refusal, until the usual rate holds again."""
LOOKS_PER_SECOND, LOOKS_BURST = 5.0, 20.0
"""Calls of one `Lookup` of one control worker. EC2's buckets of the Describe actions are larger (EC2 developer guide,
"Request throttling": 20 a second, 100 at once); others in the account need some of them."""
GATHER_SECONDS = 0.01
"""What a look waits for others at least. While looks are many, they wait for the bucket, and share it."""
MOST_AT_ONCE = 200
"""Values of one filter (EC2 API reference, DescribeVolumes)."""
FIRST_PAUSE, GROWTH = 0.1, 1.3
"""Seconds before the second look at something that changes, and how much longer each further one waits."""


def growing(longest: float) -> Iterator[float]:
    """Seconds between looks at something that changes its state: short at first, `longest` in the end. A change is seen
    0.1 s and three tenths of its own time late at most, and never more than `longest`."""
    seconds = FIRST_PAUSE
    while True:
        yield min(seconds, longest)
        seconds = min(seconds * GROWTH, longest)


class Urgency(IntEnum):
    """What a call is worth; the lower comes first."""

    BY_DEADLINE = 0
    JOB_WAITS = 1
    WHENEVER = 2


class _Bucket:
    """Tokens, `burst` at most, that come back with time. Who spends one that is not there owes it."""

    def __init__(self, burst: float, now: Callable[[], float]) -> None:
        self._burst, self._now = burst, now
        self.tokens, self._filled_at = burst, now()

    def fill(self, per_second: float) -> None:
        """Put in what has come since the last time."""
        now = self._now()
        self.tokens = min(self._burst, self.tokens + (now - self._filled_at) * per_second)
        self._filled_at = now


class Mutations:
    """One token bucket for every call that changes something. `now` and `sleep` in seconds."""

    def __init__(
        self,
        per_second: float = PER_SECOND,
        burst: float = BURST,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        recovery_seconds: float = RECOVERY_SECONDS,
    ) -> None:
        self._recovery_seconds = recovery_seconds
        self._usual, self._now, self._sleep = per_second, now, sleep
        self._bucket = _Bucket(burst, now)
        self._refused_at: float | None = None
        self._slowed = per_second
        self._order = itertools.count()
        self._waiting: list[tuple[tuple[int, float, int], asyncio.Future[None]]] = []
        self._server: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(not turn.done() for _, turn in self._waiting)

    async def call(
        self, what: str, urgency: Urgency, function: Callable[..., T], *, deadline: datetime | None = None, **more: Any
    ) -> T:
        """`aws.call`, when it is its turn, again and again while EC2 refuses it for being one too many.

        Raises CloudUnavailable, VolumeGone, VolumeFailed. `deadline` (UTC) orders calls of BY_DEADLINE; one that has
        passed is worth no more than JOB_WAITS.
        """
        while True:
            await self._turn(urgency, deadline)
            try:
                return await aws.call(what, function, **more)
            except CloudThrottled:
                self._refused()

    async def _turn(self, urgency: Urgency, deadline: datetime | None) -> None:
        at = deadline.timestamp() if deadline is not None else float("inf")
        if urgency is Urgency.BY_DEADLINE and at < datetime.now(UTC).timestamp():
            urgency = Urgency.JOB_WAITS
        rank = (int(urgency), at if urgency is Urgency.BY_DEADLINE else 0.0, next(self._order))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, turn))
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        await turn

    async def _serve(self) -> None:
        """Give turns away as long as somebody waits."""
        while self._waiting:
            wait = self._until_token()
            if wait > 0:
                await self._sleep(wait)
                continue
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # whoever was cancelled needs none
                self._bucket.tokens -= 1
                turn.set_result(None)

    def _until_token(self) -> float:
        """Seconds until there is a token; 0: now."""
        rate = self._rate()
        self._bucket.fill(rate)
        return max(0.0, (1 - self._bucket.tokens) / rate)

    def _rate(self) -> float:
        """Slower after a refusal, and back to the usual step by step."""
        if self._refused_at is None:
            return self._usual
        share = min(1.0, (self._now() - self._refused_at) / self._recovery_seconds)
        if share == 1.0:
            self._refused_at = None
        return self._slowed + (self._usual - self._slowed) * share

    def _refused(self) -> None:
        """EC2 has had too many calls, ours or somebody else's in the account."""
        self._slowed = max(self._usual * SLOWEST, self._rate() / 2)
        self._refused_at = self._now()
        self._bucket.tokens = min(self._bucket.tokens, 0.0)


class Lookup:
    """Looks at single things, gathered into one call. `describe` gets ids and answers what it found, by id.

    At most `burst` calls at once and `per_second` more: looks that come meanwhile wait, and then share one.
    """

    def __init__(
        self,
        describe: Callable[[list[str]], Awaitable[dict[str, dict[str, Any]]]],
        gather_seconds: float = GATHER_SECONDS,
        per_second: float = LOOKS_PER_SECOND,
        burst: float = LOOKS_BURST,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._describe, self._gather_seconds = describe, gather_seconds
        self._per_second, self._sleep = per_second, sleep
        self._bucket = _Bucket(burst, now)
        self._asked: dict[str, asyncio.Future[dict[str, Any] | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def one(self, name: str) -> dict[str, Any] | None:
        """What is found under that id; None when there is no such thing. Raises what `describe` raises."""
        if name not in self._asked:
            self._asked[name] = asyncio.get_running_loop().create_future()
            if len(self._asked) == 1:
                task = asyncio.create_task(self._gather())
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        return await asyncio.shield(self._asked[name])

    async def _gather(self) -> None:
        await self._sleep(max(self._gather_seconds, self._take()))
        asked, self._asked = self._asked, {}
        names = list(asked)
        for first in range(0, len(names), MOST_AT_ONCE):
            some = names[first : first + MOST_AT_ONCE]
            if first:
                self._take()  # the next ones wait the longer
            try:
                found = await self._describe(some)
            except Exception as problem:
                for name in some:
                    asked[name].set_exception(problem)
                    asked[name].exception()  # whoever asked may be gone
                continue
            for name in some:
                asked[name].set_result(found.get(name))

    def _take(self) -> float:
        """Spend a token; seconds until it is there."""
        self._bucket.fill(self._per_second)
        self._bucket.tokens -= 1
        return max(0.0, -self._bucket.tokens / self._per_second)
