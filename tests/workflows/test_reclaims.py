"""Reclaims, with and without notice: nothing saved is lost, nothing is done twice, and the account adds up."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure.contracts.protection import ReportKind, RestoreRung, Verdict
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.jobs import Job, JobState
from perdure.domain.retries import HandOver, RetryRule, RetryStrategy
from tests.fakes import HOST_LOST
from tests.workflows.story import Story

ENDED_BY_US = {"exit_code": 137, "status_reason": "Essential container in task exited"}
LOST = {"status_reason": HOST_LOST}


async def reclaimed(story: Story, instance_id: str) -> Job:
    """A notice, the final checkpoint, the hand-over (way 1) and Batch's retry."""
    await story.notice(instance_id)
    await story.happens("handed over")
    await story.until(lambda: all(volume.attached_to is None for volume in story.cloud.volumes.values()))
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    return await story.job()


@pytest.mark.recorded("reclaim_across_zones")
async def test_a_notice_moves_the_job_to_another_zone(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.sleep(304.3)
    job = await reclaimed(story, "i-1")
    node = story.nodes["i-1"]
    assert job.state is JobState.CHECKPOINT_SUCCEEDED and job.attempts[0].end == "handed over"
    assert [final.hand_over for final in node.finals] == [HandOver.END_CONTAINER]
    await story.sleep(34.3)
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=1, found=node.taken)
    assert (reply.verdict, reply.epoch, reply.volume_id) == (Verdict.RESTORE, 2, "vol-2")
    assert story.cloud.deleted == ["vol-1"] and story.cloud.snapshots == {}
    job = await story.ends()
    assert (job.protections, job.checkpoints_committed) == (1, 1)
    (outage,) = job.outages
    assert (outage.kind, outage.restored_from, outage.work_lost_seconds) == ("notice", 1, 0.0)
    assert list(outage.phases) == ["frozen", "dumped", "detached", "waited", "attached", "restored"]
    assert outage.seconds is not None and outage.seconds >= 30
    assert sum(outage.phases.values()) == pytest.approx(outage.seconds, abs=0.01)
    assert outage.phases["frozen"] == 0.25 and outage.phases["waited"] >= 25
    assert [attempt.restored_from for attempt in job.attempts] == [None, 1]


async def test_the_volume_is_free_inside_the_notice(story: Story) -> None:
    """`available` before the host dies: the detach is not left to the next node."""
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    assert story.cloud.volumes["vol-1"].attached_to is None
    await story.run_on("i-2", "zone-a", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert story.cloud.calls.count("detach_volume") == 1 and "create_snapshot" not in story.cloud.calls
    await story.ends()


async def test_rules_that_only_know_the_host_leave_the_job_frozen(story: Story) -> None:
    rules = [RetryRule(action="RETRY", on_status_reason="Host EC2*"), RetryRule(action="EXIT", on_reason="*")]
    story.cloud.job(story.job_id, retry=RetryStrategy(attempts=5, rules=rules))
    reply = await story.run_on("i-1", "zone-a")
    assert reply.hand_over is HandOver.STAY_FROZEN
    await story.notice("i-1")
    await story.happens("handed over")
    assert story.nodes["i-1"].finals[0].hand_over is HandOver.STAY_FROZEN
    await story.sleep(124.3)
    assert story.cloud.volumes["vol-1"].attached_to == "i-1" and "detach_volume" not in story.cloud.calls
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.run_on("i-2", "zone-a", 2, restored_from=1, found=story.nodes["i-1"].taken)
    job = await story.ends()
    assert job.protections == 1 and job.outages[0].work_lost_seconds == 0
    assert list(job.outages[0].phases) == ["frozen", "dumped", "detached", "waited", "attached", "restored"]


async def test_where_the_ecs_agent_can_be_stopped_the_volume_is_free_inside_the_notice_all_the_same(
    story: Story,
) -> None:
    rules = [RetryRule(action="RETRY", on_status_reason="Host EC2*"), RetryRule(action="EXIT", on_reason="*")]
    story.cloud.job(story.job_id, retry=RetryStrategy(attempts=5, rules=rules))
    off_the_cluster = CheckpointConfiguration(deregister_instance=True)
    story.cloud.configuration = SystemConfiguration(checkpoint=off_the_cluster)
    reply = await story.run_on("i-1", "zone-a", can_stop_ecs=True)
    assert reply.hand_over is HandOver.STOP_ECS
    await reclaimed(story, "i-1")
    await story.until(lambda: "leave_instance" in story.cloud.calls)
    assert story.cloud.calls.index("detach_volume") < story.cloud.calls.index("leave_instance")
    assert story.nodes["i-1"].finals[0].hand_over is HandOver.STOP_ECS
    await story.until(lambda: story.cloud.volumes["vol-1"].attached_to is None)
    await story.run_on("i-2", "zone-a", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert story.cloud.calls.count("detach_volume") == 1
    job = await story.ends()
    assert job.protections == 1 and job.outages[0].work_lost_seconds == 0


@pytest.mark.recorded("node_lost")
async def test_a_node_lost_without_notice_costs_the_work_since_the_last_checkpoint(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=600))
    await story.run_on("i-1", "zone-a")
    await story.sleep(605)
    node = story.nodes["i-1"]
    assert len(node.taken) == 1
    await story.sleep(204.3)
    await story.lose("i-1")
    death = await story.now()
    story.cloud.attempt_over(story.job_id, "RUNNABLE", death, **LOST)
    await story.sleep(64.3)
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=1, found=node.taken)
    assert reply.verdict is Verdict.RESTORE
    job = await story.ends()
    (outage,) = job.outages
    assert (outage.kind, outage.restored_from) == ("no notice", 1)
    # Batch's times are milliseconds of the fake, so the account is exact.
    lost = (death - node.taken[0].frozen_at).total_seconds()
    assert outage.work_lost_seconds == pytest.approx(lost, abs=0.01) and 195 < lost < 215
    assert list(outage.phases) == ["waited", "attached", "restored"] or "detached" in outage.phases
    assert job.attempts[0].end == "node lost" and job.protections == 1


