"""AWS's events, as an EventBridge rule puts them into an SQS queue: read, handed on, and deleted once that is done.

The queue is untrusted input. What is no event is deleted, with a line in the log. An event that cannot be dealt with
stays, and comes again; after some times SQS moves it to the queue for what nobody could read (deploy/cloudformation).
SQS delivers at least once and in any order: readers must be idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from activities import aws
from perdure.domain.errors import PerdureError
from perdure.domain.values import Frozen

log = logging.getLogger(__name__)

WAIT_SECONDS = 20
"""The longest that SQS lets one wait for a message."""
LOT = 10
"""Messages that SQS gives at once, at most."""
LONGEST_BODY = 256 * 1024
"""Characters. EventBridge's limit for an event is 256 KiB (EventBridge user guide, "Quotas")."""
AFTER_TROUBLE_SECONDS = (5.0, 60.0)
"""At first, and at most: each try counts, and what was tried too often goes to the other queue."""


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


AwsTime = Annotated[datetime, AfterValidator(_utc)]
"""A time as AWS writes it in events: UTC where it does not say."""


class Event(Frozen):
    """An event as EventBridge wraps it. AWS gives the same event the same `event_id` however often it comes."""

    event_id: str = Field(alias="id", pattern=r"^[0-9A-Za-z-]{1,64}$")
    source: str = Field(max_length=256)
    kind: str = Field(alias="detail-type", max_length=128)
    time: AwsTime
    detail: dict[str, Any]


Reader = Callable[[Sequence[Event]], Awaitable[None]]
"""Deals with events, some at once. What it raises leaves all of them in the queue."""


def read_event(body: str) -> Event | None:
    """The event in a message; None where there is none. AWS may add fields at any time: others are left alone."""
    if len(body) > LONGEST_BODY:
        return None
    try:
        return Event.model_validate_json(body)
    except ValidationError:
        return None


class EventQueue:
    """Reads one queue for ever."""

    def __init__(self, address: str, what: str, read: Reader, sqs: Any = None) -> None:
        """`what` names the events for people."""
        self._address, self._what, self._read = address, what, read
        self._sqs = sqs or aws.client("sqs")
        self._foreign = 0

    async def run(self) -> None:
        """Until cancelled. Trouble is told once, and tried again later and later."""
        pause, most = AFTER_TROUBLE_SECONDS
        troubles = 0
        while True:
            try:
                await self.look()
                troubles = 0
            except Exception as problem:
                # Whatever it is, the next events must be read.
                if troubles == 0:
                    ours = isinstance(problem, PerdureError | RPCError | SQLAlchemyError)
                    words = "%s cannot be dealt with now: %s"
                    log.warning(words, self._what, problem, exc_info=None if ours else problem)
                await asyncio.sleep(min(pause * 2**troubles, most))
                troubles = min(troubles + 1, 8)

    async def look(self, wait_seconds: int = WAIT_SECONDS) -> int:
        """Wait for messages once; how many there were. Raises what stood in the way of some of them, which stay."""
        found = await aws.call(
            f"read {self._what}",
            self._sqs.receive_message,
            QueueUrl=self._address,
            MaxNumberOfMessages=LOT,
            WaitTimeSeconds=wait_seconds,
        )
        messages = found.get("Messages", [])
        events = [(message, read_event(message["Body"])) for message in messages]
        for message, event in events:
            if event is None:
                await self._put_away(message)
        await self._deal_with([(message, event) for message, event in events if event is not None])
        return len(messages)

    async def _put_away(self, message: dict[str, Any]) -> None:
        """No event at all. Told at the first, and then ever more seldom: somebody may send a million."""
        self._foreign += 1
        if self._foreign & (self._foreign - 1) == 0:
            words = "%d messages that are no events were put away from the queue of %s; the newest begins %r"
            log.warning(words, self._foreign, self._what, message["Body"][:200])
        await self._delete(message)

    async def _deal_with(self, events: Sequence[tuple[dict[str, Any], Event]]) -> None:
        """Together; if that fails, one by one, so that one that cannot be dealt with holds up no other."""
        if not events:
            return
        try:
            await self._read([event for _, event in events])
        except Exception:
            if len(events) == 1:
                raise
            problems = await asyncio.gather(*(self._deal_with([one]) for one in events), return_exceptions=True)
            for problem in problems:
                if isinstance(problem, BaseException):
                    raise problem from None
            return
        await asyncio.gather(*(self._delete(message) for message, _ in events))

    async def _delete(self, message: dict[str, Any]) -> None:
        await aws.call(
            f"delete one of {self._what}",
            self._sqs.delete_message,
            QueueUrl=self._address,
            ReceiptHandle=message["ReceiptHandle"],
        )


def event_time(event: Event) -> datetime:
    """When AWS made the event, never later than now: deadlines are reckoned from it."""
    return min(event.time, datetime.now(UTC))
