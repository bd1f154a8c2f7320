"""How what nodes and AWS tell about a job changes what its workflow knows. Pure: time is an argument.

Nodes spool their reports and may send one twice, late, or after a newer container has been accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from perdure.contracts.protection import Doubt, NodeReport, ReportKind, RestoreRung, Verdict
from perdure.domain.budget import BudgetColour, predicted
from perdure.domain.checkpoints import Checkpoint, CheckpointKind, droppable
from perdure.domain.jobs import JobState
from perdure.domain.nodes import Notice, NoticeKind
from perdure.domain.outages import CHECK_STEP
from perdure.domain.retries import ENDS, HandOver
from workflows.job_endings import close_outage, open_outage
from workflows.job_rehearsals import hear_rehearsal
from workflows.job_state import HOLDS_CONTAINER, JobProgress, Stage
from workflows.volume_growth import hear_fullness
from workflows.zone_snapshots import hear_use

SOON, SELDOM = timedelta(seconds=20), timedelta(minutes=15)
"""Until Batch is asked about a container that has just started or may be gone unseen; and at most between two looks."""
FROZEN = "frozen"
"""The engine's name for the time from freeze to thaw (key of Checkpoint.phases)."""
BAD_AFTER = 2
"""A checkpoint that failed on so many sound nodes is not tried again (promise 5)."""

_HANDED_OVER = {
    HandOver.END_CONTAINER: "The job is safe. Perdure ended its container, and Batch starts the next attempt.",
    HandOver.STOP_ECS: (
        "The job is safe. Its retry rules only know the host's end, so Perdure stopped the ECS agent and ended the"
        " container unseen: Batch starts the next attempt when the instance is gone."
    ),
    HandOver.STAY_FROZEN: "The job is safe. It stays frozen until its instance is gone; Batch then starts anew.",
    HandOver.KEEP_ONLY: (
        "The job is saved and runs on until its instance goes. No attempt is left: if it does not finish before, Batch "
        "will not start it again, but `resume` can go on from here."
    ),
}


def hear_report(progress: JobProgress, report: NodeReport, now: datetime) -> bool:
    """Take a report in. Whether what to do next may be another thing now: of most facts people hear, and no more."""
    if not progress.first_time(f"report {report.report_id}"):
        return False
    if report.store_use is not None:  # whatever else is to be thought of the report, this has its price
        progress.use_store(report.store_use)
    if report.max_rootfs_bytes is not None:
        known = progress.job.max_rootfs_bytes or 0
        progress.show(max_rootfs_bytes=max(known, report.max_rootfs_bytes))
    if progress.stage is Stage.FINISHED:
        return False
    if report.epoch == 0 and report.kind is ReportKind.REMARK:
        return _hear_of_unprotected(progress, report)
    if report.epoch != progress.job.epoch:
        return _hear_old_report(progress, report)
    matters = _back_in_touch(progress)
    match report.kind:
        case ReportKind.STARTED:
            _started(progress, report, now)
        case ReportKind.CHECKPOINT if report.checkpoint is not None:
            committed(progress, report.checkpoint)
            due = hear_use(progress, report, now)
            return hear_fullness(progress, report, now) or due or matters
        case ReportKind.CHECKPOINT_FAILED:
            _checkpoint_failed(progress, report)
            hear_fullness(progress, report, now)
        case ReportKind.HANDED_OVER:
            handed_over(progress, report.hand_over or HandOver.STAY_FROZEN, report.checkpoint, now)
        case ReportKind.EXITED:
            _exited(progress, report)
        case ReportKind.REHEARSED if report.rehearsal is not None:
            hear_rehearsal(progress, report.rehearsal)
            return matters
        case _:
            _given_up(progress, report)
            kind = "preflight" if report.kind is ReportKind.PREFLIGHT else "remark"
            progress.tell(report.at, kind, report.reason, report.level)
            return matters or report.unprotected
    return True


def _back_in_touch(progress: JobProgress) -> bool:
    """Whether the node had been silent; Batch need not be asked about it any more."""
    if not progress.out_of_touch:
        return False
    progress.out_of_touch = False
    progress.look_at = progress.look_at if progress.doubtful else None
    return True


