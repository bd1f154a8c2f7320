"""What is to become of a container that has just appeared: the workflow's plan, or our own word when there is none.

Promise 7 lives here. A first attempt is never kept waiting for long and never refused for a fault of ours. A later one
has work to lose: it is held until the container start time-out nears; then its start fails if the job's retry rules
would retry that and attempts remain, else it starts clean and unprotected, and its checkpoints are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from perdure.contracts.protection import AttachReply, AttachRequest, Verdict
from perdure.domain.retries import would_retry
from worker_agent.container.bundle import Bundle
from worker_agent.node.this_node import ThisNode
from worker_agent.start.attach import FINISHED, UNREADABLE, Attacher

T = TypeVar("T")
log = structlog.get_logger()

START_MARGIN = 25.0
"""Seconds before the container start time-out at which a hold ends. The runtime's own is 10 s: ours comes first."""


@dataclass(frozen=True)
class Refusal:
    """The container gets no protection: it runs as if we were not there, or, with `fail`, its start fails."""

    reason: str
    fail: bool = False
    level: str = "warning"


class Planner:
    """Asks for plans and decides where there is none."""

    def __init__(self, node: ThisNode, attacher: Attacher) -> None:
        self._node = node
        self._attacher = attacher

    async def plan(self, container_id: str, bundle: Bundle) -> AttachReply | Refusal:
        """A plan with verdict FRESH or RESTORE, or a refusal. Takes no longer than the start time-out allows."""
        begun = time.monotonic()
        limit = max(1.0, self._node.settings.container_start_timeout - START_MARGIN)
        first = bundle.attempt == 1
        patience = min(self._node.settings.attach_patience, limit) if first else limit
        if not await _within(self._node.identified.wait(), patience):
            return self.without_plan(bundle, None, "the instance metadata service does not say which instance this is")
        if not self._node.interrupted.is_set():
            asking = asyncio.create_task(self._ask(container_id, bundle, patience if first else None, limit))
            noticed = asyncio.create_task(self._node.interrupted.wait())
            await asyncio.wait([asking, noticed], return_when=asyncio.FIRST_COMPLETED)
            noticed.cancel()
            if not self._node.interrupted.is_set():
                return self._judge(bundle, asking.result())
            asking.cancel()
        # Never refused on a node that AWS takes back (a refused start fails workflows), and never started either: it
        # is held until the host dies, and Batch starts it elsewhere.
        log.warning("a container is held: the instance is being taken back", job_id=bundle.job_id)
        await asyncio.sleep(max(0.0, begun + limit - time.monotonic()))
        return self.without_plan(bundle, None, "the instance was announced to go, but has not gone")

    async def _ask(
        self, container_id: str, bundle: Bundle, first_answer: float | None, limit: float
    ) -> AttachReply | None:
        identity = self._node.identity
        request = AttachRequest(
            job_id=bundle.job_id,
            container_id=container_id,
            attempt=bundle.attempt,
            instance_id=identity.instanceId,
            zone=identity.availabilityZone,
            instance_type=identity.instanceType,
            asked_at=datetime.now(UTC),
            environment=bundle.environment,
            shared_mounts=bundle.shared_mounts(),
            can_stop_ecs=bool(self._node.settings.ecs_stop),
        )
        summary = f"job {bundle.job_id} in {bundle.queue.rpartition('/')[2] or 'no queue'}"
        return await self._attacher.ask(request, summary[:200], first_answer=first_answer, limit=limit)

    def _judge(self, bundle: Bundle, reply: AttachReply | None) -> AttachReply | Refusal:
        if reply is None:
            return self.without_plan(bundle, None, "the Temporal server did not answer in time")
        match reply.verdict:
            case Verdict.WAIT:
                return self.without_plan(bundle, reply, f"no plan in time ({reply.reason})")
            case Verdict.REFUSED:
                return Refusal(f"this container may not run: {reply.reason}", fail=True)
            case Verdict.UNPROTECTED if reply.reason == UNREADABLE:
                return self.without_plan(bundle, None, UNREADABLE)
            case Verdict.UNPROTECTED:
                return Refusal(reply.reason, level="error" if reply.reason == FINISHED else "warning")
            case _:
                return reply

    def without_plan(self, bundle: Bundle, known: AttachReply | None, why: str) -> Refusal:
        """Our own word (promise 7). `known`: what the workflow has said of the retry rules so far."""
        if bundle.attempt == 1:
            return Refusal(why)
        if known is not None and retries_failed_start(known):
            return Refusal(f"{why}; the next attempt tries again", fail=True)
        return Refusal(f"{why}; it starts anew, and its checkpoints are kept", level="error")


def retries_failed_start(plan: AttachReply) -> bool:
    """Would Batch run the job again if this container's start failed, and is an attempt left?

    The words are those of AWS Batch's troubleshooting page for containers that could not be created or started.
    """
    retried, _ = would_retry(
        plan.retry, exit_code=None, reason="CannotCreateContainerError", status_reason="Task failed to start"
    )
    return retried and plan.attempts_made < plan.retry.attempts


async def _within(waited: Awaitable[T], seconds: float) -> bool:
    try:
        await asyncio.wait_for(waited, seconds)
    except TimeoutError:
        return False
    return True
