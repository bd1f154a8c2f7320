"""Zone snapshots of a job's volume: taken while the job runs, so that a change of zone has little left to move.

After a committed checkpoint, never inside a freeze: the node is not asked, and a notice overtakes the call. Whether one
is due, the domain decides (perdure/domain/zone_snapshots.py). The final snapshot of a move (volume_migration.py) holds
what changed since; that a snapshot here catches the volume in use does no harm, because no job goes on from it.
"""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import RefreshSnapshots, VolumeActivities
    from perdure.contracts.protection import NodeReport
    from perdure.domain.checkpoints import CheckpointKind
    from perdure.domain.prices import Prices, region_of
    from perdure.domain.volumes import SnapshotLife, client_token
    from perdure.domain.zone_snapshots import GIB, Next, hourly_micros, next_snapshot
    from workflows import options
    from workflows.job_state import JobProgress, Stage
    from workflows.racing import while_wanted


def hear_use(progress: JobProgress, report: NodeReport, now: datetime) -> bool:
    """A checkpoint's report tells how the volume is used. Whether a snapshot is due now."""
    if report.volume_use is None or progress.volume is None or progress.configuration is None:
        return False
    known = progress.zone_snapshots = progress.zone_snapshots.heard(report.volume_use)
    final = report.checkpoint is not None and report.checkpoint.kind is CheckpointKind.FINAL
    if final or progress.stage is not Stage.RUNNING or progress.notice is not None:
        return False
    what = next_snapshot(
        known,
        now,
        interval_seconds=progress.configuration.job_volume.zone_snapshot_seconds,
        since=progress.volume.created_at or progress.job.created_at,
        instance_micros=instance_micros(progress, now),
        storage=Prices().storage("snapshot", region_of(progress.volume.zone)),
    )
    if what is Next.TOO_DEAR and not known.refused:
        progress.zone_snapshots = known.model_copy(update={"refused": True})
        _tell_too_dear(progress, report.volume_use.used_bytes, now)
    progress.snapshot_due = what is Next.TAKE
    return progress.snapshot_due


def _tell_too_dear(progress: JobProgress, used_bytes: int, now: datetime) -> None:
    assert progress.volume is not None
    storage = Prices().storage("snapshot", region_of(progress.volume.zone))
    hourly = float(hourly_micros(used_bytes, storage)) / 1e6 if storage else 0.0
    message = (
        f"No snapshots are taken while the job runs: of {used_bytes / GIB:.0f} GiB they would cost ${hourly:.4f} an"
        " hour, more than a tenth of the instance. A change of zone moves the whole volume."
    )
    progress.tell(now, "zone snapshot", message)


def instance_micros(progress: JobProgress, now: datetime) -> int | None:
    """Micro-dollars an hour of the instance that holds the job, as our table estimates; None: not known."""
    if progress.request is None or not progress.request.instance_type:
        return None
    return Prices().spot(progress.request.instance_type, progress.request.zone).at(now)


async def take_zone_snapshot(progress: JobProgress) -> None:
    """Begin one, and delete what it supersedes. Whatever comes of it, the job runs on."""
    progress.snapshot_due = False
    volume, number = progress.volume, progress.zone_snapshots.number + 1
    if volume is None or progress.configuration is None:
        return
    before = progress.zone_snapshots
    progress.zone_snapshots = before.asked(workflow.now())
    work = workflow.start_activity_method(
        VolumeActivities.refresh_snapshots,
        RefreshSnapshots(
            job_id=progress.job.job_id,
            volume_id=volume.volume_id,
            token=client_token(progress.job.job_id, "zone snapshot", volume.volume_id, number),
            tags=progress.configuration.job_volume.tags,
        ),
        summary=f"zone snapshot {number} of {volume.volume_id}",
        **options.ZONE_SNAPSHOT,
    )
    try:
        found = await while_wanted(work, lambda: _may_wait(progress))
    except ActivityError as problem:
        message = f"No snapshot was taken of {volume.volume_id}, a change of zone would move more: {problem.cause}"
        if message != before.trouble:  # where calls are scarce, it may fail each time
            progress.tell(workflow.now(), "zone snapshot", message, "warning")
        progress.zone_snapshots = before.model_copy(update={"trouble": message, "number": number})
        return
    if found.made is None:  # the one before is not completed yet: the next checkpoint asks again
        progress.zone_snapshots = before.seen(found.snapshots)
        return
    progress.zone_snapshots = progress.zone_snapshots.seen(found.snapshots)
    begin_life(progress, found.made, volume.volume_id, workflow.now())
    use = progress.zone_snapshots.use
    size = "" if use is None else f" ({use.used_bytes / GIB:.2f} GiB in use)"
    progress.tell(workflow.now(), "zone snapshot", f"Snapshot {found.made} of {volume.volume_id} is begun{size}.")


def _may_wait(progress: JobProgress) -> bool:
    """Nothing more urgent is wanted of the job."""
    return progress.stage is Stage.RUNNING and progress.notice is None and None not in progress.wishes.values()


async def look_at_snapshots(progress: JobProgress) -> None:
    """Which of them are completed by now, before a move. Not knowing does no harm: the move is predicted as cold."""
    if not progress.zone_snapshots.number:
        return
    try:
        found = await workflow.execute_activity_method(
            VolumeActivities.refresh_snapshots,
            RefreshSnapshots(job_id=progress.job.job_id, job_waits=True),
            summary="which zone snapshots are completed?",
            **options.GLANCE,
        )
    except ActivityError:
        return
    progress.zone_snapshots = progress.zone_snapshots.seen(found.snapshots)


async def drop_zone_snapshots(progress: JobProgress) -> None:
    """The job is over: no snapshot of it is needed."""
    if not progress.zone_snapshots.number:
        return
    try:
        await workflow.execute_activity_method(
            VolumeActivities.refresh_snapshots,
            RefreshSnapshots(job_id=progress.job.job_id, keep_newest=False),
            summary="delete the zone snapshots",
            **options.CLEAN_UP,
        )
    except ActivityError as problem:
        message = f"The job's zone snapshots could not be deleted and still cost money: {problem.cause}"
        progress.tell(workflow.now(), "left behind", message, "error")
        return
    end_lives(progress, workflow.now())


def begin_life(progress: JobProgress, snapshot_id: str, volume_id: str, now: datetime) -> None:
    """For what it cost. The snapshots of one volume follow each other and share their blocks: they count as one."""
    use = progress.zone_snapshots.use
    size = 1 if use is None else -(-use.used_bytes // GIB)
    lives = list(progress.job.snapshots)
    for index, life in enumerate(lives):
        if life.volume_id == volume_id and life.deleted_at is None:
            lives[index] = life.model_copy(update={"size_gib": max(life.size_gib, size)})
            break
    else:
        lives.append(SnapshotLife(snapshot_id=snapshot_id, volume_id=volume_id, size_gib=size, created_at=now))
    progress.show(snapshots=lives)


def end_lives(progress: JobProgress, now: datetime, but: str = "") -> None:
    """None of the job's snapshots exists any more, but for that one."""
    lives = [
        life if life.deleted_at or life.snapshot_id == but else life.model_copy(update={"deleted_at": now})
        for life in progress.job.snapshots
    ]
    progress.show(snapshots=lives)
