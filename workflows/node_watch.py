"""Brings what changed of one instance into the records, and to its agent the log settings and what AWS announced by an
event. Ends when that is done.

An open workflow takes memory of the control worker, and most nodes are silent most of the time: agents signal on
changes and never on ticks. So each change starts the workflow anew, unless it runs. What is known of the node stands in
the records. A lost machine says nothing: the reconciler asks EC2 about all instances together and signals where there
is news (workflows/reconciliation.py).
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import RecordActivities
    from perdure.contracts.inventory import NodeChanged, NodeWatchInput
    from perdure.contracts.node import NodeActivities
    from perdure.domain.nodes import InstanceState, Node, Notice, as_announced, as_seen, as_told
    from workflows import options
    from workflows.node_log_settings import LogSettingsCourier


@workflow.defn(name=names.NODE_WATCH)
class NodeWatch:
    """Workflow `node/<instance id>`, started by each signal that finds it closed."""

    @workflow.init
    def __init__(self, start: NodeWatchInput) -> None:
        self._instance_id, self._node = start.instance_id, start.node
        self._unrecorded = False
        self._log_settings = LogSettingsCourier(start.instance_id)

    @workflow.run
    async def run(self, start: NodeWatchInput) -> Node | None:
        """Until all is recorded and the agent knows what it should. The node as it was recorded last."""
        courier = asyncio.create_task(self._log_settings.run())
        while self._unrecorded or self._busy:
            if self._unrecorded:
                await self._record()
            else:
                await workflow.wait_condition(lambda: self._unrecorded or not self._busy)
        courier.cancel()
        return self._node

    @property
    def _busy(self) -> bool:
        return self._log_settings.busy or not workflow.all_handlers_finished()

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
        first_seen = change.node.first_seen_at or at
        told = change.node.model_copy(update={"changed_at": at, "first_seen_at": first_seen})
        self._node = as_told(known, told)
        self._unrecorded = True

    @workflow.signal
    def instance_seen(self, found: InstanceState) -> None:
        """What EC2 says of the instance. Said twice, it changes nothing."""
        if self._node is None:
            return
        self._now_is(as_seen(self._node, found, workflow.now()))

    @workflow.signal
    async def announced(self, notice: Notice) -> None:
        """AWS said by an event that the instance goes, or should be left. Its agent may know that already, and hears
        the same announcement once; so do the records."""
        if self._node is not None:
            self._now_is(as_announced(self._node, notice))
        try:
            await workflow.execute_activity_method(
                NodeActivities.hear_notice,
                notice,
                task_queue=names.node_queue(self._instance_id),
                summary=str(notice.kind),
                **options.hear_notice(notice.ends_at - workflow.now()),
            )
        except ActivityError:
            workflow.logger.warning("The agent on %s was not told of a notice", self._instance_id)

    def _now_is(self, node: Node) -> None:
        """The node is to be recorded so, if that is new."""
        if self._node is not None and node != self._node:
            # Never older than what the agent said last, or the records would refuse it: clocks differ.
            changed_at = max(workflow.now(), self._node.changed_at or workflow.now())
            self._node = node.model_copy(update={"changed_at": changed_at})
            self._unrecorded = True

    async def _record(self) -> None:
        """In the task that heard the change, if the database answers at once."""
        assert self._node is not None
        self._unrecorded = False
        try:
            await workflow.execute_local_activity_method(
                RecordActivities.record_node, self._node, **options.RECORD_AT_ONCE
            )
        except FailureError:
            summary = f"{self._node.state} in {self._node.zone}"
            await workflow.execute_activity_method(
                RecordActivities.record_node, self._node, summary=summary, **options.SURELY
            )
