"""Snapshots while the job runs: begun after a checkpoint when they are due, used by a move, gone at the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, JobVolumeConfiguration, SystemConfiguration
from perdure.domain.zone_snapshots import GIB, VolumeUse
from tests.workflows.story import Story
from tests.workflows.test_reclaims import ENDED_BY_US, reclaimed

WRITING = VolumeUse(used_bytes=2 * GIB, written_bytes=3 * GIB)


async def begin(story: Story, zone_snapshot_seconds: float = 600.0) -> None:
    """A job on i-1 in zone-a with a checkpoint each five minutes, whose volume is in use."""
    story.cloud.configuration = SystemConfiguration(
        checkpoint=CheckpointConfiguration(interval_seconds=300.0),
        job_volume=JobVolumeConfiguration(zone_snapshot_seconds=zone_snapshot_seconds),
    )
    await story.run_on("i-1", "zone-a")
    story.nodes["i-1"].volume_use = WRITING


def told(story: Story, kind: str) -> list[str]:
    return [event.message for event in story.cloud.events[story.job_id].values() if event.kind == kind]


async def test_a_snapshot_is_taken_when_much_has_changed_and_time_has_passed(story: Story) -> None:
    await begin(story)
    await story.sleep(423.3)
    assert "refresh_snapshots" not in story.cloud.calls
    await story.sleep(303.3)
    await story.happens("zone snapshot")
    assert story.cloud.calls.count("refresh_snapshots") == 1
    await story.sleep(903.3)
    assert story.cloud.calls.count("refresh_snapshots") == 1, "nothing was written since"
    story.nodes["i-1"].volume_use = VolumeUse(used_bytes=2 * GIB, written_bytes=4 * GIB)
    await story.sleep(303.3)
    await story.until(lambda: story.cloud.calls.count("refresh_snapshots") == 2)
    job = await story.ends()
    assert story.cloud.snapshots == {}
    (life,) = job.snapshots
    assert life.deleted_at is not None and (life.size_gib, life.volume_id) == (2, "vol-1")


@pytest.mark.recorded("warm_zone_change")
async def test_a_change_of_zone_keeps_its_snapshot_and_predicts_its_time(story: Story) -> None:
    await begin(story)
    await story.sleep(903.3)
    await story.happens("zone snapshot")
    node = story.nodes["i-1"]
    await reclaimed(story, "i-1")
    await story.sleep(34.3)
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=node.taken[-1].number, found=node.taken)
    assert reply.cold_volume and reply.volume_id == "vol-2"
    assert list(story.cloud.snapshots) == ["snap-of-vol-1"], "the next one builds on it; the older one is gone"
    began, others, done = told(story, "migration")
    assert "by a snapshot: 0.00 GiB changed since the last zone snapshot; predicted: 1" in began
    assert "a copy in a store (at least 37 s: no store is configured (store.kind))" in others
    assert "another container in zone-a (at least " in others and "would cost one of 8 attempts that are" in others
    assert "; predicted were 14 s (detached" in done
    job = await story.ends()
    assert story.cloud.snapshots == {} and story.cloud.volumes == {}
    assert [life.volume_id for life in job.snapshots] == ["vol-1", "vol-2"]
    assert all(life.deleted_at is not None for life in job.snapshots)


async def test_a_clean_start_in_another_zone_moves_nothing(story: Story) -> None:
    """What is on the volume would be deleted first, after minutes of moving it."""
    await begin(story)
    await story.sleep(903.3)
    await story.happens("zone snapshot")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), exit_code=1)
    await story.report(ReportKind.EXITED, "i-1", 1)
    reply = await story.run_on("i-2", "zone-b", 2)
    assert (reply.verdict, reply.volume_id) == (Verdict.FRESH, "vol-2")
    (line,) = told(story, "migration")
    assert "nothing moves from zone-a to zone-b" in line and "was predicted to take" in line
    assert "create_snapshot" not in story.cloud.calls and "vol-1" in story.cloud.volumes
    await story.sleep(37.3)
    await story.until(lambda: "vol-1" in story.cloud.deleted)
    assert await story.runs()
    job = await story.ends()
    assert story.cloud.volumes == {} and story.cloud.snapshots == {}
    assert [(life.volume_id, life.deleted_at is not None) for life in job.volumes] == [("vol-1", True), ("vol-2", True)]


async def test_without_zone_snapshots_a_move_goes_as_before(story: Story) -> None:
    await begin(story, 0.0)
    await story.sleep(903.3)
    node = story.nodes["i-1"]
    await reclaimed(story, "i-1")
    await story.run_on("i-2", "zone-b", 2, restored_from=node.taken[-1].number, found=node.taken)
    assert story.cloud.snapshots == {} and "refresh_snapshots" not in story.cloud.calls
    assert "2.00 GiB to move, no zone snapshot yet" in told(story, "migration")[0]
    await story.ends()
    assert "refresh_snapshots" not in story.cloud.calls


async def test_what_would_cost_too_much_is_told_once(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=300.0))
    await story.run_on("i-1", "us-east-1a", instance_type="c5.large")
    story.nodes["i-1"].volume_use = VolumeUse(used_bytes=900 * GIB, written_bytes=900 * GIB)
    await story.sleep(2403.3)
    await story.happens("zone snapshot")
    await story.ends()
    (message,) = told(story, "zone snapshot")
    assert "900 GiB" in message and "$0.0616 an hour" in message and "refresh_snapshots" not in story.cloud.calls


async def test_a_snapshot_that_fails_leaves_the_job_alone(story: Story) -> None:
    async def refuse() -> None:
        raise ApplicationError("EC2 says no", type="VolumeFailed", non_retryable=True)

    story.cloud.before_snapshot = refuse
    await begin(story)
    await story.sleep(903.3)
    await story.until(lambda: any("EC2 says no" in message for message in told(story, "zone snapshot")))
    assert await story.runs()
    story.cloud.before_snapshot = None
    await story.ends()


async def test_none_is_begun_beside_a_pending_one_and_what_changed_is_not_forgotten(story: Story) -> None:
    await begin(story)
    story.cloud.snapshot_pending = True
    await story.sleep(903.3)
    await story.until(lambda: "refresh_snapshots" in story.cloud.calls)
    assert story.cloud.snapshots == {} and told(story, "zone snapshot") == []
    story.cloud.snapshot_pending = False
    await story.sleep(303.3)  # nothing more was written, but what was is still to be moved
    await story.until(lambda: story.cloud.snapshots != {})
    await story.ends()


async def test_a_notice_overtakes_a_snapshot(story: Story) -> None:
    await begin(story, 1.0)
    node = story.nodes["i-1"]
    await story.sleep(243.3)
    story.cloud.snapshot_gate.clear()
    taken = await node.commit(CheckpointKind.PERIODIC)
    await story.report(ReportKind.CHECKPOINT, "i-1", 1, checkpoint=taken, volume_use=WRITING)
    await story.until(lambda: "refresh_snapshots" in story.cloud.calls)
    await reclaimed(story, "i-1")
    story.cloud.snapshot_gate.set()
    job = await story.job()
    assert job.attempts[0].end == "handed over"
    await story.sleep(34.3)
    await story.run_on("i-2", "zone-a", 2, restored_from=2, found=node.taken)
    await story.ends()
    assert story.cloud.snapshots == {}


async def test_a_move_whose_snapshot_fails_is_tried_again(story: Story) -> None:
    await begin(story, 0.0)
    await story.sleep(303.3)
    node = story.nodes["i-1"]
    await reclaimed(story, "i-1")
    story.cloud.failing_snapshots = 2
    await story.run_on("i-2", "zone-b", 2, restored_from=node.taken[-1].number, found=node.taken)
    assert story.cloud.failing_snapshots == 0 and story.cloud.calls.count("create_snapshot") == 3
    job = await story.ends()
    assert job.protections == 1 and story.cloud.volumes == {} and story.cloud.snapshots == {}


async def test_a_volume_that_had_to_be_forced_is_told(story: Story) -> None:
    await begin(story, 0.0)
    story.cloud.detached_by_force = True
    await reclaimed(story, "i-1")
    await story.until(lambda: any("taken by force" in message for message in told(story, "volume")))
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert reply.forced_volume, "its file system is checked, also when it has moved"
    story.cloud.detached_by_force = False
    await reclaimed(story, "i-2")
    assert not (await story.run_on("i-3", "zone-b", 3, restored_from=2, found=story.nodes["i-2"].taken)).forced_volume
    await story.ends()


@pytest.mark.parametrize("zone", ["zone-a", "zone-b"])
async def test_a_container_that_comes_while_the_detach_hangs_may_still_take_it_by_force(
    story: Story, zone: str
) -> None:
    """Fault: only the hand-over's own detach knew that the node had let go. Batch retries at once, and the next
    container's detach waited for as long as EC2 hung."""
    await begin(story, 0.0)
    story.cloud.mounted.add("vol-1")  # as if EC2 hung
    await story.notice("i-1")
    await story.until(lambda: story.cloud.let_go == [True])
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    coming = asyncio.create_task(story.attach("i-2", zone, 2))
    await story.until(lambda: len(story.cloud.let_go) == 2)
    assert story.cloud.let_go == [True, True]
    story.cloud.detached_by_force = True
    story.cloud.mounted.clear()
    assert (await coming).forced_volume and any("taken by force" in message for message in told(story, "volume"))
    assert story.cloud.let_go == [True, True], "one detach was enough"


