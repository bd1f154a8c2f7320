"""Stores a bundle of logs that a node sent by itself, for the time when the node is gone."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.logs import KeepLogs, LogKeepingActivities

GIVEN_UP = timedelta(hours=1)
"""Logs of a database that is away for longer are not worth a history that grows."""


@workflow.defn(name=names.LOG_KEEPING)
class LogKeeping:
    """Workflow `keep-logs/<key>`, started by agents."""

    @workflow.run
    async def run(self, bundle: KeepLogs) -> bool:
        """Whether it is stored. Tried again while the database is away."""
        try:
            await workflow.execute_activity_method(
                LogKeepingActivities.keep_logs,
                bundle,
                summary=f"{bundle.kind} on {bundle.instance_id}",
                start_to_close_timeout=timedelta(seconds=30),
                schedule_to_close_timeout=GIVEN_UP,
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
            )
        except ActivityError as problem:
            workflow.logger.warning("logs of %s were not kept: %s", bundle.instance_id, problem.cause)
            return False
        return True
