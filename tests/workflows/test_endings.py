"""Who may run, and what an end means: fencing, the job's own failures, the last attempt, unprotected jobs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import WorkflowUpdateFailedError

from perdure.contracts import names
from perdure.contracts.control import BatchAttempt
from perdure.contracts.protection import JobProtectionInput, ReportKind, Verdict
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.jobs import JobState
from perdure.domain.retries import RetryStrategy
from tests.fakes import HOST_LOST
from tests.workflows.story import Story
from tests.workflows.test_reclaims import ENDED_BY_US, LOST, reclaimed


async def test_the_same_container_gets_the_same_answer(story: Story) -> None:
    first = await story.attach("i-1", "zone-a")
    assert await story.attach("i-1", "zone-a") == first
    assert (await story.job()).epoch == 1 and story.cloud.calls.count("create_volume") == 1


async def test_an_older_container_is_refused(story: Story) -> None:
    await story.attach("i-1", "zone-a", container="old")
    reply = await story.attach("i-2", "zone-a", container="new")  # died while it started: the same attempt number
    assert reply.epoch == 2
    assert (await story.attach("i-1", "zone-a", container="old")).verdict is Verdict.REFUSED
    await story.attach("i-3", "zone-a", 2)
    stale = await story.attach("i-4", "zone-a", 1)
    assert stale.verdict is Verdict.REFUSED and "newer container" in stale.reason
    assert (await story.job()).epoch == 3


async def test_reports_of_an_older_epoch_change_nothing(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.run_on("i-2", "zone-a", 2)
    for kind in (ReportKind.EXITED, ReportKind.STARTED, ReportKind.CHECKPOINT_FAILED, ReportKind.HANDED_OVER):
        await story.report(kind, "i-1", 1, reason="late")
    await story.notice("i-1")
    job = await story.job()
    assert job.state is JobState.RUNNING and job.attempts[-1].end is None and job.checkpoint_failures == 0
    await story.ends()


async def test_an_old_checkpoint_is_still_a_fact(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    late = (await story.wish("w")).checkpoint
    assert late is not None
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.attach("i-2", "zone-a", 2)
    spooled = late.model_copy(update={"number": 2})
    await story.report(ReportKind.CHECKPOINT, "i-1", 1, checkpoint=spooled)
    assert [one.number for one in (await story.job()).checkpoints] == [1, 2]
    assert (await story.job()).checkpoints_committed == 2


@pytest.mark.recorded("failed_by_itself")
async def test_a_job_that_failed_by_itself_starts_clean(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    assert (await story.wish("w")).checkpoint is not None
    await story.report(ReportKind.EXITED, "i-1", 1)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), exit_code=3)
    reply = await story.run_on("i-2", "zone-a", 2)
    assert reply.verdict is Verdict.FRESH
    job = await story.job()
    assert job.checkpoints == [] and job.outages == [] and job.protections == 0
    await story.happens("fresh")
    assert any("exit code 3" in event.message for event in story.cloud.timeline(story.job_id))
    await story.ends()


async def test_a_failure_that_no_agent_reported_starts_clean_too(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), exit_code=1)
    assert (await story.attach("i-2", "zone-a", 2)).verdict is Verdict.FRESH


async def test_out_of_memory_is_the_jobs_own_failure(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    reason = "OutOfMemoryError: Container killed due to memory usage"
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), exit_code=137, reason=reason)
    assert (await story.attach("i-2", "zone-a", 2)).verdict is Verdict.FRESH


async def test_a_shutdown_that_ends_containers_is_still_a_lost_host(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    checkpoint = (await story.wish("w")).checkpoint
    await story.report(ReportKind.EXITED, "i-1", 1)  # the instance's own shutdown stopped the container
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    reply = await story.run_on("i-2", "zone-a", 2, restored_from=1, found=[checkpoint] if checkpoint else [])
    assert reply.verdict is Verdict.RESTORE
    assert (await story.job()).protections == 1


async def test_a_clean_start_that_dies_while_starting_stays_clean(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.wish("w")
    story.cloud.attempt_over(story.job_id, "STARTING", await story.now(), exit_code=1)
    assert (await story.attach("i-2", "zone-a", 2)).verdict is Verdict.FRESH
    assert (await story.attach("i-3", "zone-a", 2)).verdict is Verdict.FRESH


@pytest.mark.recorded("keep_only")
async def test_the_last_attempt_is_kept_for_a_resume(story: Story) -> None:
    story.cloud.job(story.job_id, retry=RetryStrategy(attempts=1))
    await story.run_on("i-1", "zone-a")
    await story.notice("i-1")
    await story.happens("handed over")
    assert story.cloud.timeline(story.job_id)[-1].level == "error"
    story.cloud.attempt_over(story.job_id, "FAILED", await story.now(), status_reason=HOST_LOST)
    job = await story.result()
    assert job.state is JobState.FAILED and list(story.cloud.volumes) == ["vol-1"]
    assert [one.number for one in job.checkpoints] == [1] and job.outages == []
    assert "resume" in " ".join(event.message for event in story.cloud.timeline(story.job_id)[-2:])


async def test_a_last_attempt_that_fails_by_itself_after_its_notice_was_not_ended_by_the_reclaim(story: Story) -> None:
    """Without an attempt left it runs on after its last checkpoint, and may come to its own end."""
    story.cloud.job(story.job_id, retry=RetryStrategy(attempts=1))
    await story.run_on("i-1", "zone-a")
    await story.notice("i-1")
    await story.happens("handed over")
    story.cloud.job(story.job_id, status="FAILED", status_reason="Essential container in task exited", exit_code=3)
    job = await story.result()
    assert job.state is JobState.FAILED
    assert "kept" not in story.cloud.kinds(story.job_id) and story.cloud.volumes == {}


async def test_an_unprotected_container_elsewhere_is_on_the_page_at_once_and_stays_there(story: Story) -> None:
    """The node of the container that we knew died unseen, and on the next one the agent did not answer."""
    await story.run_on("i-1", "zone-a")
    await story.sleep(5)
    await story.report(ReportKind.REMARK, "i-9", 0, reason="The container on i-9 runs unprotected: x", level="error")

    async def said() -> bool:
        return (await story.job()).unprotected == "The container on i-9 runs unprotected: x"

    await story.until(said)
    await story.handle.signal("configuration_changed")
    await story.sleep(5)
    assert await said() and (await story.job()).state is JobState.RUNNING


async def test_a_last_attempt_that_finishes_after_all_leaves_nothing(story: Story) -> None:
    story.cloud.job(story.job_id, retry=RetryStrategy(attempts=1))
    await story.run_on("i-1", "zone-a")
    await story.notice("i-1")
    await story.happens("handed over")
    job = await story.ends()
    assert job.state is JobState.SUCCEEDED and story.cloud.volumes == {}


async def test_a_job_that_fails_while_nothing_runs_is_closed(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    await story.sleep(124.3)
    story.cloud.job(story.job_id, status="FAILED", terminated=True, status_reason="not needed any more")
    job = await story.result()
    assert job.state is JobState.STOPPED and story.cloud.volumes == {}


async def test_a_node_that_died_with_the_last_attempt_closes_the_job(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
    await story.run_on("i-1", "zone-a")
    await story.sleep(24.3)  # Batch is asked soon after the start, and is content
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "FAILED", await story.now(), status_reason=HOST_LOST)
    await story.doubt("i-1")
    job = await story.result()
    assert job.state is JobState.FAILED and story.cloud.volumes == {}  # there is no checkpoint to keep
    assert "no answer" in story.cloud.kinds(story.job_id)


async def test_without_checkpoints_a_dead_node_is_found_too(story: Story) -> None:
    await story.run_on("i-1", "zone-a", environment={"PERDURE_CHECKPOINT_MODE": "off"})
    await story.sleep(24.3)
    story.cloud.attempt_over(story.job_id, "FAILED", await story.now(), status_reason=HOST_LOST)
    await story.doubt("i-1")
    assert (await story.result()).state is JobState.FAILED


async def test_checkpoints_off_means_no_final_one_either(story: Story) -> None:
    await story.run_on("i-1", "zone-a", environment={"MMC_CHECKPOINT_MODE": "false"})
    await story.notice("i-1")
    await story.happens("notice")
    await story.sleep(70)
    assert story.nodes["i-1"].finals == []
    await story.ends()


async def test_silence_means_unknown_and_batch_is_asked_ever_more_seldom(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
    await story.run_on("i-1", "zone-a")
    await story.sleep(24.3)
    await story.lose("i-1")
    asked = story.cloud.calls.count("describe_job")
    for _ in range(3):
        await story.doubt("i-1")
        await story.sleep(205)
    job = await story.job()
    assert job.attempts[-1].end is None and job.checkpoint_failures == 0, "silence is not a failure"
    assert story.cloud.kinds(story.job_id).count("no answer") == 1
    looks = story.cloud.calls.count("describe_job") - asked
    assert 4 <= looks <= 7, "at once, after 20 s, 40 s, 80 s, …"
    await story.node("i-1", again=True)  # the agent is back
    await story.sleep(82.3)
    assert len(story.nodes["i-1"].taken) == 1
    asked = story.cloud.calls.count("describe_job")
    await story.sleep(3604.3)
    assert story.cloud.calls.count("describe_job") == asked, "in touch again"
    await story.ends()


async def test_a_doubt_about_another_node_or_a_container_that_does_not_run_changes_nothing(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.sleep(24.3)
    await story.doubt("i-9")
    await reclaimed(story, "i-1")
    await story.doubt("i-1")
    assert "no answer" not in story.cloud.kinds(story.job_id)


@pytest.mark.usefixtures("impatient")
async def test_a_final_checkpoint_is_joined_again_when_the_agent_comes_back(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.lose("i-1")
    await story.notice("i-1")
    await story.happens("no answer")
    await story.node("i-1", again=True)
    await story.happens("handed over")


async def test_a_final_checkpoint_that_fails_leaves_the_job_running(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    story.nodes["i-1"].failure = "the dump did not end in time"
    await story.notice("i-1")
    await story.reaches(JobState.CHECKPOINT_FAILED)
    await story.sleep(130)
    assert len(story.nodes["i-1"].finals) == 1
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.sleep(64.3)
    await story.happens("node lost")  # found by asking Batch, before the next container comes
    await story.run_on("i-2", "zone-a", 2)
    assert (await story.job()).outages[0].kind == "notice"


async def test_a_second_notice_is_a_second_chance(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    node.failure = "the dump did not end in time"
    await story.notice("i-1", name="first")
    await story.reaches(JobState.CHECKPOINT_FAILED)
    node.failure = ""
    await story.notice("i-1", name="second")
    await story.reaches(JobState.CHECKPOINT_SUCCEEDED)
    assert len(node.finals) == 2


async def test_a_newer_container_takes_over_from_one_that_waits(story: Story) -> None:
    """The volume hangs on an instance that still lives; the second waiter must get it, and get it once."""
    await story.run_on("i-1", "zone-a")
    story.cloud.mounted.add("vol-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    second = asyncio.create_task(story.attach("i-2", "zone-a", 2))
    await story.until(lambda: "detach_volume" in story.cloud.calls)
    third = asyncio.create_task(story.attach("i-3", "zone-a", 2))
    assert (await second).verdict is Verdict.REFUSED
    story.cloud.mounted.clear()
    assert (await third).verdict is Verdict.RESTORE
    assert story.cloud.volumes["vol-1"].attached_to == "i-3"


async def test_a_volume_that_somebody_deleted_is_made_anew(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    del story.cloud.volumes["vol-1"]
    reply = await story.run_on("i-2", "zone-a", 2)
    assert reply.volume_id == "vol-2"
    assert reply.verdict is Verdict.FRESH, "an agent formats a blank volume for a clean start alone"
    job = await story.ends()
    assert "volume lost" in story.cloud.kinds(story.job_id) and job.protections == 0


async def test_jobs_of_several_containers_run_unprotected(story: Story) -> None:
    story.cloud.job(story.job_id, container_count=2)
    for container in ("one", "two"):
        assert (await story.attach("i-1", "zone-a", container=container)).verdict is Verdict.UNPROTECTED
    await story.happens("unprotected")
    story.cloud.attempt_over(story.job_id, "SUCCEEDED", await story.now(), exit_code=0)
    job = await story.result()
    assert job.state is JobState.SUCCEEDED and "create_volume" not in story.cloud.calls


@pytest.mark.parametrize("ran", [False, True])
async def test_a_job_that_ended_before_an_agent_told_of_it_is_known_with_its_reason(story: Story, ran: bool) -> None:
    """An event said that it is over (activities.unseen_jobs)."""
    attempts = [BatchAttempt(exit_code=1, reason="CannotPullContainerError")] if ran else []
    reason = "Job attempt exceeded" if ran else "Task failed to start"
    story.cloud.job(story.job_id, status="FAILED", status_reason=reason, attempts=attempts)
    await story.client.start_workflow(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id=story.job_id),
        id=names.job_workflow_id(story.job_id),
        task_queue=names.CONTROL_QUEUE,
    )
    job = await story.result()
    assert (job.state, job.queue, job.attempts) == (JobState.FAILED, "default", [])
    (line,) = story.cloud.timeline(story.job_id)
    assert line.kind == "finished" and reason in line.message
    assert bool(job.unprotected) is ran, "where its containers ran, nobody could have saved them"
    assert set(story.cloud.calls) == {"describe_job", "record_job"}


async def test_a_job_that_batch_does_not_know_runs_unprotected(story: Story) -> None:
    story.cloud.batch.clear()
    assert (await story.attach("i-1", "zone-a")).verdict is Verdict.UNPROTECTED
    assert (await story.result()).state is JobState.STOPPED


async def test_the_database_may_be_away(story: Story) -> None:
    story.cloud.database_down = True
    reply = await story.run_on("i-1", "zone-a")
    assert reply.verdict is Verdict.FRESH
    await story.notice("i-1")
    await story.reaches(JobState.CHECKPOINT_SUCCEEDED)
    assert story.cloud.records == {}
    story.cloud.database_down = False
    await story.sleep(34.3)
    await story.happens("handed over")
    assert story.cloud.kinds(story.job_id)[0] == "attached"


async def test_a_container_that_asks_while_the_job_is_put_away_is_refused(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    story.cloud.mounted.add("vol-1")  # the clean-up waits
    story.cloud.attempt_over(story.job_id, "FAILED", await story.now(), exit_code=1)
    await story.report(ReportKind.EXITED, "i-1", 1)
    await story.reaches(JobState.FAILED)
    assert (await story.attach("i-2", "zone-a", 2)).verdict is Verdict.REFUSED
    story.cloud.mounted.clear()
    await story.result()


async def test_an_update_for_another_job_is_turned_away(story: Story) -> None:
    await story.attach("i-1", "zone-a")
    request = {"job_id": "other", "container_id": "c", "attempt": 1, "instance_id": "i", "zone": "z"}
    with pytest.raises(WorkflowUpdateFailedError):
        await story.handle.execute_update("attach", {**request, "asked_at": await story.now()})
    assert (await story.job()).epoch == 1


async def test_remarks_reach_the_timeline_even_without_an_epoch(story: Story) -> None:
    await story.attach("i-1", "zone-a")
    await story.report(ReportKind.REMARK, "i-1", 1, reason="an odd mount", level="warning")
    await story.report(ReportKind.REMARK, "i-9", 0, reason="a container ran unprotected", level="error")
    await story.until(lambda: {"remark", "unprotected"} <= set(story.cloud.kinds(story.job_id)))


async def test_an_unprotected_first_attempt_then_a_protected_second(story: Story) -> None:
    """Temporal was away when attempt 1 started; nothing was saved, so attempt 2 has nothing to restore."""
    story.cloud.job(story.job_id, attempts=[])
    story.cloud.attempt_over(story.job_id, "RUNNING", await story.now() - timedelta(hours=1), **LOST)
    reply = await story.run_on("i-2", "zone-a", 2)
    assert reply.verdict is Verdict.FRESH and reply.epoch == 1
    assert (await story.job()).outages == []


async def test_ended_by_us_without_a_known_notice(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    assert (await story.attach("i-2", "zone-a", 2)).verdict is Verdict.RESTORE


async def test_a_job_that_is_ended_while_its_container_waits_is_refused_at_once(story: Story) -> None:
    story.cloud.volume_gate.clear()
    waiting = asyncio.create_task(story.attach("i-1", "zone-a"))
    await story.until(lambda: "create_volume" in story.cloud.calls)
    story.cloud.job(story.job_id, terminated=True)
    await story.sleep(6.3)
    reply = await waiting
    assert reply.verdict is Verdict.REFUSED and "ended by its owner" in reply.reason
    assert (await story.attach("i-1", "zone-a")).verdict is Verdict.REFUSED, "the same container asks once more"
    story.cloud.volume_gate.set()
    story.cloud.job(story.job_id, status="FAILED", status_reason="enough")
    job = await story.result()
    assert job.state is JobState.STOPPED and story.cloud.volumes == {}


async def test_a_job_that_is_ended_before_its_container_asks_is_refused(story: Story) -> None:
    story.cloud.job(story.job_id, terminated=True)
    assert (await story.attach("i-1", "zone-a")).verdict is Verdict.REFUSED
    story.cloud.job(story.job_id, status="FAILED")
    await story.result()
    assert "create_volume" not in story.cloud.calls
