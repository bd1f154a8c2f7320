"""The job volume's way: it is made, brought to the node that needs it, freed by the node that goes, deleted in the end.

Only the job's workflow calls this. An attach may succeed although its answer is lost, so a volume counts as attached
from the moment at which the attach is asked for. The next node's way begins with a detach. Asking twice does no harm:
attach and detach are idempotent.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import AttachVolume, CreateVolume, DetachVolume, VolumeActivities
    from perdure.contracts.migration import MigrationInput, MigrationResult
    from perdure.contracts.protection import AttachRequest
    from perdure.domain.configuration import JobVolumeConfiguration
    from perdure.domain.errors import VolumeGone
    from perdure.domain.volumes import (
        JobVolume,
        VolumeOptions,
        VolumeStep,
        client_token,
        fitting,
        freed_in_words,
        next_volume_step,
    )
    from perdure.domain.zone_snapshots import GIB, SnapshotState, ZoneSnapshot
    from workflows import options
    from workflows.job_questions import caused_by
    from workflows.job_state import JobProgress
    from workflows.volume_end import leave_volume, starts_clean
    from workflows.volume_lives import began, ended
    from workflows.zone_moves import tell_outcome, tell_ways
    from workflows.zone_snapshots import end_lives, look_at_snapshots

T = TypeVar("T")


class Race(Protocol):
    """Awaits an activity as long as its result is wanted; raises when it no longer is."""

    def __call__(self, work: workflow.ActivityHandle[T]) -> Awaitable[T]: ...


async def bring_volume(progress: JobProgress, request: AttachRequest, race: Race) -> None:
    """Have the job volume attached to the asking node. Raises ActivityError or ChildWorkflowError, and what `race`
    raises; called again, it goes on from where the volume then is."""
    assert progress.configuration is not None
    settings = progress.configuration.job_volume
    while True:
        try:
            match next_volume_step(progress.volume, request.zone, request.instance_id):
                case VolumeStep.CREATE:
                    await _create(progress, request, settings, race)
                case VolumeStep.MIGRATE if starts_clean(progress):
                    leave_volume(progress, request.zone, workflow.now())
                case VolumeStep.MIGRATE:
                    await _migrate(progress, request, settings)
                case VolumeStep.ATTACH | VolumeStep.KEEP:
                    await _attach(progress, request, race)
                    return
        except (ActivityError, ChildWorkflowError) as problem:
            if progress.volume is None or not caused_by(problem, VolumeGone):
                raise
            gone = progress.volume.volume_id
            ended(progress, gone, workflow.now())
            progress.volume, progress.volumes_lost = None, progress.volumes_lost + 1
            progress.show(checkpoints=[], volume_id=None, volume_zone=None)
            message = f"Volume {gone} no longer exists, and the job's checkpoints with it: the job starts clean."
            progress.tell(workflow.now(), "volume lost", message, "error")


async def _create(progress: JobProgress, request: AttachRequest, settings: JobVolumeConfiguration, race: Race) -> None:
    size_gib, made_with = _made_for(progress, settings)
    progress.volume_asked_for = CreateVolume(
        job_id=progress.job.job_id,
        zone=request.zone,
        volume_type=settings.volume_type,
        size_gib=size_gib,
        options=made_with,
        # Not by epoch: a second container must find the volume that was made for the first.
        token=client_token(progress.job.job_id, "volume", progress.volumes_lost, request.zone),
        tags=settings.tags,
    )
    work = workflow.start_activity_method(
        VolumeActivities.create_volume,
        progress.volume_asked_for,
        summary=f"{size_gib} GiB {settings.volume_type} in {request.zone}",
        **options.VOLUME,
    )
    volume = (await race(work)).model_copy(update={"blank": True})
    progress.has_volume(volume)
    began(progress, volume, settings.volume_type, made_with, workflow.now())
    fast = f", {made_with.throughput_mib_per_second} MiB/s" if made_with.throughput_mib_per_second else ""
    message = f"Volume {volume.volume_id} was made in {volume.zone}: {volume.size_gib} GiB{fast}."
    progress.tell(workflow.now(), "volume", message)


def _made_for(progress: JobProgress, settings: JobVolumeConfiguration) -> tuple[int, VolumeOptions]:
    assert progress.configuration is not None
    return settings.made_for(progress.job.memory_mib, progress.configuration.checkpoint.keep)


async def _attach(progress: JobProgress, request: AttachRequest, race: Race) -> None:
    volume = progress.volume
    assert volume is not None
    if volume.attached_to not in {None, request.instance_id}:
        volume = await _detach(progress, volume, race)
    progress.has_volume(volume.model_copy(update={"attached_to": request.instance_id, "unmounted": False}))
    work = workflow.start_activity_method(
        VolumeActivities.attach_volume,
        AttachVolume(volume_id=volume.volume_id, instance_id=request.instance_id),
        summary=f"{volume.volume_id} to {request.instance_id}",
        **options.VOLUME,
    )
    await race(work)


async def _detach(progress: JobProgress, volume: JobVolume, race: Race) -> JobVolume:
    """Wait for the instance that went to let go, and keep the seconds that took."""
    since = workflow.time()
    work = workflow.start_activity_method(
        VolumeActivities.detach_volume,
        DetachVolume(volume_id=volume.volume_id, instance_id=volume.attached_to, unmounted=volume.unmounted),
        summary=f"{volume.volume_id} from {volume.attached_to}",
        **options.VOLUME,
    )
    freed = await race(work)
    _spent_detaching(progress, workflow.time() - since)
    return _is_free(progress, volume, forced=freed.forced)


def _is_free(progress: JobProgress, volume: JobVolume, *, forced: bool) -> JobVolume:
    """EC2 has let go of it, `forced` or not; what that means for the next mount is told."""
    if forced:
        message = f"EC2 did not let go of {volume.volume_id} although it was unmounted: it was taken by force."
        message += " Its file system is checked at the next mount."
        progress.tell(workflow.now(), "volume", message, "warning")
    free = volume.model_copy(update={"attached_to": None, "unmounted": False, "forced": volume.forced or forced})
    progress.has_volume(free)
    return free


async def _migrate(progress: JobProgress, request: AttachRequest, settings: JobVolumeConfiguration) -> None:
    """Never given up half-way, even if a newer container comes meanwhile: that one goes on from where this ends."""
    volume = progress.volume
    assert volume is not None
    await look_at_snapshots(progress)
    since, predicted = workflow.time(), tell_ways(progress, request.zone, workflow.now())
    warm = progress.zone_snapshots.number > 0
    _, wanted = _made_for(progress, settings)
    volume_type, made_with = fitting(settings.volume_type, volume.size_gib, wanted)
    moved: MigrationResult = await workflow.execute_child_workflow(
        names.VOLUME_MIGRATION,
        MigrationInput(
            job_id=progress.job.job_id,
            epoch=progress.job.epoch,
            volume=volume,
            zone=request.zone,
            volume_type=volume_type,
            options=made_with,
            initialization_mib_per_second=settings.initialization_mib_per_second,
            keep_snapshot=warm,
            tags=settings.tags,
        ),
        id=names.migration_workflow_id(progress.job.job_id, progress.job.epoch),
        result_type=MigrationResult,
        task_queue=names.CONTROL_QUEUE,
        parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        static_summary=f"{volume.zone} → {request.zone}: {volume.volume_id}",
    )
    _spent_detaching(progress, moved.phases.get("detached", 0.0))
    if volume.volume_id not in moved.left_behind:
        ended(progress, volume.volume_id, workflow.now())
    began(progress, moved.volume, volume_type, made_with, workflow.now())
    _note_snapshots(progress, moved, keep=warm)
    _is_free(progress, volume, forced=moved.forced)
    progress.has_volume(moved.volume.model_copy(update={"forced": volume.forced or moved.forced}))
    progress.cold_volume = True
    tell_outcome(progress, moved, predicted, workflow.time() - since, workflow.now())
    if moved.left_behind:
        left = ", ".join(moved.left_behind)
        progress.tell(workflow.now(), "left behind", f"{left} could not be deleted and still costs money.", "warning")


def _note_snapshots(progress: JobProgress, moved: MigrationResult, *, keep: bool) -> None:
    """The snapshot that moved the volume stays when zone snapshots are taken: the next one builds on it."""
    if moved.snapshot is None:
        return
    snapshot = moved.snapshot
    if keep:
        end_lives(progress, workflow.now())
        snapshot = snapshot.model_copy(update={"volume_id": moved.volume.volume_id})
        use = progress.zone_snapshots.use
        size = snapshot.size_gib if use is None else -(-use.used_bytes // GIB)
        snapshot = snapshot.model_copy(update={"size_gib": size})
        base = ZoneSnapshot(
            snapshot_id=snapshot.snapshot_id,
            volume_id=moved.volume.volume_id,
            state=SnapshotState.COMPLETED,
            started_at=snapshot.created_at,
        )
        progress.zone_snapshots = progress.zone_snapshots.asked(workflow.now()).seen([base])
    progress.show(snapshots=[*progress.job.snapshots, snapshot])


def _spent_detaching(progress: JobProgress, seconds: float) -> None:
    known = progress.milestones
    progress.milestones = known.model_copy(update={"detach_seconds": known.detach_seconds + seconds})


async def free_volume(progress: JobProgress, race: Race) -> None:
    """The node unmounted the volume: have it `available` before the next node asks. No harm if that fails: the next
    node's attach begins with the same call."""
    progress.release = False
    volume = progress.volume
    if volume is None or volume.attached_to is None:
        return
    work = workflow.start_activity_method(
        VolumeActivities.detach_volume,
        DetachVolume(
            volume_id=volume.volume_id,
            instance_id=volume.attached_to,
            unmounted=True,
            deadline=progress.notice.deadline if progress.notice else None,
        ),
        summary=f"{volume.volume_id} from {volume.attached_to}, inside the notice",
        **options.VOLUME,
    )
    freed = await race(work)
    _is_free(progress, volume, forced=freed.forced)
    progress.milestones = progress.milestones.model_copy(update={"available_at": workflow.now()})
    said, level = freed_in_words(volume.volume_id, progress.notice.ends_at if progress.notice else None, workflow.now())
    progress.tell(workflow.now(), "volume", said, level)
