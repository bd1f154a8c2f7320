"""Reads what a job printed, once, for a person who waits."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.outputs import JobOutput, OutputActivities, ReadOutput
    from workflows.job_questions import in_words

LIMIT = timedelta(seconds=15)


@workflow.defn(name=names.JOB_OUTPUT)
class OutputReading:
    """Workflow `output/<request id>`, started by the API."""

    @workflow.run
    async def run(self, request: ReadOutput) -> JobOutput:
        """The end of the job's output, or in words why there is none. Never fails."""
        try:
            return await workflow.execute_activity_method(
                OutputActivities.read_output,
                request,
                schedule_to_close_timeout=LIMIT,
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary=f"output of {request.job_id}",
            )
        except ActivityError as problem:
            return JobOutput(failure=in_words(problem))
