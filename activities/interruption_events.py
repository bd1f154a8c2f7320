"""AWS's third way of saying that it takes an instance back: an event, for Interruptible Capacity Reservations.

The metadata service does not know of these. EventBridge sends "EC2 Capacity Reservation Instance Interruption
Warning" two minutes ahead (EC2 user guide, "Monitor interruptible Capacity Reservations"), a rule puts it into an SQS
queue, and this reads the queue. The workflows of the jobs on the instance hear a `Notice` like any other: the node is
asked for the final checkpoint at once. Spot instances need none of this: their agents see the notice themselves.

The queue is untrusted input: an event of another shape is put away with a line in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities import aws
from perdure.contracts import names
from perdure.domain.errors import PerdureError
from perdure.domain.nodes import Notice, NoticeKind
from perdure.records.jobs.watched_jobs import WatchedJob, jobs_on
from perdure.records.schema.database import reading

log = logging.getLogger(__name__)

WARNING = "EC2 Capacity Reservation Instance Interruption Warning"
WAIT_SECONDS = 20
"""The longest that SQS lets one wait for a message."""
AFTER_TROUBLE_SECONDS = 5.0


class _Detail(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    instance_id: str = Field(alias="instance-id", pattern=r"^i-[0-9a-f]{1,32}$")
    ends_at: datetime = Field(alias="instance-termination-time")


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    source: Literal["aws.ec2"]
    kind: str = Field(alias="detail-type")
    detail: _Detail


def read_event(body: str, now: datetime) -> Notice | None:
    """The notice in an event; None for an event that is none of ours. The same event gives the same notice."""
    try:
        event = _Event.model_validate_json(body)
    except ValidationError:
        return None
    if event.kind != WARNING:
        return None
    at = event.detail.ends_at if event.detail.ends_at.tzinfo else event.detail.ends_at.replace(tzinfo=UTC)
    digest = hashlib.sha256(f"event|{event.detail.instance_id}|{at.isoformat()}".encode()).hexdigest()
    return Notice(
        notice_id=digest[:16],
        kind=NoticeKind.INTERRUPTION,
        instance_id=event.detail.instance_id,
        seen_at=now,
        deadline=at.astimezone(UTC),
    )


class InterruptionEvents:
    """Reads one queue for ever. A message is deleted once every job on its instance was told."""

    def __init__(self, engine: Engine, temporal: Client, queue_url: str, sqs: Any = None) -> None:
        self._engine, self._temporal, self._queue_url = engine, temporal, queue_url
        self._sqs = sqs or aws.client("sqs")

    async def run(self) -> None:
        """Until cancelled. Trouble is logged, and tried again."""
        answering = True
        while True:
            try:
                await self.look()
                answering = True
            except (PerdureError, RPCError) as problem:
                if answering:
                    log.warning("interruption events cannot be read from %s: %s", self._queue_url, problem)
                answering = False
                await asyncio.sleep(AFTER_TROUBLE_SECONDS)

    async def look(self, wait_seconds: int = WAIT_SECONDS) -> int:
        """Wait for messages once; how many there were."""
        found = await aws.call(
            "read interruption events",
            self._sqs.receive_message,
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_seconds,
        )
        messages = found.get("Messages", [])
        for message in messages:
            notice = read_event(message["Body"], datetime.now(UTC))
            if notice is None:
                log.warning("a message that is no interruption warning is put away: %s", message["Body"][:200])
            else:
                await self._tell(notice)
            await aws.call(
                "put away an interruption event",
                self._sqs.delete_message,
                QueueUrl=self._queue_url,
                ReceiptHandle=message["ReceiptHandle"],
            )
        return len(messages)

    async def _tell(self, notice: Notice) -> None:
        jobs = await asyncio.to_thread(self._jobs_on, notice.instance_id)
        log.warning("AWS takes %s back at %s; %d jobs on it", notice.instance_id, notice.deadline, len(jobs))
        for job in jobs:
            handle = self._temporal.get_workflow_handle(names.job_workflow_id(job.job_id))
            try:
                await handle.signal("notice", notice)
            except RPCError as problem:
                if problem.status != RPCStatusCode.NOT_FOUND:  # which means: finished meanwhile
                    raise

    def _jobs_on(self, instance_id: str) -> list[WatchedJob]:
        with reading(self._engine) as session:
            return jobs_on(session, [instance_id])
