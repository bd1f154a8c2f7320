"""From an accepted container to its plan: what Batch and the configuration say, FRESH or RESTORE, the volume there."""

from __future__ import annotations

from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import BatchJob
    from perdure.contracts.protection import Verdict
    from perdure.domain.configuration import JobConfiguration
    from perdure.domain.errors import AttachmentLimitReached, UnknownJob, VolumeQuotaReached
    from perdure.domain.jobs import JobState
    from perdure.domain.volume_rules import RequestedJob, gets_volume
    from workflows.job_endings import choose_verdict, finish_unknown, hear_batch
    from workflows.job_questions import caused_by, describe_job, in_words, load_configuration
    from workflows.job_state import JobProgress, Stage
    from workflows.job_volume import Race, bring_volume
    from workflows.racing import while_wanted
    from workflows.volume_end import give_up_volume

T = TypeVar("T")
NO_PLACE = "managed job volumes are off (job_volume.enabled), and there is no store (store.kind) for its checkpoints"
NO_RULE = "no rule of job_volume.for_jobs gives it a volume, and there is no store (store.kind) for its checkpoints"


async def prepare_container(progress: JobProgress) -> None:
    """Make the plan for the newest container.

    Raises Overtaken when a newer one, an exit or a notice comes meanwhile; ActivityError or ChildWorkflowError when
    something out there fails. Called again, it begins with Batch, so that the end of the job is not missed.
    """
    request, epoch = progress.request, progress.job.epoch
    assert request is not None

    def wanted() -> bool:
        return progress.stage is Stage.PREPARING and progress.job.epoch == epoch

    async def race(work: workflow.ActivityHandle[T]) -> T:
        return await while_wanted(work, wanted, cancel=True)

    batch = await _ask_batch(progress, race)
    if batch is None:
        return
    progress.know_chances(request)
    await _configure(progress, race)
    assert progress.configuration is not None
    if not _find_place(progress):
        # No guard for old histories is needed: they know no configuration with volumes off.
        why = NO_RULE if progress.configuration.job_volume.enabled else NO_PLACE
        progress.leave_unprotected(why, workflow.now())
        return
    if progress.verdict is None:
        progress.verdict = choose_verdict(progress, request, batch, workflow.now())
    if progress.store is None:
        if progress.verdict is Verdict.FRESH:
            progress.show(state=JobState.VOLUME_UNREADY)
        try:
            await bring_volume(progress, request, race)
        except ActivityError as problem:
            if progress.volume is None and caused_by(problem, VolumeQuotaReached):
                progress.volume_asked_for = None  # a plain no: there is none
            elif _is_blank(progress) and caused_by(problem, AttachmentLimitReached):
                await give_up_volume(progress)
            else:  # what the job has saved is on its volume: it waits
                raise
            if not _do_without_volume(progress, problem):
                return
    if progress.volume is not None and progress.volume.blank:
        progress.verdict = Verdict.FRESH  # nothing to restore is on it, and an agent formats no volume for a restore
    if wanted():
        progress.plan(request, progress.verdict, workflow.now())


def _find_place(progress: JobProgress) -> bool:
    """Where the job root lives, once for the job's life: on a volume, or on each node's own disk, with its checkpoints
    in a store. False: nowhere."""
    assert progress.configuration is not None
    if progress.store is not None or progress.volume is not None or progress.volume_asked_for is not None:
        return True
    settings, job = progress.configuration.job_volume, progress.job
    asked = RequestedJob(queue=job.queue, name=job.name, vcpus=job.vcpus, memory_mib=job.memory_mib)
    if settings.enabled and gets_volume(settings.for_jobs, asked):
        return True
    if progress.configuration.store.kind != "none":
        progress.has_store(progress.configuration.store)
    return progress.store is not None


def _is_blank(progress: JobProgress) -> bool:
    return progress.volume is not None and progress.volume.blank


def _do_without_volume(progress: JobProgress, problem: ActivityError) -> bool:
    """The account may have no more volumes, or the instance can hold no more. Whether the job goes on, with its
    checkpoints in the store."""
    assert progress.configuration is not None
    why = in_words(problem)
    if progress.configuration.store.kind == "none":
        progress.leave_unprotected(
            f"no volume could be had for it, and there is no store (store.kind): {why}", workflow.now()
        )
        return False
    progress.has_store(progress.configuration.store)
    progress.tell(
        workflow.now(), "store", f"No volume could be had, so its checkpoints go to the store: {why}", "warning"
    )
    return True


async def refuse_if_ended(progress: JobProgress) -> None:
    """Ask Batch while the newest container waits for its plan; one whose job was ended is refused."""
    epoch = progress.job.epoch
    try:
        batch = await describe_job(progress.job.job_id)
    except ActivityError:
        return  # asked again in a moment
    if batch.terminated and progress.stage is Stage.PREPARING and progress.job.epoch == epoch:
        progress.refuse("the job was ended by its owner", workflow.now())


async def _ask_batch(progress: JobProgress, race: Race) -> BatchJob | None:
    """The job, if it is one that we can protect and that goes on."""
    try:
        batch = await race(describe_job(progress.job.job_id))
    except ActivityError as problem:
        if not caused_by(problem, UnknownJob):
            raise
        progress.leave_unprotected("AWS Batch does not know the job", workflow.now())
        finish_unknown(progress, workflow.now())
        return None
    if batch.final:
        hear_batch(progress, batch, workflow.now())
        return None
    if batch.terminated:
        progress.refuse("the job was ended by its owner", workflow.now())
        return None
    progress.know_batch(batch)
    if batch.container_count > 1:
        progress.leave_unprotected("jobs of several containers cannot be frozen together yet", workflow.now())
        return None
    return batch


async def _configure(progress: JobProgress, race: Race) -> None:
    """Better the values known before, or the defaults, than a container that does not start."""
    try:
        progress.configure(await race(load_configuration()), workflow.now())
    except ActivityError:
        workflow.logger.warning("The configuration could not be read; going on with what is known")
        if progress.configuration is None:
            progress.configure(JobConfiguration(), workflow.now())
