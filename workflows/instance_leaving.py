"""After a hand-over that Batch does not see: have the instance off its cluster, so that Batch hears at once."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import InstanceActivities, LeaveInstance
    from workflows import options
    from workflows.job_questions import in_words
    from workflows.job_state import JobProgress


async def leave_instance(progress: JobProgress) -> None:
    """Whatever comes of it, AWS ends the instance, and Batch hears of that in the end."""
    progress.leaves, current = False, progress.current
    if current is None:
        return
    try:
        left = await workflow.execute_activity_method(
            InstanceActivities.leave_instance,
            LeaveInstance(job_id=progress.job.job_id, instance_id=current.instance_id),
            summary=f"{current.instance_id} off its cluster",
            **options.LEAVE,
        )
    except ActivityError as problem:
        message = (
            f"{current.instance_id} was not taken off its cluster; Batch hears of its end later: {in_words(problem)}"
        )
        progress.tell(workflow.now(), "instance", message, "warning")
        return
    if left:
        progress.tell(workflow.now(), "instance", f"{current.instance_id} was taken off its cluster.")
