"""Forgets old records every hour, for ever. One workflow, `retention`, which the control worker starts."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.retention import ForgetOldRecords, RetentionActivities

EVERY = timedelta(hours=1)
ROUNDS = 200
"""After so many it begins a new history."""


@workflow.defn(name=names.RETENTION)
class Retention:
    """Never ends."""

    @workflow.run
    async def run(self) -> None:
        """A round each hour; one that fails is made up for by the next."""
        for _ in range(ROUNDS):
            try:
                gone = await workflow.execute_activity_method(
                    RetentionActivities.forget_old_records,
                    ForgetOldRecords(now=workflow.now()),
                    summary="forget old records",
                    start_to_close_timeout=timedelta(minutes=50),
                    heartbeat_timeout=timedelta(minutes=2),
                    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=10), maximum_attempts=3),
                )
                workflow.set_current_details(
                    f"Last round at {workflow.now():%Y-%m-%d %H:%M} UTC: {gone.jobs} jobs, {gone.nodes} nodes and "
                    f"{gone.lines} old lines were forgotten."
                )
            except ActivityError as problem:
                workflow.logger.warning("old records were not forgotten: %s", problem.cause)
            await workflow.sleep(EVERY)
        workflow.continue_as_new()
