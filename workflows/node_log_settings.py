"""How an agent is to log, handed on to it: when its node's workflow is told of a change, and when the agent starts.

Beside everything else that the workflow does: a node that does not answer must not keep its notice from the records.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import RecordActivities
    from perdure.contracts.node import NodeActivities
    from workflows.options import CONFIGURATION, NODE_SETTINGS


class LogSettingsCourier:
    """Brings the newest settings to one node. `busy` while they are on their way."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._wanted = False
        self.busy = False

    def wanted(self) -> None:
        """Somebody changed them, or the agent does not know them."""
        self._wanted = self.busy = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await workflow.wait_condition(lambda: self._wanted)
            self._wanted = False
            try:
                await self._bring()
            except ActivityError:
                # The agent asks again when it starts, and the next change tells it anyhow.
                workflow.logger.warning("%s was not told how to log", self._instance_id)
            self.busy = self._wanted

    async def _bring(self) -> None:
        settings = await workflow.execute_activity_method(RecordActivities.load_log_settings, **CONFIGURATION)
        await workflow.execute_activity_method(
            NodeActivities.apply_log_settings,
            settings,
            task_queue=names.node_queue(self._instance_id),
            summary=f"level {settings.section.level}",
            **NODE_SETTINGS,
        )