def hear_doubt(progress: JobProgress, doubt: Doubt, now: datetime) -> bool:
    """The container may be gone unseen. False: not the one that runs, or it is doubted already."""
    current = progress.current
    if progress.stage is not Stage.RUNNING or current is None or doubt.instance_id != current.instance_id:
        return False
    if progress.out_of_touch:
        return False
    progress.out_of_touch, progress.look_at = True, now
    progress.tell(now, "no answer", doubt.reason, "warning")
    return True


def _hear_of_unprotected(progress: JobProgress, report: NodeReport) -> bool:
    """A container that runs without us, and why. It never asked for a plan, so it has no epoch."""
    progress.unprotected = progress.unprotected or progress.job.epoch == 0
    held = progress.current
    elsewhere = held is not None and held.instance_id != report.instance_id and report.at > held.accepted_at
    if progress.stage not in HOLDS_CONTAINER or elsewhere:  # a job has one container: the one we knew is gone
        progress.show(unprotected=report.reason, state=JobState.RUNNING)
    progress.tell(report.at, "unprotected", report.reason, report.level)
    return True


def _hear_old_report(progress: JobProgress, report: NodeReport) -> bool:
    """Of an older epoch only what is still true counts: a checkpoint that lies on the volume."""
    if report.checkpoint is None or not progress.clean_epoch <= report.epoch < progress.job.epoch:
        return False
    committed(progress, report.checkpoint)
    return False


def _started(progress: JobProgress, report: NodeReport, now: datetime) -> None:
    progress.change_current(
        started_at=report.at, restored_from=report.restored_from, restore_failures=len(report.rungs)
    )
    if progress.stage not in HOLDS_CONTAINER:
        return
    # Batch soon sees that a container runs, and tells since when: its time-out counts from there.
    progress.stage, progress.look_at = Stage.RUNNING, now + SOON
    progress.cold_volume = False
    if progress.volume is not None:
        progress.volume = progress.volume.model_copy(update={"forced": False})
    checked = report.phases.get(CHECK_STEP, 0.0)
    progress.milestones = progress.milestones.model_copy(update={"checked_seconds": checked})
    _hear_of_rungs(progress, report)
    for checkpoint in report.found:
        committed(progress, checkpoint)
    _offer(progress, report.found)
    where = progress.current.instance_id if progress.current else report.instance_id
    if report.restored_from is not None:
        close_outage(progress, report.restored_from, report.at)
        message = f"The job goes on from checkpoint {report.restored_from} on {where}."
        progress.tell(report.at, "restored", message)
        progress.show(state=JobState.RESTORE_SUCCEEDED)
        return
    level = "warning" if progress.open_outage is not None else "info"
    close_outage(progress, None, report.at)
    progress.clean_since = report.at
    progress.tell(report.at, "started", f"The job starts clean on {where}{_why_clean(progress, report)}.", level)
    progress.show(state=JobState.RESTORE_FAILED if report.rungs else JobState.RUNNING)


def _hear_of_rungs(progress: JobProgress, report: NodeReport) -> None:
    """Checkpoints that were tried before what the report tells of."""
    for rung in report.rungs:
        blame = " (the node's fault)" if rung.node_fault else " (the cause is in its image)" if rung.image_fault else ""
        message = f"Checkpoint {rung.number} was not restored{blame}: {rung.reason}"
        progress.tell(report.at, "restore failed", message, "warning")
        if not rung.node_fault:
            _count_against(progress, rung, report)


def _count_against(progress: JobProgress, rung: RestoreRung, report: NodeReport) -> None:
    """A checkpoint that no node can restore is quarantined at once, any other once it failed on two sound nodes."""
    nodes = progress.failed_on.setdefault(rung.number, [])
    if report.instance_id not in nodes:
        nodes.append(report.instance_id)
        progress.failed_rungs[rung.number] = progress.failed_rungs.get(rung.number, 0) + 1
    often = progress.failed_rungs.get(rung.number, 0)
    if rung.number not in progress.quarantined and (rung.image_fault or often >= BAD_AFTER):
        progress.quarantined = [*progress.quarantined, rung.number]
        progress.show(quarantined=progress.quarantined)
        why = "no node can restore it" if rung.image_fault else f"it failed on {often} sound nodes"
        progress.tell(report.at, "quarantined", f"Checkpoint {rung.number} will not be tried again: {why}.", "error")


