"""The end of a job whose checkpoints are in a store: they go, unless there is a reason to keep them.

While the job lives, its nodes put checkpoints there and fetch them by themselves: the workflow only says which store.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.stores import ForgetCheckpoints, StoreActivities
    from workflows import options
    from workflows.job_state import JobProgress


async def put_away_store(progress: JobProgress) -> None:
    """The job is over: delete its checkpoints, unless `keep_volume` says why not."""
    assert progress.store is not None
    if progress.keep_volume:
        message = f"The job's checkpoints are kept in the store for a while: {progress.keep_volume}."
        progress.tell(workflow.now(), "kept", message, "warning")
        return
    try:
        forgotten = await workflow.execute_activity_method(
            StoreActivities.forget_checkpoints,
            ForgetCheckpoints(job_id=progress.stored_as or progress.job.job_id, store=progress.store),
            summary="delete the job's checkpoints",
            **options.CLEAN_UP,
        )
    except ActivityError as problem:
        message = f"The job's checkpoints could not be deleted from the store and still take space: {problem.cause}"
        progress.tell(workflow.now(), "left behind", message, "error")
        return
    if forgotten.store_use is not None:
        progress.use_store(forgotten.store_use)
    progress.show(checkpoints=[], stored=None)
    progress.tell(workflow.now(), "store", "The job's checkpoints are deleted from the store.")
