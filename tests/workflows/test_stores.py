"""Jobs without a volume whose checkpoints are in a store: the same life, and no volume anywhere in it."""

from __future__ import annotations

import asyncio

import pytest

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.alerts import alerts
from perdure.domain.configuration import (
    CheckpointConfiguration,
    JobVolumeConfiguration,
    StoreConfiguration,
    SystemConfiguration,
)
from perdure.domain.jobs import Job
from tests.workflows.story import Story
from tests.workflows.test_reclaims import ENDED_BY_US, LOST

STORE = StoreConfiguration(kind="s3", bucket="checkpoints", prefix="perdure/")
IN_A_STORE = SystemConfiguration(job_volume=JobVolumeConfiguration(enabled=False), store=STORE)
VOLUME_CALLS = {"create_volume", "attach_volume", "detach_volume", "create_snapshot", "delete_volume"}


async def reclaimed(story: Story, instance_id: str) -> Job:
    await story.notice(instance_id)
    await story.happens("handed over")
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
    return await story.job()


@pytest.mark.recorded("in_a_store")
async def test_a_job_moves_by_its_store_alone(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE
    reply = await story.run_on("i-1", "zone-a")
    assert (reply.verdict, reply.volume_id, reply.store) == (Verdict.FRESH, None, STORE)
    await story.sleep(304.3)
    await reclaimed(story, "i-1")
    await story.sleep(34.3)
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert (reply.verdict, reply.volume_id, reply.store) == (Verdict.RESTORE, None, STORE)
    job = await story.ends()
    assert (job.protections, job.volumes, job.volume_id) == (1, [], None)
    assert job.outages[0].work_lost_seconds == 0.0
    assert [one.job_id for one in story.cloud.forgotten] == [story.job_id]
    assert story.cloud.forgotten[0].store == STORE and job.checkpoints == []
    assert not VOLUME_CALLS & set(story.cloud.calls)


async def test_it_stays_with_its_store_whatever_is_configured_later(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE
    await story.run_on("i-1", "zone-a")
    await story.sleep(904.3)
    story.cloud.configuration = SystemConfiguration(store=StoreConfiguration(kind="directory", directory="/efs"))
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.doubt("i-1")
    reply = await story.run_on("i-2", "zone-b", 2, restored_from=1, found=story.nodes["i-1"].taken)
    assert (reply.verdict, reply.store, story.cloud.volumes) == (Verdict.RESTORE, STORE, {})
    await story.ends()
    assert story.cloud.forgotten[0].store == STORE


async def test_with_volumes_on_a_store_changes_nothing(story: Story) -> None:
    story.cloud.configuration = SystemConfiguration(store=STORE)
    reply = await story.run_on("i-1", "zone-a")
    assert (reply.volume_id, reply.store) == ("vol-1", None)
    await story.ends()
    assert story.cloud.forgotten == []


async def test_a_failure_of_its_own_starts_clean(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE
    await story.run_on("i-1", "zone-a")
    await story.sleep(904.3)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), exit_code=1)
    reply = await story.run_on("i-2", "zone-a", 2)
    assert (reply.verdict, reply.store) == (Verdict.FRESH, STORE)
    await story.ends()


async def test_what_was_asked_of_the_store_is_recorded_once_whoever_tells_it_and_however_late(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE
    await story.run_on("i-1", "zone-a")

    def use(name: str, **fields: int) -> dict[str, object]:
        return {"report_id": name, "store_use": {"use_id": name, "at": "2026-11-30T12:00:00Z", **fields}}

    failed = use("failed", writes=7)
    for _ in range(2):
        await story.report(ReportKind.CHECKPOINT_FAILED, "i-1", 1, reason="the store is away", **failed)
    story.cloud.database_down = True
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.doubt("i-1")
    await story.run_on("i-2", "zone-a", 2)
    await story.report(ReportKind.EXITED, "i-1", 1, **use("late", reads=5))
    story.cloud.database_down = False
    job = await story.ends()
    assert job.stored is None
    told = [(one.use_id, one.writes, one.reads, one.held_bytes) for one in story.cloud.store_uses]
    assert told == [("failed", 7, 0, None), ("late", 0, 5, None), ("forgotten", 3, 0, 0)]


async def test_diagnosis_mode_keeps_what_is_in_the_store(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE.model_copy(update={"checkpoint": CheckpointConfiguration(diagnosis=True)})
    await story.run_on("i-1", "zone-a")
    await story.ends("FAILED", exit_code=1)
    assert story.cloud.forgotten == []
    assert "kept in the store for a while: diagnosis mode" in story.cloud.timeline(story.job_id)[-1].message


async def test_what_could_not_be_deleted_is_told(story: Story) -> None:
    story.cloud.configuration = IN_A_STORE
    story.cloud.store_failure = "s3://checkpoints/: S3 answered AccessDenied"
    await story.run_on("i-1", "zone-a")
    await story.ends()
    last = story.cloud.timeline(story.job_id)[-1]
    assert last.level == "error" and "still take space" in last.message and "AccessDenied" in last.message


@pytest.mark.parametrize("reason", ["VolumeLimitExceeded", "AttachmentLimitExceeded"])
@pytest.mark.parametrize("store", [STORE, StoreConfiguration()])
async def test_where_no_volume_can_be_had_the_store_is_used_or_the_job_is_seen_to_run_unprotected(
    story: Story, store: StoreConfiguration, reason: str
) -> None:
    """The quota of the account is used up, or every slot of the instance."""
    story.cloud.configuration = SystemConfiguration(store=store)
    story.cloud.quota_reached = reason == "VolumeLimitExceeded"
    story.cloud.slots_taken = not story.cloud.quota_reached
    if store == STORE:
        reply = await story.run_on("i-1", "zone-a")
        assert (reply.verdict, reply.store, reply.volume_id) == (Verdict.FRESH, STORE, None)
        await story.until(lambda: "store" in story.cloud.kinds(story.job_id))
        story.cloud.quota_reached = story.cloud.slots_taken = False
        job = await story.ends()
        assert story.cloud.volumes == {} and story.cloud.calls.count("create_volume") == 1
        assert all(life.deleted_at for life in job.volumes)
        return
    while (reply := await story.attach("i-1", "zone-a")).verdict is Verdict.WAIT:
        pass
    assert reply.verdict is Verdict.UNPROTECTED and reason in reply.reason
    job = await story.job()
    assert reason in job.unprotected and job.volume_id is None and story.cloud.volumes == {}
    assert "unprotected" in [alert.code for alert in alerts(job, job.created_at)]


async def test_a_job_with_checkpoints_on_its_volume_waits_for_a_slot(story: Story) -> None:
    await story.run_on("i-1", "zone-a")
    await story.sleep(904.3)
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **LOST)
    await story.doubt("i-1")
    story.cloud.slots_taken = True
    waits = asyncio.create_task(story.attach("i-2", "zone-a", 2))
    await story.happens("trouble")
    assert "AttachmentLimitExceeded" in story.cloud.timeline(story.job_id)[-1].message
    story.cloud.slots_taken = False
    await story.sleep(12.3)
    assert (await waits).volume_id == "vol-1"
    node = story.nodes["i-1"]
    reply = await story.run_on("i-2", "zone-a", 2, restored_from=node.taken[-1].number, found=node.taken)
    assert reply.verdict is Verdict.RESTORE
    await story.ends()


async def test_rules_choose_which_jobs_get_a_volume(story: Story) -> None:
    rules = JobVolumeConfiguration(for_jobs=["name=other*", "queue=default memory>=8192"])
    story.cloud.configuration = SystemConfiguration(job_volume=rules, store=STORE)
    story.cloud.job(story.job_id, name="chain", queue="default", memory_mib=4096)
    reply = await story.run_on("i-1", "zone-a")
    assert (reply.store, reply.volume_id) == (STORE, None)
    await story.ends()
    assert not VOLUME_CALLS & set(story.cloud.calls)
