"""What the job's workflow asks of the node: a checkpoint that a person wants, and the final one on a notice.

The rhythm is no business of the workflow: the agent keeps it, and reports each checkpoint once it is committed. Both
questions are join-or-start on the node and keyed, so asking again is safe. A time-out means unknown: the node's own
reports, its next answer or Batch tell what is true.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.node import CheckpointOutcome, CheckpointRequest, FinalCheckpointRequest, NodeActivities
    from perdure.contracts.protection import CheckpointTaken
    from perdure.domain.jobs import JobState
    from perdure.domain.retries import HandOver, choose_hand_over
    from workflows import options
    from workflows.job_reports import committed, handed_over
    from workflows.job_state import HOLDS_CONTAINER, JobProgress, Stage
    from workflows.racing import Overtaken, while_wanted


async def grant_wishes(progress: JobProgress) -> None:
    """A checkpoint for the people who wish for one now: all of them get the same, or hear why there is none.

    Never awaited alone: a notice, an exit or a newer container ends the waiting at once.
    """
    wishes = [key for key, answer in progress.wishes.items() if answer is None]
    epoch, node = progress.job.epoch, progress.job.attempts[-1].instance_id
    progress.show(state=JobState.CHECKPOINTING)
    work = workflow.start_activity_method(
        NodeActivities.checkpoint,
        CheckpointRequest(job_id=progress.job.job_id, epoch=epoch, request_id=wishes[0]),
        task_queue=names.node_queue(node),
        summary=f"a checkpoint that a person wants, on {node}",
        **options.requested_checkpoint(_dump_limit(progress) + timedelta(minutes=5)),
    )
    outcome = await _outcome(
        progress,
        work,
        lambda: progress.stage is Stage.RUNNING and progress.job.epoch == epoch and not final_wanted(progress),
    )
    if outcome is None:
        answer = CheckpointTaken(failure="the job's node did not answer, or the job left it; see the job's events")
    else:
        answer = CheckpointTaken(checkpoint=outcome.checkpoint, failure=outcome.failure)
    for key in wishes:
        progress.wishes[key] = answer
    if progress.stage is Stage.RUNNING and progress.job.state is JobState.CHECKPOINTING:
        failed = outcome is not None and outcome.checkpoint is None and not outcome.ended
        progress.show(state=JobState.CHECKPOINT_FAILED if failed else JobState.RUNNING)
    if answer.checkpoint is not None:
        committed(progress, answer.checkpoint)


def _dump_limit(progress: JobProgress) -> timedelta:
    seconds = progress.configuration.checkpoint.dump_limit_seconds if progress.configuration else 110.0
    return timedelta(seconds=seconds)


def final_wanted(progress: JobProgress) -> bool:
    """A notice stands, the node has not settled it yet, and there is time left."""
    if progress.notice is None or progress.final_settled or progress.stage not in HOLDS_CONTAINER:
        return False
    return workflow.now() < progress.notice.ends_at


async def take_final_checkpoint(progress: JobProgress) -> bool:
    """Join the final checkpoint that the agent began on the notice, and hear how the job was handed over.

    False: nobody knows; ask again while `final_wanted`.
    """
    epoch, notice = progress.job.epoch, progress.notice
    assert notice is not None and progress.request is not None
    if progress.configuration is None or not progress.configuration.checkpoint.enabled:
        progress.final_settled = True
        progress.tell(workflow.now(), "notice", "Checkpoints are off for this job: it will start anew.", "warning")
        return True
    progress.show(state=JobState.CHECKPOINTING)
    work = workflow.start_activity_method(
        NodeActivities.final_checkpoint,
        FinalCheckpointRequest(
            job_id=progress.job.job_id,
            epoch=epoch,
            notice=notice,
            hand_over=choose_hand_over(
                progress.retry, progress.request.attempt, can_stop_ecs=progress.request.can_stop_ecs
            ),
        ),
        task_queue=names.node_queue(notice.instance_id),
        summary=f"FINAL checkpoint on {notice.instance_id}",
        **options.final_checkpoint(notice.ends_at - workflow.now() + timedelta(seconds=30)),
    )
    outcome = await _outcome(
        progress,
        work,
        lambda: progress.stage in HOLDS_CONTAINER and progress.job.epoch == epoch and not progress.final_settled,
    )
    if outcome is None:
        return not final_wanted(progress)
    if outcome.checkpoint is not None:
        handed_over(progress, outcome.handed_over or HandOver.STAY_FROZEN, outcome.checkpoint, workflow.now())
    elif outcome.ended:
        progress.final_settled = True
        if progress.job.state is JobState.CHECKPOINTING:
            progress.show(state=JobState.RUNNING)  # until its end is told, which says how it ended
    else:
        progress.final_settled = True
        progress.show(state=JobState.CHECKPOINT_FAILED)
        message = f"There is no final checkpoint; the job runs on until its instance goes: {outcome.failure}"
        progress.tell(workflow.now(), "final checkpoint", message, "warning")
    return True


async def _outcome(
    progress: JobProgress, work: workflow.ActivityHandle[CheckpointOutcome], wanted: Callable[[], bool]
) -> CheckpointOutcome | None:
    try:
        outcome = await while_wanted(work, wanted)
    except Overtaken:
        return None
    except ActivityError as problem:
        if isinstance(problem.cause, ApplicationError):
            return CheckpointOutcome(failure=problem.cause.message)
        if not progress.out_of_touch:
            message = "The node does not answer: whether there is a checkpoint is not known yet."
            progress.tell(workflow.now(), "no answer", message, "warning")
        progress.out_of_touch, progress.look_at = True, workflow.now()
        return None
    progress.out_of_touch = False
    return outcome
