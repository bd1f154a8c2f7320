"""Keeps the inventory entry of one instance: what its agent says, until EC2 says that it is gone.

Agents signal on changes and never on ticks, and a lost machine says nothing: so EC2 is asked from here.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import InstanceActivities, InstanceRef, InstanceState, RecordActivities
    from perdure.contracts.inventory import NodeChanged, NodeWatchInput
    from perdure.domain.nodes import Node, NodeState
    from workflows.node_log_settings import LogSettingsCourier
    from workflows.options import LOOK, SURELY

LOOK_EVERY = timedelta(seconds=60)
LOOK_EVERY_OVERDUE = timedelta(seconds=10)
"""Once the deadline of a notice has passed."""

JUST_PASSED = timedelta(minutes=5)
EC2_SAYS = ("pay_type", "launched_at", "ended_at", "ended_by")
"""Fields of a node that its agent does not know."""


def _as_seen(node: Node, found: InstanceState, now: datetime) -> Node:
    """The node with what EC2 says of its instance at `now`."""
    changes: dict[str, object] = {}
    if found.launched_at is not None:
        changes |= {"launched_at": found.launched_at, "pay_type": found.pay_type}
    known = found.gone or found.launched_at is not None  # else an answer from before these were asked for
    if known and found.ending and node.ended_at is None:
        changes["ended_at"] = found.ended_at or _ended_by_then(node, now)
    if found.gone:
        changes["state"] = NodeState.GONE
    if known and found.ending and not node.ended_by:
        # EC2 forgets an instance, and may not say why it went: one that was announced to go was taken back.
        announced = node.notice is not None and node.notice.deadline is not None
        changes["ended_by"] = found.ended_by or ("aws" if announced and found.gone else "")
    return node.model_copy(update=changes)


def _ended_by_then(node: Node, now: datetime) -> datetime:
    """It was found ended: at the deadline of its notice if that has just passed, else at the latest now."""
    deadline = node.notice.deadline if node.notice else None
    return deadline if deadline and deadline <= now <= deadline + JUST_PASSED else now


@workflow.defn(name=names.NODE_WATCH)
class NodeWatch:
    """Workflow `node/<instance id>`, started by the agent with its first `node_changed`."""

    @workflow.init
    def __init__(self, start: NodeWatchInput) -> None:
        self._instance_id = start.instance_id
        self._node = start.node
        self._unrecorded = False
        self._log_settings = LogSettingsCourier(start.instance_id)

    @workflow.run
    async def run(self, start: NodeWatchInput) -> None:
        """Until the instance is gone. A node that comes back (its agent speaks again) starts a new run."""
        courier = asyncio.create_task(self._log_settings.run())
        while self._node is None or self._node.state is not NodeState.GONE:
            if workflow.info().is_continue_as_new_suggested() and not self._unrecorded and not self._log_settings.busy:
                workflow.continue_as_new(NodeWatchInput(instance_id=self._instance_id, node=self._node))
            if self._unrecorded:
                await self._record()
                continue
            try:
                await workflow.wait_condition(
                    lambda: self._unrecorded, timeout=self._until_next_look(), timeout_summary="ask EC2"
                )
            except TimeoutError:
                await self._look()
        courier.cancel()
        await self._record()

    @workflow.signal
    def log_settings_changed(self) -> None:
        """Somebody changed how agents are to log."""
        self._log_settings.wanted()

    @workflow.signal
    def node_changed(self, change: NodeChanged) -> None:
        """The agent's view. An older message than the last changes nothing."""
        if change.wants_log_settings:
            self._log_settings.wanted()
        known = self._node
        at = change.node.changed_at or change.at
        if known is not None and known.changed_at is not None and at < known.changed_at:
            return
        first_seen = (known.first_seen_at if known else None) or change.node.first_seen_at or at
        asked = {name: getattr(known, name) for name in EC2_SAYS} if known else {}
        self._node = change.node.model_copy(update={**asked, "changed_at": at, "first_seen_at": first_seen})
        self._unrecorded = True

    @workflow.query
    def node(self) -> Node | None:
        """The node as known now."""
        return self._node

    def _until_next_look(self) -> timedelta:
        deadline = self._node.notice.deadline if self._node and self._node.notice else None
        if deadline is None:
            return LOOK_EVERY
        left = deadline - workflow.now()
        return left if timedelta(0) < left < LOOK_EVERY else LOOK_EVERY if left > LOOK_EVERY else LOOK_EVERY_OVERDUE

    async def _look(self) -> None:
        try:
            found = await workflow.execute_activity_method(
                InstanceActivities.instance_state,
                InstanceRef(instance_id=self._instance_id),
                summary=f"does {self._instance_id} still run?",
                **LOOK,
            )
        except ActivityError:
            workflow.logger.warning("EC2 does not say how %s is; asked again later", self._instance_id)
            return
        if self._node is None:
            return
        seen = _as_seen(self._node, found, workflow.now())
        if seen != self._node:
            # Never older than what the agent said last, or the records would refuse it: clocks differ.
            changed_at = max(workflow.now(), self._node.changed_at or workflow.now())
            self._node = seen.model_copy(update={"changed_at": changed_at})
            self._unrecorded = True

    async def _record(self) -> None:
        assert self._node is not None
        self._unrecorded = False
        await workflow.execute_activity_method(
            RecordActivities.record_node, self._node, summary=f"{self._node.state} in {self._node.zone}", **SURELY
        )
