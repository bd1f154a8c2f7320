"""Resuming against the local cloud's Batch and EC2, over the wire, without nodes; records in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine
from temporalio.testing import ActivityEnvironment

from activities.batch import BatchLookups
from activities.resumption import Resumptions, submission
from activities.stores import Stores
from activities.volumes import Volumes
from perdure.contracts.control import CreateVolume
from perdure.contracts.resumption import RESUME_VARIABLE, ResumeJob, TakeOver
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.errors import NotResumable, ResumptionPending, UnknownJob
from perdure.domain.jobs import Job, JobState
from perdure.domain.volumes import VolumeLife
from perdure.records.jobs import resumptions
from perdure.records.jobs.events import list_events
from perdure.records.jobs.jobs import get_job, record_job
from perdure.records.schema.database import reading, writing
from tests.patience import PATIENCE
from tests.unit.cloud_bed import CloudBed, cloud_bed

T = TypeVar("T")
RESOURCES = {"resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}]}
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        bed.cloud.engine.limit_capacity([], [])  # no job of these tests gets as far as a container
        yield bed


@pytest.fixture
def resuming(bed: CloudBed, engine: Engine) -> Resumptions:
    stores = Stores(engine, Path("/nowhere/store.key"), BatchLookups(bed.aws.batch))
    return Resumptions(engine, stores, bed.aws.batch, bed.aws.ec2, now=lambda: NOW + timedelta(hours=1))


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    """As a worker would; a hanging one fails."""
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


def wish(job_id: str, key: str = "key-1") -> ResumeJob:
    return ResumeJob(job_id=job_id, request_id=key, asked_by="Ann", asked_at=NOW)


async def kept_job(bed: CloudBed, engine: Engine, **changes: object) -> Job:
    """A job that ended, with a kept checkpoint on a volume of its own."""
    job_id = bed.submit(
        jobName="align",
        retryStrategy={"attempts": 1, "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "RETRY"}]},
        timeout={"attemptDurationSeconds": 3600},
        tags={"team": "genomics"},
        containerOverrides={
            "command": ["/bin/sh", "-c", "echo 'a b'"],
            "environment": [{"name": "SAMPLE", "value": "x y"}],
            "resourceRequirements": [{"type": "MEMORY", "value": "700"}],
        },
    )
    bed.aws.batch.terminate_job(jobId=job_id, reason="played")
    bed.wait_status(job_id, "FAILED")
    made = await run(
        Volumes(0.02, bed.aws.ec2).create_volume,
        CreateVolume(job_id=job_id, zone="us-east-1a", volume_type="gp3", size_gib=1, token=job_id),
    )
    job = Job(
        job_id=job_id,
        queue="default",
        state=JobState.FAILED,
        created_at=NOW,
        finished_at=NOW,
        epoch=3,
        checkpoints=[Checkpoint(number=7, kind=CheckpointKind.FINAL, epoch=3, frozen_at=NOW, committed_at=NOW)],
        volume_id=made.volume_id,
        volume_zone=made.zone,
        volumes=[VolumeLife(volume_id=made.volume_id, zone=made.zone, volume_type="gp3", size_gib=1, created_at=NOW)],
    ).model_copy(update=changes)
    with writing(engine) as session:
        record_job(session, job, [], 1)
    return job


async def test_a_new_job_like_the_old_one_is_submitted_once(
    bed: CloudBed, engine: Engine, resuming: Resumptions
) -> None:
    old = await kept_job(bed, engine)
    resumed = await run(resuming.submit_resumption, wish(old.job_id))
    assert (resumed.checkpoint, resumed.queue, resumed.refusal) == (7, "default", "")
    assert await run(resuming.submit_resumption, wish(old.job_id)) == resumed
    new, before = bed.job(resumed.new_job_id), bed.job(old.job_id)
    assert new["jobName"] == resumed.job_name
    for same in ("jobDefinition", "jobQueue", "retryStrategy", "timeout", "parameters"):
        assert new[same] == before[same], same
    for same in ("command", "resourceRequirements", "image"):
        assert new["container"][same] == before["container"][same], same
    variables = {one["name"]: one["value"] for one in new["container"]["environment"]}
    assert variables["SAMPLE"] == "x y"
    assert variables[RESUME_VARIABLE] == old.job_id
    assert new["tags"] == {"team": "genomics", "perdure:resumed-from": old.job_id, "perdure:checkpoint": "7"}
    with reading(engine) as session:
        (line,) = list_events(session, old.job_id)
    assert (line.kind, line.message) == ("resumed", f"Resumed by Ann as job {resumed.new_job_id}, from checkpoint 7.")
    with pytest.raises(NotResumable, match=f"resumed already, as job {resumed.new_job_id}"):
        await run(resuming.submit_resumption, wish(old.job_id, "key-2"))
    # One that ended before it took the volume was nothing: the checkpoint is still there.
    bed.aws.batch.terminate_job(jobId=resumed.new_job_id, reason="not needed")
    bed.wait_status(resumed.new_job_id, "FAILED")
    again = await run(resuming.submit_resumption, wish(old.job_id, "key-2"))
    assert again.new_job_id not in {resumed.new_job_id, ""}


async def test_a_definition_that_was_deregistered_is_no_obstacle(
    bed: CloudBed, engine: Engine, resuming: Resumptions
) -> None:
    """Clients such as miniwdl and Toil deregister theirs; DescribeJobs still has all that it said."""
    old = await kept_job(bed, engine)
    before = bed.job(old.job_id)
    bed.aws.batch.deregister_job_definition(jobDefinition=before["jobDefinition"])
    try:
        resumed = await run(resuming.submit_resumption, wish(old.job_id))
    finally:
        properties: Any = {"image": "localhost/machine", "command": ["true"], **RESOURCES}
        bed.aws.batch.register_job_definition(
            jobDefinitionName="perdure-local", type="container", containerProperties=properties
        )
    new = bed.job(resumed.new_job_id)
    assert new["jobDefinition"] != before["jobDefinition"]
    for same in ("jobQueue", "retryStrategy", "timeout"):
        assert new[same] == before[same], same
    for same in ("command", "resourceRequirements", "image", "mountPoints", "volumes"):
        assert new["container"].get(same) == before["container"].get(same), same
    active = bed.aws.batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]
    assert new["jobDefinition"] not in [one["jobDefinitionArn"] for one in active], "what we registered is gone again"


async def test_an_answer_that_was_lost_submits_nothing_twice(
    bed: CloudBed, engine: Engine, resuming: Resumptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await kept_job(bed, engine)

    def dies(note: object) -> None:
        raise OSError("the worker died right after SubmitJob")

    with monkeypatch.context() as patch:
        patch.setattr(resuming, "_submitted", dies)
        with pytest.raises(OSError):
            await run(resuming.submit_resumption, wish(old.job_id))
    resumed = await run(resuming.submit_resumption, wish(old.job_id))
    named = bed.aws.batch.list_jobs(jobQueue="default", filters=[{"name": "JOB_NAME", "values": [resumed.job_name]}])
    assert [one["jobId"] for one in named["jobSummaryList"]] == [resumed.new_job_id]


async def test_only_the_job_that_was_submitted_gets_the_volume(
    bed: CloudBed, engine: Engine, resuming: Resumptions
) -> None:
    old = await kept_job(bed, engine)
    thief = TakeOver(job_id="thief", predecessor=old.job_id)
    with pytest.raises(NotResumable, match="was not resumed as this job"):
        await run(resuming.take_over, thief)
    with writing(engine) as session:
        resumptions.begin(
            session,
            resumptions.Resumption(
                job_id=old.job_id,
                request_id="key-1",
                job_name="align-resumed-x",
                checkpoint=7,
                volume_id=old.volume_id or "",
                epoch=3,
                asked_at=NOW,
            ),
        )
    with pytest.raises(ResumptionPending):
        await run(resuming.take_over, thief)
    resumed = await run(resuming.submit_resumption, wish(old.job_id))
    with pytest.raises(NotResumable):
        await run(resuming.take_over, thief)
    asked = TakeOver(job_id=resumed.new_job_id, predecessor=old.job_id)
    taken = await run(resuming.take_over, asked)
    assert (taken.predecessors, taken.epoch) == ([old.job_id], 3)
    assert taken.volume and taken.volume.volume_id == old.volume_id
    assert taken.checkpoints == old.checkpoints
    assert await run(resuming.take_over, asked) == taken
    found = bed.aws.ec2.describe_volumes(VolumeIds=[str(old.volume_id)])["Volumes"][0]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["perdure:job"] == resumed.new_job_id
    assert tags["perdure:resumed-from"] == old.job_id
    with reading(engine) as session:
        assert get_job(session, old.job_id).volumes[0].deleted_at == NOW + timedelta(hours=1), (
            "it costs the new job now"
        )
        assert resumptions.line_of(session, resumed.new_job_id) == [resumed.new_job_id, old.job_id]
    # It is the new job's now, whatever becomes of that.
    bed.aws.batch.terminate_job(jobId=resumed.new_job_id, reason="played")
    bed.wait_status(resumed.new_job_id, "FAILED")
    with pytest.raises(NotResumable, match="resumed already"):
        await run(resuming.submit_resumption, wish(old.job_id, "key-2"))


async def test_what_cannot_be_resumed_says_why(bed: CloudBed, engine: Engine, resuming: Resumptions) -> None:
    refused: list[tuple[dict[str, object], str]] = [
        ({"state": JobState.RUNNING}, "has not ended"),
        ({"checkpoints": []}, "no kept checkpoint"),
        ({"volume_id": None}, "no kept checkpoint"),
        ({"volume_id": "vol-0123456789abcdef0"}, "no longer exists"),
    ]
    for changes, reason in refused:
        old = await kept_job(bed, engine, **changes)
        with pytest.raises(NotResumable, match=reason):
            await run(resuming.submit_resumption, wish(old.job_id))
        with reading(engine) as session:
            assert resumptions.of_job(session, old.job_id) is None


async def test_a_volume_of_somebody_else_an_unknown_job_and_a_definition_that_is_gone(
    bed: CloudBed, engine: Engine, resuming: Resumptions
) -> None:
    other, old = await kept_job(bed, engine), await kept_job(bed, engine)
    forged = old.model_copy(update={"volume_id": other.volume_id})
    with writing(engine) as session:
        record_job(session, forged, [], 2)
    with pytest.raises(NotResumable, match="does not bear the tags"):
        await run(resuming.submit_resumption, wish(old.job_id))
    with pytest.raises(UnknownJob):
        await run(resuming.submit_resumption, wish("nobody"))
    forgotten = old.model_copy(update={"job_id": "forgotten"})
    with writing(engine) as session:
        record_job(session, forgotten, [], 1)
    with pytest.raises(UnknownJob, match="forgotten job"):
        await run(resuming.submit_resumption, wish("forgotten"))


def test_batchs_own_variables_and_tags_are_not_handed_in() -> None:
    note = resumptions.Resumption(
        job_id="old", request_id="k", job_name="n", checkpoint=1, volume_id="vol-1", epoch=1, asked_at=NOW
    )
    old = {
        "jobQueue": "q",
        "jobDefinition": "d:1",
        "container": {
            "environment": [
                {"name": "AWS_BATCH_JOB_ID", "value": "x"},
                {"name": "HOME", "value": "/"},
                {"name": RESUME_VARIABLE, "value": "an older one"},
            ]
        },
        "tags": {"aws:created-by": "x", **{f"t{number}": "v" for number in range(60)}},
        "retryStrategy": {"attempts": 3, "evaluateOnExit": []},
        "schedulingPriority": 5,
    }
    wanted = submission(note, old)
    assert wanted["containerOverrides"] == {
        "environment": [{"name": "HOME", "value": "/"}, {"name": RESUME_VARIABLE, "value": "old"}]
    }
    assert len(wanted["tags"]) == 50
    assert not any(name.startswith("aws:") for name in wanted["tags"])
    assert wanted["retryStrategy"] == {"attempts": 3}
    assert wanted["schedulingPriorityOverride"] == 5
    assert "timeout" not in wanted
