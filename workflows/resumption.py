"""Resuming: a new job submitted from a kept checkpoint, and how that job's own workflow comes to the old volume, or to
the checkpoints in a store."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.protection import AttachRequest
    from perdure.contracts.resumption import (
        RESUME_VARIABLE,
        Resumed,
        ResumeJob,
        ResumptionActivities,
        TakenOver,
        TakeOver,
    )
    from perdure.domain.errors import NotResumable, UnknownJob
    from perdure.domain.volumes import JobVolume, VolumeLife
    from workflows.job_questions import caused_by, in_words
    from workflows.job_state import JobProgress
    from workflows.options import PERSON_WAITS

SUBMITTED_WITHIN = timedelta(minutes=1)
"""A person waits. Asked again with the same request id, it goes on from where it was."""
TAKEN_WITHIN = timedelta(minutes=2)


@workflow.defn(name=names.RESUMPTION)
class Resumption:
    """Workflow `resume/<old job id>`, started by the API; one at a time for each job."""

    @workflow.run
    async def run(self, request: ResumeJob) -> Resumed:
        """The new job, or in words why there is none. Never fails."""
        try:
            return await workflow.execute_activity_method(
                ResumptionActivities.submit_resumption,
                request,
                summary=f"a new job from the checkpoint of {request.job_id}",
                start_to_close_timeout=timedelta(seconds=40),
                schedule_to_close_timeout=SUBMITTED_WITHIN,
                retry_policy=PERSON_WAITS,
            )
        except ActivityError as problem:
            return Resumed(refusal=in_words(problem))


def wants_to_take_over(progress: JobProgress, request: AttachRequest) -> bool:
    """Is this the first container of a job that says that it goes on from another one?"""
    predecessor = request.environment.get(RESUME_VARIABLE, "")
    if progress.job.epoch or progress.predecessor or not predecessor:
        return progress.takes_over
    progress.predecessor, progress.takes_over = predecessor, True
    return True


async def take_over(progress: JobProgress) -> None:
    """Inherit the predecessor's volume or store, checkpoints and count of epochs, if the control worker submitted this
    job for that; else the job is one like any other. Raises ActivityError while nobody knows; called again, it asks
    again."""
    try:
        taken = await workflow.execute_activity_method(
            ResumptionActivities.take_over,
            TakeOver(job_id=progress.job.job_id, predecessor=progress.predecessor),
            summary=f"the checkpoints of {progress.predecessor}",
            start_to_close_timeout=timedelta(seconds=30),
            schedule_to_close_timeout=TAKEN_WITHIN,
            retry_policy=PERSON_WAITS,
        )
    except ActivityError as problem:
        if not (caused_by(problem, NotResumable) or caused_by(problem, UnknownJob)):
            raise
        progress.takes_over = False
        message = f"It does not go on from job {progress.predecessor[:80]}: {in_words(problem)}"
        progress.tell(workflow.now(), "not resumed", message, "error")
        return
    progress.takes_over = False
    progress.predecessors = taken.predecessors
    for checkpoint in taken.checkpoints:
        progress.first_time(f"checkpoint {checkpoint.epoch}/{checkpoint.number}")  # it was counted there
    progress.show(epoch=taken.epoch, checkpoints=taken.checkpoints)
    message = f"It goes on from checkpoint {taken.checkpoints[-1].number} of job {progress.predecessor}, "
    message += _inherit(progress, taken)
    message += f" Inside its processes AWS_BATCH_JOB_ID stays {taken.predecessors[-1]}."
    progress.tell(workflow.now(), "resumed", message)


def _inherit(progress: JobProgress, taken: TakenOver) -> str:
    """Where the checkpoints are, for the job and (the answer) for people."""
    if taken.stored is not None:
        progress.has_store(taken.stored.store, taken.stored.job_id)
        if taken.store_use is not None:
            progress.use_store(taken.store_use)
        return "out of the store."
    assert taken.volume is not None
    progress.show(volumes=[_life(taken.volume)])
    progress.has_volume(taken.volume)
    return f"on its volume {taken.volume.volume_id}."


def _life(volume: JobVolume) -> VolumeLife:
    """From now on: what it cost before is the predecessor's."""
    return VolumeLife(
        volume_id=volume.volume_id,
        zone=volume.zone,
        volume_type=volume.volume_type,
        size_gib=volume.size_gib,
        iops=volume.iops,
        throughput_mib_per_second=volume.throughput_mib_per_second,
        created_at=workflow.now(),
    )
