"""Keeps the inventory entry of one instance: what its agent says, until EC2 says that it is gone.

It has no timer: agents signal on changes and never on ticks, and a lost machine says nothing, so the reconciler asks
EC2 about all instances together and signals where there is news (workflows/reconciliation.py).
"""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import RecordActivities
    from perdure.contracts.inventory import NodeChanged, NodeWatchInput
    from perdure.domain.nodes import EC2_SAYS, InstanceState, Node, NodeState, as_seen
    from workflows.node_log_settings import LogSettingsCourier
    from workflows.options import SURELY


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
            await workflow.wait_condition(lambda: self._unrecorded)
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

    @workflow.signal
    def instance_seen(self, found: InstanceState) -> None:
        """What EC2 says of the instance. Said twice, it changes nothing."""
        if self._node is None:
            return
        seen = as_seen(self._node, found, workflow.now())
        if seen != self._node:
            # Never older than what the agent said last, or the records would refuse it: clocks differ.
            changed_at = max(workflow.now(), self._node.changed_at or workflow.now())
            self._node = seen.model_copy(update={"changed_at": changed_at})
            self._unrecorded = True

    @workflow.query
    def node(self) -> Node | None:
        """The node as known now."""
        return self._node

    async def _record(self) -> None:
        assert self._node is not None
        self._unrecorded = False
        await workflow.execute_activity_method(
            RecordActivities.record_node, self._node, summary=f"{self._node.state} in {self._node.zone}", **SURELY
        )
