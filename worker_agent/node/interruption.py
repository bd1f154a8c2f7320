"""What AWS announces: one small source per kind of announcement, and the watcher that asks them all.

After AWS's own node termination handler: sources behind one interface, and ids by hash, because AWS gives none.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog
from pydantic import BaseModel, ValidationError

from perdure.domain.errors import CloudUnavailable
from perdure.domain.nodes import Notice, NoticeKind
from worker_agent.node.metadata import Metadata

log = structlog.get_logger()


class Source(Protocol):
    """One kind of announcement."""

    async def look(self, instance_id: str) -> Notice | None:
        """What is announced now, or None. CloudUnavailable when nobody answers."""
        ...


class _InstanceAction(BaseModel):
    action: str
    time: datetime


class _Rebalance(BaseModel):
    noticeTime: datetime


class SpotInterruption:
    """`spot/instance-action`: the instance ends at that time (about two minutes ahead), whatever `action` says
    (terminate, stop or hibernate: it is lost to the job)."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def look(self, instance_id: str) -> Notice | None:
        text = await self._metadata.read("/latest/meta-data/spot/instance-action")
        if text is None:
            return None
        try:
            action = _InstanceAction.model_validate_json(text)
        except ValidationError:
            # An announcement that we cannot read is still one; without a deadline the engine's own limits hold.
            log.error("spot/instance-action is not understood", text=text[:200])
            return _notice(NoticeKind.INTERRUPTION, instance_id, text[:200], None)
        return _notice(NoticeKind.INTERRUPTION, instance_id, action.time.isoformat(), action.time.astimezone(UTC))


class RebalanceRecommendation:
    """`events/recommendations/rebalance`: an early hint, without a deadline."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def look(self, instance_id: str) -> Notice | None:
        text = await self._metadata.read("/latest/meta-data/events/recommendations/rebalance")
        if text is None:
            return None
        try:
            since = _Rebalance.model_validate_json(text).noticeTime.isoformat()
        except ValidationError:
            since = text[:200]
        return _notice(NoticeKind.REBALANCE, instance_id, since, None)


def _notice(kind: NoticeKind, instance_id: str, time: str, deadline: datetime | None) -> Notice:
    digest = hashlib.sha256(f"{kind}|{instance_id}|{time}".encode()).hexdigest()
    return Notice(
        notice_id=digest[:16], kind=kind, instance_id=instance_id, seen_at=datetime.now(UTC), deadline=deadline
    )


class Announced:
    """What was announced, whichever source told it first."""

    def __init__(self) -> None:
        self._known: deque[Notice] = deque(maxlen=16)

    def first_time(self, notice: Notice) -> bool:
        """Whether this is news; remembers it."""
        if any(notice.repeats(known) for known in self._known):
            return False
        self._known.append(notice)
        return True


async def watch(sources: list[Source], instance_id: str, poll_seconds: float, tell: Callable[[Notice], None]) -> None:
    """Ask every source every `poll_seconds`, for ever; `tell` hears each notice once."""
    known: set[str] = set()
    answering = True
    while True:
        for source in sources:
            try:
                notice = await source.look(instance_id)
            except CloudUnavailable as problem:
                if answering:
                    log.warning("no news from AWS", reason=str(problem))
                answering = False
                continue
            if not answering:
                log.info("the metadata service answers again")
            answering = True
            if notice is not None and notice.notice_id not in known:
                known.add(notice.notice_id)
                tell(notice)
        await asyncio.sleep(poll_seconds)
