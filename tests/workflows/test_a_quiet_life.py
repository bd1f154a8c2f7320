"""A job that no reclaim troubles: start, rhythm, wishes, changes of the configuration, and its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, JobVolumeConfiguration, SystemConfiguration
from perdure.domain.jobs import JobState
from perdure.domain.nodes import NoticeKind
from tests.workflows.story import Story
from workflows.job_protection import JobProtection


def every(seconds: float, **more: object) -> SystemConfiguration:
    fields = {"interval_seconds": seconds, **more}
    return SystemConfiguration(checkpoint=CheckpointConfiguration.model_validate(fields))


@pytest.mark.recorded("quiet_life")
async def test_fresh_start_to_clean_end(story: Story) -> None:
    reply = await story.run_on("i-1", "zone-a", environment={"PERDURE_CHECKPOINT_INTERVAL": "10m"})
    assert (reply.verdict, reply.epoch, reply.attempts_made) == (Verdict.FRESH, 1, 1)
    assert reply.configuration is not None and reply.configuration.checkpoint.interval_seconds == 600
    job = await story.ends()
    assert (job.state, job.exit_code, job.epoch) == (JobState.SUCCEEDED, 0, 1)
    assert (job.interval_seconds, job.interval_source) == (600, "PERDURE_CHECKPOINT_INTERVAL")
    assert (job.max_rootfs_bytes, job.outages, job.protections) == (4096, [], 0)
    assert job.attempts[0].end == "exited"
    assert story.cloud.volumes == {} and story.cloud.deleted == ["vol-1"]
    assert story.cloud.recorded(story.job_id) == job
    assert story.cloud.kinds(story.job_id) == ["attached", "volume", "started", "exited", "finished", "volume"]
    assert [event.sequence for event in story.cloud.timeline(story.job_id)] == [1, 2, 3, 4, 5, 6]


async def test_search_attributes_and_details_tell_the_state(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    shown = (await story.handle.describe()).search_attributes
    assert shown["PerdureState"] == ["Running"] and shown["PerdureQueue"] == ["default"]
    assert shown["PerdureNode"] == ["i-1"] and shown["PerdureZone"] == ["zone-a"]
    await story.ends()


async def test_the_agent_keeps_the_rhythm_and_every_checkpoint_is_heard_of(story: Story) -> None:
    story.cloud.configuration = every(60)
    await story.run_on("i-1", "zone-a")
    await story.sleep(5 * 60 + 30 + 4.3)
    node = story.nodes["i-1"]
    assert len(node.taken) == 5 and node.requests == [], "nobody asks for a periodic checkpoint"
    job = await story.ends()
    assert job.checkpoints_committed == 5 and job.checkpoint_failures == 0
    assert story.cloud.kinds(story.job_id).count("checkpoint") == 5


async def test_a_final_checkpoint_that_may_not_fit_into_a_notice_is_told_of_once(story: Story) -> None:
    story.cloud.configuration = every(60)
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    for seconds, beat in ((1.5, 64.3), (100.0, 57.3), (100.0, 62.3), (1.5, 57.3)):
        node.dump_seconds = seconds
        await story.sleep(beat)
    await story.ends()
    told = [event for event in story.cloud.timeline(story.job_id) if event.kind == "budget"]
    assert [event.level for event in told] == ["warning", "info"]
    assert "would take about 110 s of the 120 s of a notice (red)" in told[0].message
    assert "reading the job's memory" in told[0].message and "(green)" in told[1].message


async def test_only_the_newest_checkpoints_are_offered(story: Story) -> None:
    story.cloud.configuration = every(60, keep=2)
    await story.run_on("i-1", "zone-a")
    await story.sleep(4 * 60 + 30 + 4.3)
    await story.until(lambda: len(story.nodes["i-1"].taken) == 4)
    await story.reaches(JobState.RUNNING)
    assert [checkpoint.number for checkpoint in (await story.job()).checkpoints] == [3, 4]
    await story.ends()


@pytest.mark.parametrize("error", [timedelta(hours=-3), timedelta(hours=3)])
async def test_no_clocks_are_compared_with_a_nodes(story: Story, error: timedelta) -> None:
    """A node whose clock is ahead once answered a wish with an old checkpoint."""
    story.cloud.configuration = every(60)
    (await story.node("i-1")).clock_error = error
    await story.run_on("i-1", "zone-a")
    await story.sleep(130)
    answer = await story.wish("w-1")
    assert answer.checkpoint is not None and answer.checkpoint.number == 3
    job = await story.ends()
    assert job.checkpoints_committed == 3


async def test_while_all_is_well_nothing_happens(story: Story) -> None:
    await story.run_on("i-1", "zone-a", environment={"PERDURE_CHECKPOINT_INTERVAL": "0"})
    await story.sleep(64.3)
    events = (await story.handle.describe()).history_length
    await story.sleep(24 * 3600 + 4.3)
    assert (await story.handle.describe()).history_length == events, "no timer, no question"
    await story.ends()


async def test_interval_changes_mid_flight(story: Story) -> None:
    story.cloud.configuration = every(3600)
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    for number, seconds in enumerate((60.0, 0.0), start=1):
        story.cloud.configuration = every(seconds)
        before = await story.now()
        await story.handle.signal(JobProtection.configuration_changed)
        await story.until(lambda number=number: len(node.settings) == number)
        assert await story.now() - before < timedelta(seconds=5)
        told = node.settings[-1]
        assert (told.epoch, told.number, told.checkpoint.interval_seconds) == (1, number, seconds)
        assert (await story.job()).interval_seconds == seconds
    await story.until(lambda: story.cloud.kinds(story.job_id).count("configuration") == 2)
    await story.ends()


async def test_every_checkpoint_setting_reaches_a_running_job(story: Story) -> None:
    story.cloud.configuration = every(3600)
    await story.run_on("i-1", "zone-a")
    story.cloud.configuration = every(3600, enabled=False, keep=5)
    await story.handle.signal(JobProtection.configuration_changed)
    await story.until(lambda: len(story.nodes["i-1"].settings) == 1)
    told = story.nodes["i-1"].settings[0].checkpoint
    assert (told.enabled, told.keep) == (False, 5)
    await story.ends()


async def test_a_change_that_comes_while_a_dump_runs_does_not_wait_for_it(story: Story) -> None:
    story.cloud.configuration = every(3600)
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    node.gate.clear()
    wish = asyncio.create_task(story.wish("w-1"))
    await story.reaches(JobState.CHECKPOINTING)
    story.cloud.configuration = every(60)
    await story.handle.signal(JobProtection.configuration_changed)
    await story.until(lambda: len(node.settings) == 1)
    node.gate.set()
    assert (await wish).checkpoint is not None
    await story.ends()


@pytest.mark.usefixtures("impatient")
async def test_a_node_that_is_silent_hears_of_a_change_when_it_is_back(story: Story) -> None:
    story.cloud.configuration = every(3600)
    await story.run_on("i-1", "zone-a")
    await story.lose("i-1")
    for seconds in (60, 90):
        story.cloud.configuration = every(seconds)
        await story.handle.signal(JobProtection.configuration_changed)
        await story.until(lambda seconds=seconds: story.cloud.recorded(story.job_id).interval_seconds == seconds)
    await story.node("i-1", again=True)
    await story.until(lambda: 2 in [told.number for told in story.nodes["i-1"].settings])
    await story.ends()


async def test_the_jobs_own_interval_wins_over_a_change(story: Story) -> None:
    await story.run_on("i-1", "zone-a", environment={"PERDURE_CHECKPOINT_INTERVAL": "5m"})
    story.cloud.configuration = every(10)
    await story.handle.signal(JobProtection.configuration_changed)
    await story.until(lambda: story.cloud.calls.count("load_configuration") == 2)
    assert (await story.job()).interval_seconds == 300
    await story.ends()


@pytest.mark.parametrize("value", ["-5m", "banana", "0.2s", "../../etc", "9" * 10_000, "1m\n;rm -rf /"])
async def test_a_bad_interval_is_told_and_the_systems_is_used(story: Story, value: str) -> None:
    await story.run_on("i-1", "zone-a", environment={"PERDURE_CHECKPOINT_INTERVAL": value})
    job = await story.ends()
    assert (job.interval_seconds, job.interval_source) == (900, "system")
    told = [event for event in story.cloud.timeline(story.job_id) if event.kind == "configuration"]
    assert len(told) == 1 and told[0].level == "warning" and len(told[0].message) < 300


async def test_a_person_asks_for_a_checkpoint(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    answer = await story.wish("w-1")
    assert answer.checkpoint is not None and answer.checkpoint.kind is CheckpointKind.REQUESTED
    story.nodes["i-1"].failure = "process 7 (gdb) is traced"
    assert (await story.wish("w-2")).failure == "process 7 (gdb) is traced"
    assert (await story.job()).state is JobState.CHECKPOINT_FAILED
    job = await story.ends()
    assert job.checkpoints_committed == 1


async def test_a_job_that_ends_before_it_is_saved_is_no_failed_checkpoint(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    node.failure, node.ended = "the job ended before it was saved: there is nothing to save", True
    assert (await story.wish("w-1")).failure == node.failure
    assert (await story.job()).state is JobState.RUNNING
    await story.notice("i-1")
    await story.until(lambda: bool(node.finals))
    job = await story.ends()
    assert (job.state, job.checkpoint_failures) == (JobState.SUCCEEDED, 0)
    told = [event.kind for event in story.cloud.timeline(story.job_id)]
    assert "final checkpoint" not in told and "checkpoint failed" not in told


async def test_no_checkpoint_of_a_job_that_does_not_run(story: Story) -> None:
    await story.attach("i-1", "zone-a")
    assert "does not run" in (await story.wish("w-1")).failure
    await story.run_on("i-1", "zone-a")
    await story.ends()


async def test_a_wish_is_answered_once_however_often_it_is_asked(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    first = await story.wish("w-1")
    assert await story.wish("w-1") == first and len(story.nodes["i-1"].taken) == 1
    await story.ends()


async def test_a_failed_checkpoint_is_counted_once_and_the_job_runs_on(story: Story) -> None:
    story.cloud.configuration = every(60)
    node = await story.node("i-1")
    await story.run_on("i-1", "zone-a")
    for _ in range(2):  # the node's spool may send a report twice
        await story.report(ReportKind.CHECKPOINT_FAILED, "i-1", 1, reason="the volume is full", report_id="failed-once")
    await story.reaches(JobState.CHECKPOINT_FAILED)
    await story.sleep(64.3)
    await story.reaches(JobState.RUNNING)
    assert len(node.taken) == 1
    job = await story.ends()
    assert (job.checkpoint_failures, job.checkpoints_committed) == (1, 1)


async def test_of_a_rebalance_recommendation_people_hear(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.notice("i-1", name="early", kind=NoticeKind.REBALANCE, deadline=None)
    await story.happens("rebalance")
    assert "a checkpoint is taken at once" in story.cloud.timeline(story.job_id)[-1].message
    assert (await story.job()).attempts[-1].end is None
    assert story.nodes["i-1"].requests == [], "the agent takes it without being asked"
    await story.ends()


async def test_batch_may_lag_behind_the_exit(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.report(ReportKind.EXITED, "i-1", 1)
    await story.sleep(47.3)
    looks = story.cloud.calls.count("describe_job")
    assert looks >= 5  # after 1, 2, 4, 8, 15 seconds
    story.cloud.attempt_over(story.job_id, "FAILED", await story.now(), exit_code=3)
    job = await story.result()
    assert (job.state, job.exit_code) == (JobState.FAILED, 3)
    assert story.cloud.volumes == {}


async def test_a_terminated_job_is_stopped(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    story.cloud.job(story.job_id, terminated=True)
    job = await story.ends("FAILED", exit_code=143)
    assert job.state is JobState.STOPPED and story.cloud.volumes == {}


async def test_diagnosis_mode_keeps_the_volume(story: Story) -> None:
    story.cloud.configuration = every(900, diagnosis=True)
    await story.run_on("i-1", "zone-a")
    job = await story.ends("FAILED", exit_code=1)
    assert job.volume_id == "vol-1" and list(story.cloud.volumes) == ["vol-1"]
    assert "diagnosis mode" in story.cloud.timeline(story.job_id)[-1].message


async def test_without_managed_volumes_a_job_runs_unprotected_and_says_so(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(job_volume=JobVolumeConfiguration(enabled=False))
    while (reply := await story.attach("i-1", "zone-a")).verdict is Verdict.WAIT:
        pass
    assert reply.verdict is Verdict.UNPROTECTED and "job_volume.enabled" in reply.reason
    await story.until(lambda: "unprotected" in story.cloud.kinds(story.job_id))
    assert story.cloud.volumes == {}
    story.cloud.configuration = SystemConfiguration()
    await story.run_on("i-2", "zone-b", attempt=2)  # protected again
    await story.ends()