async def test_a_volume_that_is_nearly_full_grows_and_a_refusal_is_told(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(
        checkpoint=CheckpointConfiguration(interval_seconds=300.0),
        job_volume=JobVolumeConfiguration(size_gib=10, grow_to_gib=100, zone_snapshot_seconds=0),
    )
    await story.run_on("i-1", "zone-a")
    node = story.nodes["i-1"]
    node.volume_use = VolumeUse(used_bytes=7 * GIB, written_bytes=7 * GIB)
    await story.sleep(303.3)
    assert "grow_volume" not in story.cloud.calls
    node.volume_use = VolumeUse(used_bytes=9 * GIB, written_bytes=9 * GIB)
    await story.sleep(303.3)
    await story.until(lambda: any("has 15 GiB now" in message for message in told(story, "volume")))
    assert story.cloud.volumes["vol-1"].size_gib == 15 and (await story.job()).volumes[0].size_gib == 15
    node.volume_use, story.cloud.refuses_growth = VolumeUse(used_bytes=14 * GIB, written_bytes=14 * GIB), True
    await story.sleep(303.3)
    assert story.cloud.calls.count("grow_volume") == 1, "not twice within the hour"
    await story.sleep(3603.3)
    await story.until(lambda: any("could not be made larger" in message for message in told(story, "volume")))
    await reclaimed(story, "i-1")
    await story.run_on("i-2", "zone-b", 2, restored_from=node.taken[-1].number, found=node.taken)
    assert story.cloud.volumes["vol-2"].size_gib == 15, "the move keeps its size"
    await story.ends()


def test_intervals() -> None:
    assert JobVolumeConfiguration().zone_snapshot_seconds == timedelta(minutes=30).total_seconds()
    assert JobVolumeConfiguration.model_validate({"zone_snapshot_seconds": "5m"}).zone_snapshot_seconds == 300
    with pytest.raises(ValueError, match="100 to 300"):
        JobVolumeConfiguration(initialization_mib_per_second=50)
