"""What the job's workflow asks the control plane, about Batch and configuration; and errors in words."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import BatchActivities, BatchJob, JobRef, RecordActivities
    from perdure.domain.configuration import JobConfiguration
    from perdure.domain.errors import PerdureError
    from workflows.options import CONFIGURATION, LOOK


def describe_job(job_id: str) -> workflow.ActivityHandle[BatchJob]:
    """Ask Batch. Fails with UnknownJob when Batch does not know the job."""
    return workflow.start_activity_method(
        BatchActivities.describe_job, JobRef(job_id=job_id), summary="what does Batch say?", **LOOK
    )


def load_configuration() -> workflow.ActivityHandle[JobConfiguration]:
    """Ask for the system's configuration; given up soon, because a container may wait for it."""
    return workflow.start_activity_method(RecordActivities.load_configuration, **CONFIGURATION)


def caused_by(problem: BaseException, error: type[PerdureError]) -> bool:
    """Whether an activity (or one of a child workflow's) failed with that error of ours."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, ApplicationError) and cause.type == error.__name__:
            return True
        cause = cause.__cause__
    return False


def in_words(problem: ActivityError | ChildWorkflowError) -> str:
    """One sentence for people: the words of the error underneath."""
    cause: BaseException = problem
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, TimeoutError) and isinstance(problem, ActivityError):
        return f"{problem.activity_type.replace('_', ' ')} has not ended in time."
    words = cause.message if isinstance(cause, ApplicationError) else str(cause)
    return words if words.endswith(".") else f"{words}."