async def test_a_node_lost_before_any_checkpoint_starts_clean_and_says_so(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.sleep(107.3)
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    reply = await story.run_on("i-2", "zone-a", 2)
    assert reply.verdict is Verdict.RESTORE  # whatever lies on the volume, and clean if nothing does
    job = await story.ends()
    (outage,) = job.outages
    assert outage.restored_from is None and job.protections == 0
    assert "restored" not in outage.phases and "started clean" in outage.phases
    assert any("no checkpoint of it had been committed" in one.message for one in story.cloud.timeline(story.job_id))
    assert outage.work_lost_seconds is not None and 99 < outage.work_lost_seconds < 110


async def test_notices_are_heard_once_and_only_for_the_node_that_holds_the_job(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.notice("i-9")
    for _ in range(3):
        await story.notice("i-1", name="same")
    await story.happens("handed over")
    await story.notice("i-1", name="same")
    await story.sleep(34.3)
    assert len(story.nodes["i-1"].finals) == 1
    assert story.cloud.kinds(story.job_id).count("notice") == 1


async def test_a_notice_overtakes_a_checkpoint_that_a_person_wants(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    node.gate.clear()
    wish = asyncio.create_task(story.wish("w-1"))
    await story.until(lambda: len(node.requests) == 1)
    await story.notice("i-1")
    await story.happens("handed over")  # although the other one never ends
    assert [one.kind for one in node.taken] == [CheckpointKind.FINAL]
    assert (await wish).checkpoint is None
    node.gate.set()


async def test_a_report_of_the_hand_over_counts_like_the_activitys_answer(story: Story) -> None:
    """Temporal was away during the notice: nobody asked, and the node's spool tells later."""
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    final = await node.commit(CheckpointKind.FINAL)
    for _ in range(2):
        await story.report(
            ReportKind.HANDED_OVER,
            "i-1",
            1,
            checkpoint=final,
            hand_over=HandOver.END_CONTAINER,
            report_id="handed",
        )
    await story.report(ReportKind.EXITED, "i-1", 1)
    await story.until(lambda: story.cloud.volumes["vol-1"].attached_to is None)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    reply = await story.run_on("i-2", "zone-a", 2, restored_from=1, found=node.taken)
    assert reply.verdict is Verdict.RESTORE
    job = await story.ends()
    assert (job.protections, job.checkpoints_committed, job.outages[0].work_lost_seconds) == (1, 1, 0.0)


async def test_a_node_that_stayed_frozen_may_end_the_container_after_all(story: Story) -> None:
    """Temporal came back inside the notice."""
    await story.run_on("i-1", "zone-a")
    final = await story.nodes["i-1"].commit(CheckpointKind.FINAL)
    for way in (HandOver.STAY_FROZEN, HandOver.END_CONTAINER, HandOver.STAY_FROZEN):
        await story.report(ReportKind.HANDED_OVER, "i-1", 1, checkpoint=final, hand_over=way)
    await story.until(lambda: story.cloud.volumes["vol-1"].attached_to is None)
    await story.until(lambda: story.cloud.kinds(story.job_id).count("handed over") == 2)
    assert len((await story.job()).outages) == 1


async def test_an_unsent_hand_over_is_not_taken_for_the_jobs_own_failure(story: Story) -> None:
    """The node ended the container and died with its report unsent: Batch shows a bare 137."""
    await story.run_on("i-1", "zone-a")
    await story.sleep(50)
    final = await story.nodes["i-1"].commit(CheckpointKind.FINAL)
    await story.lose("i-1")
    await story.sleep(107.3)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    reply = await story.run_on("i-2", "zone-a", 2, restored_from=final.number, found=[final])
    assert reply.verdict is Verdict.RESTORE
    job = await story.ends()
    (outage,) = job.outages
    assert outage.started_at == final.frozen_at and outage.work_lost_seconds == 0 and job.protections == 1


@pytest.mark.recorded("third_node")
async def test_a_third_node_after_the_second_died_while_restoring(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    frozen = story.nodes["i-1"].taken[0].frozen_at
    second = await story.attach("i-2", "zone-b", 2)
    assert second.verdict is Verdict.RESTORE
    await story.sleep(55)  # the node died: nothing is heard of it, and Batch lists a start that it does not count
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), started_at=None, **LOST)
    third = await story.run_on("i-3", "zone-a", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert (third.verdict, third.epoch) == (Verdict.RESTORE, 3)
    job = await story.ends()
    (outage,) = job.outages
    assert job.protections == 1 and outage.started_at == frozen and outage.work_lost_seconds == 0
    assert outage.ended_at is not None
    assert "node lost" not in story.cloud.kinds(story.job_id)
    assert [attempt.end for attempt in job.attempts] == ["handed over", "replaced", "exited"]


async def test_a_third_node_while_the_volume_is_on_its_way_to_the_second(story: Story) -> None:
    """The second one is reclaimed in the middle of the move: that is ended all the same, and the third goes on from
    there, in whichever zone it is. The checkpoint was never touched."""
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    story.cloud.move_gate.clear()
    second = asyncio.create_task(story.attach("i-2", "zone-b", 2))
    await story.until(lambda: "create_snapshot" in story.cloud.calls)
    await story.notice("i-2")
    third = asyncio.create_task(story.run_on("i-3", "zone-a", 2, restored_from=1, found=story.nodes["i-1"].taken))
    assert (await second).verdict in {Verdict.REFUSED, Verdict.WAIT}
    story.cloud.move_gate.set()
    assert (await third).verdict is Verdict.RESTORE
    job = await story.ends()
    assert job.protections == 1 and job.outages[0].work_lost_seconds == 0 and not job.quarantined
    assert story.cloud.volumes == {} and story.cloud.snapshots == {}


async def test_the_snapshot_of_a_move_does_not_wait_until_the_unmounted_volume_is_detached(story: Story) -> None:
    """The next container may come to another zone before EC2 has detached what its node let go of."""
    await story.run_on("i-1", "zone-a")
    story.cloud.held.add("vol-1")
    await story.notice("i-1")
    await story.happens("handed over")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    second = asyncio.create_task(story.run_on("i-2", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken))
    await story.until(lambda: "snap-of-vol-1" in story.cloud.snapshots)
    assert story.cloud.volumes["vol-1"].attached_to == "i-1" and "vol-2" not in story.cloud.volumes
    story.cloud.held.clear()
    assert (await second).volume_id == "vol-2"
    await story.ends()
    assert story.cloud.volumes == {} and story.cloud.snapshots == {}


async def test_a_node_that_dies_in_the_first_seconds_after_a_restore_burns_no_checkpoint(story: Story) -> None:
    """However often that happens, and without a checkpoint of its own."""
    node = await story.node("i-1")
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    for number in (2, 3, 4):
        await story.run_on(f"i-{number}", "zone-a", number, restored_from=1, found=node.taken)
        await story.sleep(2.3)
        await story.lose(f"i-{number}")
        story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    reply = await story.run_on("i-5", "zone-a", 5, restored_from=1, found=node.taken)
    assert reply.verdict is Verdict.RESTORE and reply.quarantined == []
    job = await story.ends()
    assert job.protections == 4 and sum(outage.work_lost_seconds or 0 for outage in job.outages) < 30


async def test_a_zone_without_capacity_is_asked_again(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await reclaimed(story, "i-1")
    story.cloud.failing_volumes = 3
    await story.run_on("i-2", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert story.cloud.failing_volumes == 0
    job = await story.ends()
    assert job.protections == 1 and story.cloud.volumes == {} and story.cloud.snapshots == {}


async def test_several_reclaims_in_a_row(story: Story) -> None:
    found: list[Checkpoint] = []
    for attempt, (instance, zone) in enumerate([("i-1", "zone-a"), ("i-2", "zone-b"), ("i-3", "zone-b")], start=1):
        node = await story.node(instance)
        node.first_number = attempt
        await story.run_on(instance, zone, attempt, restored_from=found[-1].number if found else None, found=found)
        await story.sleep(64.3)
        await story.notice(instance)
        await story.until(lambda node=node: len(node.taken) == 1)
        await story.reaches(JobState.CHECKPOINT_SUCCEEDED)
        story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
        found.append(node.taken[0])
    await story.run_on("i-4", "zone-a", 4, restored_from=3, found=found)
    job = await story.ends()
    assert job.protections == 3 and [outage.work_lost_seconds for outage in job.outages] == [0, 0, 0]
    assert [attempt.zone for attempt in job.attempts] == ["zone-a", "zone-b", "zone-b", "zone-a"]
    assert story.cloud.volumes == {} and story.cloud.snapshots == {}


@pytest.mark.usefixtures("impatient")
async def test_the_ladder_is_told_and_a_bad_checkpoint_quarantined(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
    await story.run_on("i-1", "zone-a")
    await story.sleep(130)
    node = story.nodes["i-1"]
    await story.until(lambda: len(node.taken) == 2)
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    bad = RestoreRung(number=2, reason="a byte of pages-1.img is wrong")
    await story.run_on("i-2", "zone-a", 2, restored_from=1, found=node.taken, rungs=[bad])
    await story.happens("restore failed")
    await story.lose("i-2")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    rungs = [bad, RestoreRung(number=1, reason="no such CPU feature", node_fault=True)]
    reply = await story.run_on("i-3", "zone-a", 3, rungs=rungs)
    assert reply.quarantined == []
    await story.lose("i-3")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    reply = await story.run_on("i-4", "zone-a", 4, restored_from=1, found=node.taken[:1])
    assert reply.quarantined == [2]
    await story.ends()


@pytest.mark.usefixtures("impatient")
async def test_what_no_node_can_restore_is_quarantined_at_once_and_a_clean_start_says_why(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
    await story.run_on("i-1", "zone-a")
    await story.sleep(130)
    node = story.nodes["i-1"]
    await story.until(lambda: len(node.taken) == 2)
    await story.lose("i-1")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    bad = RestoreRung(number=2, reason="the checkpoint's memory image is damaged (CRIU: x)", image_fault=True)
    unclear = RestoreRung(number=1, reason="for a reason that is not known yet", again=True)
    await story.run_on("i-2", "zone-a", 2, rungs=[bad, unclear, unclear])
    await story.ends()
    events = [(event.kind, event.message) for event in story.cloud.timeline(story.job_id)]
    told = [message for kind, message in events if kind == "restore failed"]
    assert told[0] == f"Checkpoint 2 was not restored (the cause is in its image): {bad.reason}"
    assert ("quarantined", "Checkpoint 2 will not be tried again: no node can restore it.") in events
    assert not any(message.startswith("Checkpoint 1 will not") for _, message in events), "one node alone"
    clean = ("started", "The job starts clean on i-2: checkpoints 1, 2 could not be restored, and no other is left.")
    assert clean in events


@pytest.mark.usefixtures("impatient")
async def test_work_lost_does_not_count_the_time_the_job_stood_still(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=100))
    await story.run_on("i-1", "zone-a")
    await story.sleep(102.3)
    node = story.nodes["i-1"]
    await story.until(lambda: len(node.taken) == 1)
    first = node.taken[0]
    for attempt, instance in ((1, "i-1"), (2, "i-2")):
        await story.sleep(42.3)
        await story.lose(instance)
        story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
        await story.sleep(1007)
        await story.run_on(f"i-{attempt + 1}", "zone-a", attempt + 1, restored_from=1, found=[first])
    job = await story.ends()
    lost = [outage.work_lost_seconds or 0 for outage in job.outages]
    assert 38 < lost[0] < 50 and 38 < lost[1] - lost[0] + (first.frozen_at - first.frozen_at).total_seconds() < 150
    assert lost[1] < 200, "the 1007 s that the job stood still were no work"
    assert timedelta(seconds=lost[1]) > timedelta(0)
