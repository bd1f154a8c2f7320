"""Asks a living node for its logs, once, for a person who waits. A node that is gone is said to be within seconds."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.logs import CollectedLogs, CollectLogs, LogActivities
    from workflows import options
    from workflows.job_questions import in_words

LIMIT = timedelta(seconds=30)


@workflow.defn(name=names.LOG_COLLECTION)
class LogCollection:
    """Workflow `logs/<request id>`, started by the API."""

    @workflow.run
    async def run(self, request: CollectLogs) -> CollectedLogs:
        """The node's bundle, or in words why there is none. Never fails."""
        try:
            return await workflow.execute_activity_method(
                LogActivities.collect_logs,
                request,
                task_queue=names.node_queue(request.instance_id),
                schedule_to_start_timeout=options.LOG_PATIENCE,
                start_to_close_timeout=LIMIT,
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary=f"logs of {request.job_id or request.instance_id}",
            )
        except ActivityError as problem:
            if isinstance(problem.cause, TimeoutError):
                untaken = problem.cause.type is TimeoutType.SCHEDULE_TO_START
                waited = (options.LOG_PATIENCE if untaken else LIMIT).total_seconds()
                said = f"{request.instance_id} did not answer within {waited:g} s: it is gone, or its agent is"
                return CollectedLogs(failure=f"{said} out of touch.")
            return CollectedLogs(failure=in_words(problem))
