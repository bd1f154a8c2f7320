"""The end of a job's volume: deleted with its job, kept where there is a reason, given up where it cannot be used, and
left where the job starts clean in another zone."""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import DetachVolume, VolumeActivities, VolumeRef
    from perdure.contracts.protection import Verdict
    from perdure.domain.errors import VolumeGone
    from perdure.domain.volumes import JobVolume
    from perdure.domain.zone_snapshots import ZoneSnapshots
    from workflows import options
    from workflows.job_questions import caused_by, in_words
    from workflows.job_state import JobProgress, Stage
    from workflows.racing import while_wanted
    from workflows.volume_lives import began, ended
    from workflows.zone_moves import predict


async def give_up_volume(progress: JobProgress) -> None:
    """The instance cannot hold it, and nothing is on it yet: the job does without, at least on this instance."""
    volume = progress.volume
    assert volume is not None and volume.blank
    try:
        await workflow.execute_activity_method(
            VolumeActivities.delete_volume,
            VolumeRef(volume_id=volume.volume_id),
            summary=f"delete {volume.volume_id}, which was never used",
            **options.LOOK,
        )
        ended(progress, volume.volume_id, workflow.now())
    except ActivityError as problem:
        message = f"Volume {volume.volume_id} could not be deleted and still costs money: {in_words(problem)}"
        progress.tell(workflow.now(), "left behind", message, "warning")
    # EC2 answers this one's token with this one for ever: the next volume has another.
    progress.volume, progress.volumes_lost = None, progress.volumes_lost + 1
    progress.show(volume_id=None, volume_zone=None)


def starts_clean(progress: JobProgress) -> bool:
    """A clean start empties the volume first: nothing that is on it is needed."""
    clean = progress.verdict is Verdict.FRESH and not progress.job.checkpoints
    return clean and workflow.patched("clean starts move nothing")


def leave_volume(progress: JobProgress, zone: str, now: datetime) -> None:
    """The job starts clean in another zone, where it gets a new volume: quicker than to move bytes that nobody needs.
    This one goes as soon as nobody waits."""
    volume = progress.volume
    assert volume is not None
    message = (
        f"The job starts clean, so nothing moves from {volume.zone} to {zone}: a new volume is made there. To move"
        f" {volume.volume_id} was predicted to take {predict(progress, now).seconds:.0f} s."
    )
    progress.tell(now, "migration", message)
    progress.left_volumes = [*progress.left_volumes, volume]
    # The new one's snapshots have nothing in common with those of this one, which go at the job's end.
    progress.zone_snapshots = ZoneSnapshots(number=progress.zone_snapshots.number)
    progress.volume, progress.volumes_lost = None, progress.volumes_lost + 1
    progress.show(volume_id=None, volume_zone=None)


async def drop_left_volume(progress: JobProgress) -> None:
    """Delete one that the job has left. Overtaken by anything that the running job needs; called again, it goes on."""
    volume = progress.left_volumes[0]

    def may_wait() -> bool:
        running = progress.stage is Stage.RUNNING and not progress.doubtful and None not in progress.wishes.values()
        return running or progress.finished

    try:
        await while_wanted(_detach(volume, "the job left it"), may_wait)
        await while_wanted(_delete(volume), may_wait)
        ended(progress, volume.volume_id, workflow.now())
        progress.tell(workflow.now(), "volume", f"Volume {volume.volume_id} in {volume.zone} is deleted.")
    except ActivityError as problem:
        if caused_by(problem, VolumeGone):
            ended(progress, volume.volume_id, workflow.now())
        else:
            message = f"Volume {volume.volume_id} could not be deleted and still costs money: {in_words(problem)}"
            progress.tell(workflow.now(), "left behind", message, "warning")
    progress.left_volumes = progress.left_volumes[1:]


def _detach(volume: JobVolume, why: str) -> workflow.ActivityHandle[JobVolume]:
    return workflow.start_activity_method(
        VolumeActivities.detach_volume,
        DetachVolume(volume_id=volume.volume_id, instance_id=volume.attached_to, unmounted=volume.unmounted),
        summary=f"{volume.volume_id}: {why}",
        **options.CLEAN_UP,
    )


def _delete(volume: JobVolume) -> workflow.ActivityHandle[None]:
    return workflow.start_activity_method(
        VolumeActivities.delete_volume,
        VolumeRef(volume_id=volume.volume_id),
        summary=f"delete {volume.volume_id}",
        **options.CLEAN_UP,
    )


async def _hear_of_volume(progress: JobProgress) -> None:
    """The job ended while its volume was being made. Asking again for the same one (its token) tells which it is."""
    if progress.volume_asked_for is None:
        return
    wanted = progress.volume_asked_for
    try:
        volume = await workflow.execute_activity_method(
            VolumeActivities.create_volume, wanted, summary="was the volume made?", **options.CLEAN_UP
        )
    except ActivityError as problem:
        message = f"Whether a volume in {wanted.zone} was made is not known; it would cost money: {problem.cause}"
        progress.tell(workflow.now(), "left behind", message, "error")
        return
    progress.has_volume(volume)
    began(progress, volume, wanted.volume_type, wanted.options, workflow.now())


async def _detach_kept(progress: JobProgress, volume: JobVolume) -> None:
    """A kept volume is left attached to nothing: what is attached later is in use by a person, and never deleted."""
    if volume.attached_to is None or not workflow.patched("detach kept volumes"):
        return
    try:
        await workflow.execute_activity_method(
            VolumeActivities.detach_volume,
            DetachVolume(volume_id=volume.volume_id, instance_id=volume.attached_to, unmounted=volume.unmounted),
            summary=f"{volume.volume_id} is kept",
            **options.CLEAN_UP,
        )
    except ActivityError as problem:
        message = f"Volume {volume.volume_id} could not be detached from {volume.attached_to}: {in_words(problem)}"
        progress.tell(workflow.now(), "left behind", message, "warning")
        return
    progress.has_volume(volume.model_copy(update={"attached_to": None, "unmounted": False}))


async def put_away_volume(progress: JobProgress) -> None:
    """The job is over: delete its volume, unless there is a reason to keep it."""
    await _hear_of_volume(progress)
    volume = progress.volume
    if volume is None:
        return
    if progress.keep_volume:
        await _detach_kept(progress, volume)
        message = f"Volume {volume.volume_id} with the job's checkpoints is kept: {progress.keep_volume}."
        progress.tell(workflow.now(), "kept", message, "warning")
        return
    try:
        await _detach(volume, "the job is over")
        await _delete(volume)
    except ActivityError as problem:
        if not caused_by(problem, VolumeGone):
            message = f"Volume {volume.volume_id} could not be deleted and still costs money: {problem.cause}"
            progress.tell(workflow.now(), "left behind", message, "error")
            return
    progress.volume = None
    ended(progress, volume.volume_id, workflow.now())
    progress.show(volume_id=None, volume_zone=None, checkpoints=[])
    progress.tell(workflow.now(), "volume", f"Volume {volume.volume_id} is deleted.")