def _why_clean(progress: JobProgress, report: NodeReport) -> str:
    """Why a container that was to go on from a checkpoint does not; empty where it was to start clean."""
    if progress.verdict is not Verdict.RESTORE:
        return ""
    if report.rungs:
        numbers = sorted({rung.number for rung in report.rungs})
        names = f"checkpoint {numbers[0]}" if len(numbers) == 1 else f"checkpoints {', '.join(map(str, numbers))}"
        return f": {names} could not be restored, and no other is left"
    if progress.quarantined:
        return ": its checkpoints are quarantined"
    return ": no checkpoint of it had been committed"


def _given_up(progress: JobProgress, report: NodeReport) -> None:
    """A container that had a plan and is not to follow it: it runs without us, or its start fails."""
    if report.rungs:
        progress.change_current(restore_failures=len(report.rungs))
        _hear_of_rungs(progress, report)
        progress.show(state=JobState.RESTORE_FAILED)
    if report.unprotected:
        progress.show(unprotected=report.reason, state=JobState.RUNNING)


def committed(progress: JobProgress, checkpoint: Checkpoint) -> None:
    """A checkpoint exists. Told as often as one likes, counted once."""
    if not progress.first_time(f"checkpoint {checkpoint.epoch}/{checkpoint.number}"):
        return
    others = [one for one in progress.job.checkpoints if one.number != checkpoint.number]
    _offer(progress, [*others, checkpoint])
    progress.show(
        checkpoints_committed=progress.job.checkpoints_committed + 1,
        checkpoint_failures_in_a_row=0,
        frozen_seconds=progress.job.frozen_seconds + _stood_still(checkpoint),
    )
    size = checkpoint.image_bytes / 2**20
    wrote = (
        "" if checkpoint.written_bytes is None else f"; {checkpoint.written_bytes / 2**20:.1f} MiB were written for it"
    )
    message = f"Checkpoint {checkpoint.number} ({checkpoint.kind}) is committed: {size:.1f} MiB of memory{wrote}."
    progress.tell(checkpoint.committed_at, "checkpoint", message, epoch=checkpoint.epoch)
    _tell_budget(progress, others, checkpoint)


def _tell_budget(progress: JobProgress, others: list[Checkpoint], checkpoint: Checkpoint) -> None:
    """Would a final checkpoint fit into a notice? Told when the answer changes, and when the first one says no."""
    others = sorted(others, key=lambda one: one.number)
    budget, before = predicted([*others, checkpoint]), predicted(others)
    was = before.colour if before else BudgetColour.GREEN
    if budget is None or budget.colour is was or checkpoint.kind is CheckpointKind.FINAL:
        return
    level = "info" if budget.colour is BudgetColour.GREEN else "warning"
    progress.tell(checkpoint.committed_at, "budget", budget.sentence, level, epoch=checkpoint.epoch)


def _stood_still(checkpoint: Checkpoint) -> float:
    """Seconds; of a final one, how long the job stood still is the outage's to tell."""
    return 0.0 if checkpoint.kind is CheckpointKind.FINAL else checkpoint.phases.get(FROZEN, 0.0)


def _offer(progress: JobProgress, checkpoints: Iterable[Checkpoint]) -> None:
    """These lie on the job root; the node keeps the newest ones only."""
    listed = sorted(checkpoints, key=lambda one: one.number)
    keep = progress.configuration.checkpoint.keep if progress.configuration else len(listed)
    gone = set(droppable([one.number for one in listed], keep, {one.number: one.full for one in listed}))
    progress.show(checkpoints=[one for one in listed if one.number not in gone])


