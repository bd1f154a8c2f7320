"""A job volume that is nearly full is made larger while its job runs, and the agent then has its file system grow.

After a checkpoint, or one that did not fit, never inside a freeze: the node is not asked, and a notice overtakes the
call. Whether it is time, the domain decides (perdure/domain/volumes.py).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import GrowVolume, VolumeActivities
    from perdure.contracts.protection import NodeReport
    from perdure.domain.errors import JobRootFull
    from perdure.domain.volumes import grown_size
    from workflows import options
    from workflows.job_questions import in_words
    from workflows.job_state import JobProgress, Stage
    from workflows.racing import while_wanted

BETWEEN = timedelta(hours=1)
"""EC2 allows few changes of one volume: a refused one is not asked for at each checkpoint."""


def hear_fullness(progress: JobProgress, report: NodeReport, now: datetime) -> bool:
    """A report tells how full the volume is. Whether it is to be made larger now."""
    if progress.volume is None or progress.configuration is None or progress.stage is not Stage.RUNNING:
        return False
    no_room = report.error == JobRootFull.__name__
    if progress.notice is not None or (report.volume_use is None and not no_room):
        return False
    if progress.grow_asked_at is not None and now - progress.grow_asked_at < BETWEEN:
        return False
    used = report.volume_use.used_bytes if report.volume_use else 0
    most = progress.configuration.job_volume.grow_to_gib
    progress.grow_to = grown_size(progress.volume.size_gib, most, used, no_room=no_room) or 0
    return progress.grow_to > 0


async def grow_volume(progress: JobProgress) -> None:
    """Make it larger. Whatever comes of it, the job runs on.

    The volume counts as large from the moment at which that is asked for: an answer may be lost, and a volume that is
    made from its snapshot must not be smaller than it.
    """
    volume, size_gib, progress.grow_to = progress.volume, progress.grow_to, 0
    if volume is None:
        return
    progress.grow_asked_at = workflow.now()
    progress.has_volume(volume.model_copy(update={"size_gib": size_gib}))
    work = workflow.start_activity_method(
        VolumeActivities.grow_volume,
        GrowVolume(volume_id=volume.volume_id, size_gib=size_gib),
        summary=f"{volume.volume_id}: {volume.size_gib} → {size_gib} GiB",
        **options.GROW,
    )
    try:
        await while_wanted(work, lambda: progress.stage is Stage.RUNNING and progress.notice is None)
    except ActivityError as problem:
        if isinstance(problem.cause, ApplicationError) and progress.volume is not None:  # a plain no
            progress.has_volume(progress.volume.model_copy(update={"size_gib": volume.size_gib}))
        message = f"Volume {volume.volume_id} is nearly full and could not be made larger: {in_words(problem)}"
        progress.tell(workflow.now(), "volume", message, "warning")
        return
    lives = [
        life.model_copy(update={"size_gib": size_gib}) if life.volume_id == volume.volume_id else life
        for life in progress.job.volumes
    ]
    progress.show(volumes=lives)
    message = f"Volume {volume.volume_id} was nearly full: it has {size_gib} GiB now, {volume.size_gib} before."
    progress.tell(workflow.now(), "volume", message)
