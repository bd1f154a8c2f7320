"""What AWS announces of an instance by an event: that it takes it back, or that one should leave it.

The agent on a Spot instance sees both itself, in the metadata service, mostly sooner. Events are a second way for what
it has not seen; they are the only one for Interruptible Capacity Reservations, of which the metadata service does not
know. An event becomes a `Notice` like any other. Jobs on the instance hear of an interruption at once; the
instance's own workflow hands both kinds to the agent (workflows/node_watch.py). Whoever knows the announcement from
the other source changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import Field, ValidationError
from sqlalchemy import Engine
from temporalio.client import Client

from activities.event_queue import AwsTime, Event, event_time
from activities.signals import tell_job, tell_node
from perdure.domain.errors import UnknownNode
from perdure.domain.nodes import ASSUMED_NOTICE, Node, NodeState, Notice, NoticeKind
from perdure.domain.values import Frozen
from perdure.records.jobs.watched_jobs import WatchedJob, jobs_on
from perdure.records.nodes.nodes import get_node
from perdure.records.schema.database import reading

log = logging.getLogger(__name__)

SPOT_INTERRUPTION = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
RESERVATION_INTERRUPTIONS = (
    "EC2 Capacity Reservation Instance Interruption Warning",
    "EC2 Interruptible Capacity Reservation Instance Interruption Warning",
)
"""AWS's guide spells it in both ways (EC2 user guide, "Monitor interruptible Capacity Reservations")."""
ANNOUNCEMENTS = (SPOT_INTERRUPTION, REBALANCE, *RESERVATION_INTERRUPTIONS)
"""What the rule of deploy/cloudformation and deploy/terraform sends."""


class _Detail(Frozen):
    instance_id: str = Field(alias="instance-id", pattern=r"^i-[0-9a-f]{1,32}$")
    ends_at: AwsTime | None = Field(None, alias="instance-termination-time")


def read_notice(event: Event) -> Notice | None:
    """The notice in an event; None for one that announces nothing. The same event gives the same notice.

    A Spot interruption's event has no time but its own, two minutes before the end (EC2 user guide, "Spot Instance
    interruption notices").
    """
    if event.source != "aws.ec2" or event.kind not in ANNOUNCEMENTS:
        return None
    try:
        detail = _Detail.model_validate(event.detail)
    except ValidationError as problem:
        log.error("an announcement of AWS is not understood: %s: %s", event.kind, str(problem)[:300])
        return None
    seen = event_time(event)
    notice = Notice(
        notice_id=hashlib.sha256(f"event|{event.event_id}".encode()).hexdigest()[:16],
        kind=NoticeKind.REBALANCE if event.kind == REBALANCE else NoticeKind.INTERRUPTION,
        instance_id=detail.instance_id,
        seen_at=seen,
    )
    if notice.kind is NoticeKind.REBALANCE:
        return notice
    return notice.model_copy(update={"deadline": detail.ends_at or seen + ASSUMED_NOTICE})


class InterruptionEvents:
    """Tells those whom it concerns."""

    def __init__(self, engine: Engine, temporal: Client) -> None:
        self._engine, self._temporal = engine, temporal

    async def read(self, events: Sequence[Event]) -> None:
        """An event is dealt with once every job on its instance, and the instance's workflow, was told. Raises RPCError
        and the database's errors."""
        for event in events:
            notice = read_notice(event)
            if notice is not None:
                await self._tell(notice)

    async def _tell(self, notice: Notice) -> None:
        node, jobs = await asyncio.to_thread(self._known, notice.instance_id)
        if node is None and not jobs:
            log.debug("%s is no instance of ours", notice.instance_id)  # a rule hears of the whole account
            return
        if notice.ends_at < datetime.now(UTC):
            # It is gone, or stays after all: the reconciler looks.
            log.warning("AWS announced too long ago: %s of %s", notice.kind, notice.instance_id)
            return
        log.warning("AWS announces: %s of %s; %d jobs on it", notice.kind, notice.instance_id, len(jobs))
        if notice.kind is NoticeKind.INTERRUPTION:
            for job in jobs:
                await tell_job(self._temporal, job.job_id, "notice", notice)
        summary = f"{notice.kind} of {notice.instance_id}"
        await tell_node(self._temporal, notice.instance_id, node, "announced", notice, summary)

    def _known(self, instance_id: str) -> tuple[Node | None, list[WatchedJob]]:
        with reading(self._engine) as session:
            try:
                node: Node | None = get_node(session, instance_id)
            except UnknownNode:
                node = None
            if node is not None and node.state is NodeState.GONE:
                node = None
            return node, jobs_on(session, [instance_id])