def _checkpoint_failed(progress: JobProgress, report: NodeReport) -> None:
    progress.show(
        checkpoint_failures=progress.job.checkpoint_failures + 1,
        checkpoint_failures_in_a_row=progress.job.checkpoint_failures_in_a_row + 1,
        checkpoint_failed_at=report.at,
        checkpoint_failure=report.reason,
        checkpoint_error=report.error,
    )
    final = report.checkpoint_kind is CheckpointKind.FINAL
    progress.final_settled = progress.final_settled or final
    if final or progress.stage is Stage.RUNNING:
        progress.show(state=JobState.CHECKPOINT_FAILED)
    what = "The final checkpoint" if final else "A checkpoint"
    progress.tell(report.at, "checkpoint failed", f"{what} failed and the job runs on: {report.reason}", "warning")


def handed_over(progress: JobProgress, way: HandOver, final: Checkpoint | None, now: datetime) -> None:
    """The node has taken the final checkpoint and let go of the job. Told twice: by the activity and by a report."""
    if final is not None:
        committed(progress, final)
    if progress.current is None or progress.finished or progress.way in {way, *ENDS}:
        return
    progress.final_settled = True
    progress.release = way in ENDS
    if progress.release and progress.volume is not None:
        progress.volume = progress.volume.model_copy(update={"unmounted": True})
    settings = progress.configuration.checkpoint if progress.configuration else None
    progress.leaves = way is HandOver.STOP_ECS and settings is not None and settings.deregister_instance
    if progress.way is None:
        instant = min(final.frozen_at, now) if final else now
        progress.stage = Stage.AWAITING
        progress.change_current(ended_at=instant, end="handed over")
        if way is not HandOver.KEEP_ONLY:  # there, the node lets the job run on: it may still finish
            open_outage(progress, progress.job.epoch, instant, now, final)
        progress.show(state=JobState.CHECKPOINT_SUCCEEDED)
    progress.way = way  # an agent that stayed frozen for want of an answer may end the container after all
    progress.tell(now, "handed over", _HANDED_OVER[way], "error" if way is HandOver.KEEP_ONLY else "info")


def _exited(progress: JobProgress, report: NodeReport) -> None:
    current = progress.current
    if current is None or current.end is not None:
        return
    progress.change_current(ended_at=report.at, end="exited")
    progress.stage = Stage.EXITED
    progress.tell(report.at, "exited", f"The container on {report.instance_id} ended; Batch is asked what follows.")


def hear_notice(progress: JobProgress, notice: Notice, now: datetime) -> bool:
    """AWS announced that an instance goes, or should be left. False: known, or not the node that holds the job."""
    current = progress.current
    if current is None or progress.stage not in HOLDS_CONTAINER or notice.instance_id != current.instance_id:
        return False
    if not progress.first_time(f"notice {progress.job.epoch} {notice.notice_id}"):
        return False
    if notice.kind is NoticeKind.REBALANCE:
        enabled = progress.configuration is not None and progress.configuration.checkpoint.enabled
        # By the agent, as soon as it saw the recommendation: its report follows.
        what = ": a checkpoint is taken at once" if enabled and progress.stage is Stage.RUNNING else ""
        progress.tell(now, "rebalance", f"AWS recommends leaving {notice.instance_id}{what}.")
        return True
    if progress.notice is not None and not progress.final_settled and notice.repeats(progress.notice):
        return False  # told by the agent and by an event: what follows from it is under way
    progress.notice, progress.final_settled, progress.look_at = notice, False, now + SOON
    progress.change_current(noticed_at=notice.seen_at, notice_deadline=notice.deadline)
    progress.interrupted_epochs = [*progress.interrupted_epochs, progress.job.epoch]
    when = f" at {notice.deadline:%H:%M:%S} UTC" if notice.deadline else ""
    progress.tell(now, "notice", f"AWS takes {notice.instance_id} back{when}.", "warning")
    if progress.stage is Stage.PREPARING:
        # Its container is held by the runtime until the host dies; another node will ask.
        progress.stage = Stage.AWAITING
    return True
