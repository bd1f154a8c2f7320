"""What the time-skipping server does not do: long updates, a finished job's id, continue-as-new."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.jobs import JobState
from tests.fakes import HOST_LOST, RETRY_ALL
from tests.workflows.story import Story
from workflows.job_protection import JobProtection
from workflows.options import RENEW_AFTER


@pytest.mark.usefixtures("impatient")
async def test_attach_waits_for_a_slow_volume_and_asks_again(real_story: Story) -> None:
    real_story.cloud.volume_gate.clear()
    asking = asyncio.create_task(real_story.attach("i-1", "zone-a"))
    first = await asking
    assert (first.verdict, first.epoch) == (Verdict.WAIT, 1)
    assert first.retry == RETRY_ALL, "a node that must stop waiting decides by the rules"
    real_story.cloud.volume_gate.set()
    second = await real_story.attach("i-1", "zone-a")
    assert (second.verdict, second.epoch) == (Verdict.FRESH, 1)


@pytest.mark.usefixtures("impatient")
async def test_a_notice_for_a_node_whose_container_still_waits_stops_the_preparation(real_story: Story) -> None:
    real_story.cloud.volume_gate.clear()
    asking = asyncio.create_task(real_story.attach("i-1", "zone-a"))
    await real_story.until(lambda: "create_volume" in real_story.cloud.calls)
    await real_story.notice("i-1")
    await real_story.happens("notice")
    assert (await asking).verdict is Verdict.WAIT
    real_story.cloud.volume_gate.set()
    assert (await real_story.attach("i-2", "zone-a", 1)).epoch == 2


async def test_a_finished_job_refuses(real_story: Story) -> None:
    await real_story.run_on("i-1", "zone-a")
    await real_story.ends()
    with pytest.raises(WorkflowAlreadyStartedError):
        await real_story.attach("i-2", "zone-a", 2)


@pytest.mark.usefixtures("impatient")
async def test_a_job_that_ends_while_its_volume_hangs_on_an_instance_is_closed(real_story: Story) -> None:
    await real_story.run_on("i-1", "zone-a")
    real_story.cloud.mounted.add("vol-1")
    real_story.cloud.attempt_over(real_story.job_id, "RUNNABLE", await real_story.now(), status_reason=HOST_LOST)
    assert (await real_story.attach("i-2", "zone-a", 2)).verdict is Verdict.WAIT
    await real_story.happens("trouble")
    assert any("detach volume has not ended" in line.message for line in real_story.cloud.timeline(real_story.job_id))
    real_story.cloud.attempt_over(real_story.job_id, "FAILED", await real_story.now(), exit_code=1)
    await real_story.reaches(JobState.FAILED)
    real_story.cloud.mounted.clear()
    await real_story.result()
    assert real_story.cloud.volumes == {}


@pytest.mark.recorded("renewed")
async def test_continue_as_new_loses_nothing(real_story: Story) -> None:
    """The job is renewed again and again."""
    real_story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=1))
    await real_story.run_on("i-1", "zone-a")
    first_run = (await real_story.handle.describe()).run_id
    node = real_story.nodes["i-1"]
    wishes = 0
    while (await real_story.handle.describe()).run_id == first_run or wishes < 12:
        wishes += 1
        answer = await real_story.wish(f"wish-{wishes}")
        assert answer.checkpoint is not None, answer.failure
        await real_story.report(ReportKind.REMARK, "i-1", 1, reason=f"remark {wishes}", report_id=f"remark-{wishes}")
    await real_story.report(ReportKind.REMARK, "i-1", 1, reason="again", report_id="remark-1")
    assert (await real_story.attach("i-1", "zone-a")).epoch == 1, "the same container after the renewal"
    await real_story.notice("i-1")
    await real_story.reaches(JobState.CHECKPOINT_SUCCEEDED)
    await real_story.until(lambda: real_story.cloud.volumes["vol-1"].attached_to is None)
    real_story.cloud.attempt_over(real_story.job_id, "RUNNABLE", await real_story.now(), exit_code=137)
    await real_story.run_on("i-2", "zone-b", 2, restored_from=node.taken[-1].number, found=node.taken[-2:])
    job = await real_story.ends()
    assert job.checkpoints_committed == len(node.taken) and job.protections == 1
    timeline = real_story.cloud.timeline(real_story.job_id)
    assert [event.sequence for event in timeline] == list(range(1, len(timeline) + 1))
    assert [event.message for event in timeline if event.kind == "remark"] == [
        f"remark {number}" for number in range(1, wishes + 1)
    ]
    handle = real_story.client.get_workflow_handle(real_story.handle.id, run_id=first_run)
    assert len((await handle.fetch_history()).events) < 3 * RENEW_AFTER


async def test_a_job_that_stands_still_is_renewed_only_once_it_runs_again(real_story: Story) -> None:
    """A renewal beside the hand-over was refused by the server, then read from its history, and the question of the
    next container was lost with it for 28 s (seen in bench.outage)."""
    await real_story.run_on("i-1", "zone-a")
    node, first_run = real_story.nodes["i-1"], (await real_story.handle.describe()).run_id
    await real_story.notice("i-1")
    await real_story.reaches(JobState.CHECKPOINT_SUCCEEDED)
    for number in range(RENEW_AFTER):
        await real_story.report(ReportKind.REMARK, "i-1", 1, reason=f"remark {number}")
    real_story.cloud.attempt_over(real_story.job_id, "RUNNABLE", await real_story.now(), exit_code=137)
    assert (await real_story.attach("i-2", "zone-a", 2)).verdict is Verdict.RESTORE
    assert (await real_story.handle.describe()).run_id == first_run
    await real_story.run_on("i-2", "zone-a", 2, restored_from=1, found=node.taken)

    async def renewed() -> bool:
        return (await real_story.handle.describe()).run_id != first_run

    await real_story.until(renewed)


async def test_a_configuration_change_signalled_around_the_renewal_is_not_lost(real_story: Story) -> None:
    real_story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=3600))
    await real_story.run_on("i-1", "zone-a")
    first_run = (await real_story.handle.describe()).run_id
    async with real_story.without_control_worker():
        for number in range(RENEW_AFTER):
            await real_story.report(ReportKind.REMARK, "i-1", 1, reason=f"remark {number}")
        real_story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
        await real_story.handle.signal(JobProtection.configuration_changed)

    async def renewed() -> bool:
        return (await real_story.handle.describe()).run_id != first_run

    async def changed() -> bool:
        return (await real_story.job()).interval_seconds == 60

    await real_story.until(renewed)
    await real_story.until(changed)
