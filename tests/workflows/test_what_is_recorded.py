"""The states that people see, each when it is true, and the facts that reports are worked out of."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure.contracts.protection import ReportKind, RestoreRung, Verdict
from perdure.domain.checkpoints import Rehearsal, RehearsalVerdict
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.jobs import JobState
from tests.fakes import HOST_LOST, RETRY_ALL
from tests.workflows.story import Story
from tests.workflows.test_reclaims import reclaimed

SKEW = timedelta(seconds=5)
SHOWN = 22.3
"""Seconds after which a state that passes has passed."""
BAD = RestoreRung(number=1, reason="a byte of pages-1.img is wrong")


@pytest.mark.usefixtures("impatient")
async def test_every_state_is_shown_while_it_is_true(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=600))
    node = await story.node("i-1")
    story.cloud.volume_gate.clear()
    asking = asyncio.create_task(story.attach("i-1", "zone-a"))
    await story.until(lambda: "create_volume" in story.cloud.calls)
    await story.reaches(JobState.VOLUME_UNREADY)
    story.cloud.volume_gate.set()
    reply = await asking
    await story.reaches(JobState.CREATED)
    node.epoch = reply.epoch
    story.cloud.attempt_runs(story.job_id, await story.now())
    await story.report(ReportKind.STARTED, "i-1", 1)
    await story.reaches(JobState.RUNNING)
    node.gate.clear()
    wish = asyncio.create_task(story.wish("w-1"))
    await story.reaches(JobState.CHECKPOINTING)
    node.failure = "a process is traced"
    node.gate.set()
    assert (await wish).failure
    await story.reaches(JobState.CHECKPOINT_FAILED)
    await story.sleep(SHOWN)
    await story.reaches(JobState.RUNNING)
    node.failure = ""
    await reclaimed(story, "i-1")
    await story.reaches(JobState.CHECKPOINT_SUCCEEDED)
    await story.node("i-2")
    story.cloud.mounted.add("vol-1")  # the instance that went still has it
    asking = asyncio.create_task(story.attach("i-2", "zone-b", 2))
    await story.reaches(JobState.RESTORE_VOLUME_UNREADY)
    story.cloud.mounted.clear()
    assert (await asking).verdict is Verdict.RESTORE
    await story.reaches(JobState.RESTORING)
    story.cloud.attempt_runs(story.job_id, await story.now())
    await story.report(ReportKind.STARTED, "i-2", 2, restored_from=1, found=node.taken)
    await story.reaches(JobState.RESTORE_SUCCEEDED)
    shown = (await story.handle.describe()).search_attributes
    assert shown["PerdureState"] == ["Running"], "each change of an attribute is an event in the history"
    await story.sleep(SHOWN)
    await story.reaches(JobState.RUNNING)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), status_reason=HOST_LOST)
    assert (await story.attach("i-3", "zone-b", 3)).verdict is Verdict.RESTORE
    story.cloud.attempt_runs(story.job_id, await story.now())
    await story.report(ReportKind.STARTED, "i-3", 3, rungs=[BAD])
    job = await story.reaches(JobState.RESTORE_FAILED)
    assert job.attempts[-1].restore_failures == 1
    await story.sleep(SHOWN)
    await story.reaches(JobState.RUNNING)
    story.cloud.job(story.job_id, terminated=True)
    await story.ends("FAILED", exit_code=143)
    assert story.cloud.states[0] is JobState.CREATING and story.cloud.states[-1] is JobState.STOPPED
    passing = {JobState.RESTORE_SUCCEEDED, JobState.RESTORE_FAILED, JobState.CHECKPOINT_FAILED}
    assert passing <= set(story.cloud.states), "the records have seen them too"


@pytest.mark.recorded("costs")
async def test_a_reclaim_leaves_all_that_costs_are_worked_out_of(story: Story) -> None:
    story.cloud.job(story.job_id, timeout_seconds=36_000)
    begun = await story.now()
    await story.run_on("i-1", "zone-a")
    assert (await story.wish("w-1")).checkpoint is not None
    await story.sleep(304.3)
    await reclaimed(story, "i-1")
    freed = await story.now()
    # The second node dies before the job goes on there: Batch lists its container, and does not count it.
    await story.attach("i-2", "zone-b", 2)
    await story.sleep(55)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), started_at=None, status_reason=HOST_LOST)
    restarted = await story.now()
    rungs = [BAD.model_copy(update={"number": 2})]
    await story.run_on("i-3", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken[:1], rungs=rungs)
    await story.sleep(63)
    job = await story.ends()

    assert (job.retry, job.timeout_seconds, job.attempts_left) == (RETRY_ALL, 36_000, 0)
    assert job.frozen_seconds == 1.75, "the final checkpoint's freeze is the outage's"
    assert job.changed_at is not None and job.finished_at is not None and job.changed_at >= job.finished_at
    first, second, third = job.attempts
    assert first.noticed_at is not None and first.notice_deadline is not None
    assert (second.noticed_at, third.noticed_at, third.restore_failures) == (None, None, 1)
    # As Batch counts: the first until its container ended, after the dump; the dead start not at all.
    assert first.batch_started_at is not None and begun <= first.batch_started_at <= first.accepted_at + SKEW
    assert first.ended_at is not None and first.batch_stopped_at is not None
    assert first.ended_at <= first.batch_stopped_at <= freed + SKEW
    assert (second.batch_started_at, second.batch_stopped_at) == (None, None)
    assert third.batch_started_at is not None and third.batch_started_at >= restarted
    assert third.batch_stopped_at == job.finished_at
    old, new = job.volumes
    (snapshot,) = job.snapshots
    assert (old.volume_id, old.zone, new.volume_id, new.zone) == ("vol-1", "zone-a", "vol-2", "zone-b")
    assert (old.volume_type, old.size_gib, snapshot.volume_id) == ("gp3", 100, "vol-1")
    assert old.deleted_at is not None and new.deleted_at is not None and snapshot.deleted_at is not None
    assert begun <= old.created_at < snapshot.created_at <= snapshot.deleted_at <= new.created_at <= new.deleted_at
    assert snapshot.created_at <= old.deleted_at <= new.deleted_at
    assert story.cloud.recorded(story.job_id) == job


async def test_batch_is_asked_once_a_container_runs(story: Story) -> None:
    story.cloud.job(story.job_id, status="STARTING")
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=10))
    await story.run_on("i-1", "zone-a")
    begun = story.cloud.batch[story.job_id].started_at
    asked = story.cloud.calls.count("describe_job")
    await story.sleep(42.3)
    assert len(story.nodes["i-1"].taken) >= 3
    await story.until(lambda: story.cloud.calls.count("describe_job") > asked)
    job = await story.job()
    assert job.batch_status == "RUNNING" and job.attempts[0].batch_started_at == begun
    assert story.cloud.calls.count("describe_job") == asked + 1, "and not again while all is well"
    await story.ends()


async def test_a_job_that_runs_without_us_says_why(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=600))
    await story.run_on("i-1", "zone-a")
    assert (await story.job()).unprotected == ""
    for number in (1, 2):
        failed = {"reason": "only 3 MiB are free", "error": "JobRootFull", "report_id": f"failed-{number}"}
        await story.report(ReportKind.CHECKPOINT_FAILED, "i-1", 1, **failed)
    job = await story.job()
    assert (job.checkpoint_failures_in_a_row, job.checkpoint_error) == (2, "JobRootFull")
    assert job.checkpoint_failure == "only 3 MiB are free" and job.checkpoint_failed_at is not None
    assert (await story.wish("w-1")).checkpoint is not None
    assert (await story.job()).checkpoint_failures_in_a_row == 0
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), status_reason=HOST_LOST)
    await story.attach("i-2", "zone-a", 2)
    for _ in range(2):
        more = {"reason": "The container runs unprotected: no CRIU", "unprotected": True, "report_id": "given-up"}
        await story.report(ReportKind.REMARK, "i-2", 2, rungs=[BAD], **more)
    job = await story.job()
    assert (job.state, job.unprotected) == (JobState.RUNNING, "The container runs unprotected: no CRIU")
    assert job.attempts[-1].restore_failures == 1
    await story.ends()


async def test_rehearsals_are_shown_counted_and_told(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    at = await story.now()
    for number, verdict, reason in (
        (1, RehearsalVerdict.NOT_TRIED, "no memory is free"),
        (2, RehearsalVerdict.FAILED, "a file has bad size 771"),
        (4, RehearsalVerdict.FAILED, "a file has bad size 982"),
        (5, RehearsalVerdict.NOT_TRIED, "no memory is free any more"),
    ):
        one = Rehearsal(number=number, epoch=1, at=at, verdict=verdict, reason=reason, seconds=2.5)
        for _ in range(2):  # a node may send a report twice
            await story.report(ReportKind.REHEARSED, "i-1", 1, rehearsal=one, report_id=f"rehearsed-{number}")
    await story.until(lambda: len([kind for kind in story.cloud.kinds(story.job_id) if kind == "rehearsal"]) == 3)
    job = await story.job()
    assert job.rehearsal is not None and (job.rehearsal.number, job.rehearsal.verdict) == (4, RehearsalVerdict.FAILED)
    assert (job.rehearsals, job.rehearsal_failures) == (2, 2)
    lines = [line for line in story.cloud.events[story.job_id].values() if line.kind == "rehearsal"]
    assert [line.level for line in lines] == ["info", "error", "info"], "the same failure is told once"
    assert "not rehearsed: no memory is free" in lines[0].message and "not safe: a file" in lines[1].message
