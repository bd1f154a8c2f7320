"""Keeps the inventory entry of one instance: what its agent says, until EC2 says that it is gone.

Agents signal on changes and never on ticks, and a lost machine says nothing: so EC2 is asked from here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import InstanceActivities, InstanceRef, RecordActivities
    from perdure.contracts.inventory import NodeChanged, NodeWatchInput
    from perdure.domain.nodes import Node, NodeState
    from workflows.options import LOOK, SURELY

LOOK_EVERY = timedelta(seconds=60)
LOOK_EVERY_OVERDUE = timedelta(seconds=10)
"""Once the deadline of a notice has passed."""


@workflow.defn(name=names.NODE_WATCH)
class NodeWatch:
    """Workflow `node/<instance id>`, started by the agent with its first `node_changed`."""

    @workflow.init
    def __init__(self, start: NodeWatchInput) -> None:
        self._instance_id = start.instance_id
        self._node = start.node
        self._unrecorded = False

    @workflow.run
    async def run(self, start: NodeWatchInput) -> None:
        """Until the instance is gone. A node that comes back (its agent speaks again) starts a new run."""
        while self._node is None or self._node.state is not NodeState.GONE:
            if workflow.info().is_continue_as_new_suggested() and not self._unrecorded:
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
        await self._record()

    @workflow.signal
    def node_changed(self, change: NodeChanged) -> None:
        """The agent's view. An older message than the last changes nothing."""
        known = self._node
        at = change.node.changed_at or change.at
        if known is not None and known.changed_at is not None and at < known.changed_at:
            return
        first_seen = (known.first_seen_at if known else None) or change.node.first_seen_at or at
        self._node = change.node.model_copy(update={"changed_at": at, "first_seen_at": first_seen})
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
        if found.gone and self._node is not None:
            self._node = self._gone(self._node, workflow.now())
            self._unrecorded = True

    @staticmethod
    def _gone(node: Node, now: datetime) -> Node:
        # Never older than what the agent said last, or the records would refuse it: clocks differ.
        return node.model_copy(update={"state": NodeState.GONE, "changed_at": max(now, node.changed_at or now)})

    async def _record(self) -> None:
        assert self._node is not None
        self._unrecorded = False
        await workflow.execute_activity_method(
            RecordActivities.record_node, self._node, summary=f"{self._node.state} in {self._node.zone}", **SURELY
        )
