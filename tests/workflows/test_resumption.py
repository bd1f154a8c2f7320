"""A job that goes on from the kept checkpoint of another one: what its workflow inherits, and what it may not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure.contracts.protection import Verdict
from perdure.contracts.resumption import RESUME_VARIABLE, Resumed, ResumeJob, ResumptionActivities, TakenOver, TakeOver
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.jobs import JobState, StoredUnder
from perdure.domain.volumes import JobVolume
from tests.fakes import HOST_LOST
from tests.workflows.conftest import keep_history
from tests.workflows.story import Story

OLD = "old-job"


class Records(ResumptionActivities):
    """The control worker's records: who may take over what."""

    def __init__(self) -> None:
        self.allowed: dict[str, TakenOver] = {}
        self.pending = 0
        """Questions that are answered by "not known yet"."""

    @activity.defn(name="submit_resumption")
    async def submit_resumption(self, request: ResumeJob) -> Resumed:
        raise AssertionError("not asked for here")

    @activity.defn(name="take_over")
    async def take_over(self, request: TakeOver) -> TakenOver:
        if self.pending:
            self.pending -= 1
            raise ApplicationError("it is being submitted", type="ResumptionPending")
        if request.predecessor not in self.allowed:
            raise ApplicationError("job old-job was not resumed as this job", type="NotResumable")
        return self.allowed[request.predecessor]


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
async def resumed(
    environment: WorkflowEnvironment, records: Records, request: pytest.FixtureRequest
) -> AsyncIterator[Story]:
    """A story whose job was submitted with the variable that names a predecessor."""

    class Resumed(Story):
        more_activities = (records.take_over,)

    async with Resumed.begin(environment.client, environment) as story:
        yield story
    await keep_history(story, request)


async def inheritance(story: Story) -> TakenOver:
    now = await story.now()
    kept = Checkpoint(number=7, kind=CheckpointKind.FINAL, epoch=3, frozen_at=now, committed_at=now, image_bytes=5)
    volume = JobVolume(volume_id="vol-old", zone="zone-a", size_gib=10)
    story.cloud.volumes[volume.volume_id] = volume
    return TakenOver(predecessors=[OLD, "older-job"], epoch=3, volume=volume, checkpoints=[kept])


@pytest.mark.recorded("resumed")
async def test_it_goes_on_where_the_other_job_was_saved(resumed: Story, records: Records) -> None:
    records.allowed[OLD], records.pending = await inheritance(resumed), 2
    inherited = records.allowed[OLD].checkpoints
    environment = {RESUME_VARIABLE: OLD}
    first = await resumed.run_on("i-1", "zone-a", restored_from=7, found=inherited, environment=environment)
    assert (first.verdict, first.epoch, first.volume_id) == (Verdict.RESTORE, 4, "vol-old")
    assert first.predecessors == [OLD, "older-job"]
    job = await resumed.job()
    assert (job.checkpoints_committed, job.protections, job.outages) == (0, 0, [])
    assert [one.number for one in job.checkpoints] == [7]
    assert [life.volume_id for life in job.volumes] == ["vol-old"]
    # From here on it is a job like any other: a reclaim, another zone, an end.
    resumed.nodes["i-1"].first_number = 8
    await resumed.notice("i-1")
    await resumed.reaches(JobState.CHECKPOINT_SUCCEEDED)
    resumed.cloud.attempt_over(resumed.job_id, "RUNNABLE", await resumed.now(), status_reason=HOST_LOST)
    second = await resumed.run_on("i-2", "zone-b", 2, restored_from=8, environment=environment)
    assert (second.verdict, second.epoch) == (Verdict.RESTORE, 5)
    assert (await resumed.job()).protections == 1
    await resumed.ends()
    assert resumed.cloud.volumes == {}
    assert resumed.cloud.kinds(resumed.job_id).count("resumed") == 1


async def test_out_of_a_store_it_goes_on_under_the_old_name(resumed: Story, records: Records) -> None:
    now = await resumed.now()
    kept = Checkpoint(number=7, kind=CheckpointKind.FINAL, epoch=3, frozen_at=now, committed_at=now)
    stored = StoredUnder(store=StoreConfiguration(kind="s3", bucket="checkpoints"), job_id="older-job")
    records.allowed[OLD] = TakenOver(predecessors=[OLD, "older-job"], epoch=3, stored=stored, checkpoints=[kept])
    environment = {RESUME_VARIABLE: OLD}
    reply = await resumed.run_on("i-1", "zone-a", restored_from=7, found=[kept], environment=environment)
    assert (reply.verdict, reply.epoch, reply.volume_id) == (Verdict.RESTORE, 4, None)
    assert (reply.store, reply.stored_as) == (stored.store, "older-job")
    job = await resumed.job()
    assert (job.volumes, job.stored, [one.number for one in job.checkpoints]) == ([], stored, [7])
    job = await resumed.ends()
    assert [one.job_id for one in resumed.cloud.forgotten] == ["older-job"]
    assert (job.stored, job.checkpoints, resumed.cloud.volumes) == (None, [], {})


async def test_a_variable_alone_gives_no_right_to_anothers_volume(resumed: Story) -> None:
    await inheritance(resumed)
    reply = await resumed.run_on("i-1", "zone-a", environment={RESUME_VARIABLE: OLD})
    assert (reply.verdict, reply.epoch, reply.predecessors) == (Verdict.FRESH, 1, [])
    assert reply.volume_id != "vol-old"
    assert resumed.cloud.volumes["vol-old"].attached_to is None
    await resumed.happens("not resumed")
    said = [line.message for line in resumed.cloud.timeline(resumed.job_id) if line.kind == "not resumed"]
    assert said == [f"It does not go on from job {OLD}: job old-job was not resumed as this job."]
    await resumed.ends()
    assert list(resumed.cloud.volumes) == ["vol-old"]
