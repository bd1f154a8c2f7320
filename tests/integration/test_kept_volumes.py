"""Kept volumes have an end: deleted by the reconciler or a person, on both databases, EC2 played by moto in this
process. What is in use, or not ours, stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import boto3
import pytest
from moto import mock_aws
from sqlalchemy import Engine
from temporalio.testing import ActivityEnvironment

from activities.batch import BatchLookups
from activities.ebs_answers import JOB_TAG
from activities.kept_volumes import KeptVolumes
from activities.volumes import Volumes
from perdure.contracts.control import CreateVolume
from perdure.contracts.kept_volumes import RemoveVolume
from perdure.contracts.reconciling import Reconcile
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import ServerConfiguration, SystemConfiguration
from perdure.domain.errors import NotResumable, UnknownVolume, VolumeFailed, VolumeForeign, VolumeInUse
from perdure.domain.jobs import Job, JobState
from perdure.domain.volumes import VolumeLife
from perdure.records.costs.prices import save_storage
from perdure.records.costs.reports import sum_job
from perdure.records.jobs import resumptions
from perdure.records.jobs.events import list_events
from perdure.records.jobs.jobs import get_job, record_job
from perdure.records.jobs.resumptions import Resumption
from perdure.records.jobs.volume_lists import list_volumes
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import save_configuration
from tests.patience import PATIENCE

T = TypeVar("T")
ZONE = "us-east-1a"
NOW = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Batch:
    """DescribeJobs: the status of each job that Batch knows."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": [{"jobId": one, "status": self.status[one]} for one in jobs if one in self.status]}


class Bed:
    """Jobs that left a volume each, in the records and in EC2."""

    def __init__(self, engine: Engine, ec2: Any) -> None:
        self.engine, self.ec2, self.batch = engine, ec2, Batch()
        self._volumes = Volumes(0.01, ec2)
        self.kept = KeptVolumes(engine, self._volumes, BatchLookups(self.batch))

    async def job(self, job_id: str, ended: timedelta | None) -> str:
        """A job that ended so long ago (None: it runs), and its volume's id."""
        wanted = CreateVolume(job_id=job_id, zone=ZONE, volume_type="gp3", size_gib=10, token=job_id)
        volume = await run(self._volumes.create_volume, wanted)
        made = NOW - 30 * DAY
        checkpoint = Checkpoint(
            number=1, kind=CheckpointKind.FINAL, epoch=1, frozen_at=made, committed_at=made, image_bytes=1
        )
        job = Job(
            job_id=job_id,
            state=JobState.RUNNING if ended is None else JobState.FAILED,
            created_at=made,
            finished_at=None if ended is None else NOW - ended,
            volume_id=volume.volume_id,
            volume_zone=ZONE,
            checkpoints=[checkpoint],
            volumes=[
                VolumeLife(volume_id=volume.volume_id, zone=ZONE, volume_type="gp3", size_gib=10, created_at=made)
            ],
        )
        with writing(self.engine) as session:
            record_job(session, job, [], 1)
        return volume.volume_id

    async def reconcile(self) -> int:
        return (await run(self.kept.reconcile_volumes, Reconcile(now=NOW))).told

    async def remove(self, volume_id: str) -> str:
        request = RemoveVolume(volume_id=volume_id, asked_by="ann", asked_at=NOW)
        return (await run(self.kept.remove_volume, request)).job_id

    def exists(self, volume_id: str) -> bool:
        found = self.ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume_id]}])["Volumes"]
        with reading(self.engine) as session:
            listed = {one.volume_id for one in list_volumes(session, now=NOW).items}
        assert (volume_id in listed) == bool(found), "the records say what EC2 says"
        return bool(found)

    def attach(self, volume_id: str) -> str:
        placed = {"AvailabilityZone": ZONE}
        run = self.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, Placement=placed)
        instance = str(run["Instances"][0]["InstanceId"])
        self.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance, Device="/dev/sdf")
        return instance

    def resumed(self, job_id: str, volume_id: str, new_job_id: str | None) -> None:
        with writing(self.engine) as session:
            note = Resumption(
                job_id=job_id,
                request_id="r",
                job_name="n",
                new_job_id=new_job_id,
                checkpoint=1,
                volume_id=volume_id,
                epoch=1,
                asked_at=NOW,
            )
            resumptions.begin(session, note)


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


@pytest.fixture
def bed(engine: Engine) -> Iterator[Bed]:
    with mock_aws():
        yield Bed(engine, boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b"))


async def test_a_kept_volume_goes_when_its_time_is_over_and_not_before(bed: Bed) -> None:
    old, young, running = await bed.job("old", 8 * DAY), await bed.job("young", 6 * DAY), await bed.job("runs", None)
    with writing(bed.engine) as session:
        save_storage(session, "us-east-1", {"gp3": 80_000}, at=NOW - 60 * DAY)
    assert await bed.reconcile() == 1
    assert not bed.exists(old) and bed.exists(young) and bed.exists(running)
    with reading(bed.engine) as session:
        job, lines = get_job(session, "old"), list_events(session, "old")
        assert (job.volume_id, job.checkpoints, job.volumes[0].deleted_at) == (None, [], NOW)
        assert "had been kept for 168h after the job's end" in lines[-1].message
        cost = sum_job(session, "old").volume_micros
        assert cost == pytest.approx(10 * 80_000 * 30 / 31, rel=0.1), "its cost is counted to its deletion"
    assert await bed.reconcile() == 0, "and no line is added again"


async def test_the_list_tells_age_and_end(bed: Bed) -> None:
    kept, running = await bed.job("kept", 2 * DAY), await bed.job("runs", None)
    with reading(bed.engine) as session:
        found = {one.volume_id: one for one in list_volumes(session, now=NOW).items}
    assert (found[kept].kept_since, found[kept].kept_until) == (NOW - 2 * DAY, NOW + 5 * DAY)
    assert found[kept].age_seconds == 30 * 86_400
    assert (found[running].kept_since, found[running].kept_until) == (None, None)


async def test_zero_keeps_them_until_a_person_deletes_them(bed: Bed) -> None:
    volume = await bed.job("old", 300 * DAY)
    with writing(bed.engine) as session:
        save_configuration(
            session, SystemConfiguration(server=ServerConfiguration(keep_volume_seconds=0)), by="test", at=NOW
        )
    assert await bed.reconcile() == 0 and bed.exists(volume)
    with reading(bed.engine) as session:
        assert list_volumes(session, now=NOW).items[0].kept_until is None
    assert await bed.remove(volume) == "old"
    assert not bed.exists(volume)
    with reading(bed.engine) as session:
        assert "deleted by ann" in list_events(session, "old")[-1].message


async def test_what_is_attached_is_in_use_and_keeps_no_other_waiting(bed: Bed) -> None:
    volumes = [await bed.job(f"job-{number}", 9 * DAY) for number in range(3)]
    held = sorted(volumes)[0]
    instance = bed.attach(held)
    assert await bed.reconcile() == 2
    assert bed.exists(held)
    with pytest.raises(VolumeInUse, match=instance):
        await bed.remove(held)
    bed.ec2.detach_volume(VolumeId=held, InstanceId=instance)
    assert await bed.reconcile() == 1 and not bed.exists(held)


async def test_a_job_that_is_not_over_keeps_its_volume(bed: Bed) -> None:
    volume = await bed.job("runs", None)
    with pytest.raises(VolumeInUse, match="job runs, which is not over"):
        await bed.remove(volume)
    assert bed.exists(volume)


@pytest.mark.parametrize(("new_job", "status", "stays"), [
    (None, None, True),
    ("new", "RUNNABLE", True),
    ("new", "RUNNING", True),
    ("new", "FAILED", False),
    ("new", None, False),
])  # fmt: skip
async def test_what_a_resumed_job_will_take_is_in_use(
    bed: Bed, new_job: str | None, status: str | None, stays: bool
) -> None:
    volume = await bed.job("old", 9 * DAY)
    bed.resumed("old", volume, new_job)
    if new_job and status:
        bed.batch.status[new_job] = status
    assert await bed.reconcile() == (0 if stays else 1)
    assert bed.exists(volume) == stays


@pytest.mark.parametrize("tags", [{"perdure:managed": "no"}, {JOB_TAG: "another"}])
async def test_what_does_not_bear_our_tags_is_never_deleted(bed: Bed, tags: dict[str, str]) -> None:
    volume = await bed.job("old", 9 * DAY)
    bed.ec2.create_tags(Resources=[volume], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    assert await bed.reconcile() == 0
    with pytest.raises(VolumeForeign):
        await bed.remove(volume)
    assert bed.exists(volume)


async def test_one_that_somebody_else_deleted_is_recorded_as_gone(bed: Bed) -> None:
    volume = await bed.job("old", 9 * DAY)
    bed.ec2.delete_volume(VolumeId=volume)
    assert await bed.reconcile() == 1
    assert not bed.exists(volume)
    with pytest.raises(UnknownVolume):
        await bed.remove(volume)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("first", ["resume", "delete"])
async def test_a_resume_in_the_second_in_which_the_time_ends(
    bed: Bed, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at who needs it, before EC2's deletion. Whichever comes first wins; the other one hears it."""
    volume = await bed.job("old", 9 * DAY)
    refused: list[str] = []

    def resume(*_: object) -> None:
        try:
            bed.resumed("old", volume, None)
        except NotResumable as problem:
            refused.append(str(problem))

    when = "holder" if first == "resume" else "delete_volume"
    real = getattr(bed.kept._volumes, when)

    async def meanwhile(*arguments: Any) -> Any:
        resume()
        return await real(*arguments)

    monkeypatch.setattr(bed.kept._volumes, when, meanwhile)
    assert await bed.reconcile() == (0 if first == "resume" else 1)
    assert bed.exists(volume) == (first == "resume")
    assert bool(refused) == (first == "delete")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_what_could_not_be_deleted_can_be_resumed_from(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = await bed.job("old", 9 * DAY)

    async def refuses(_: object) -> None:
        raise VolumeFailed("AWS refused to delete it")

    with monkeypatch.context() as patched:
        patched.setattr(bed.kept._volumes, "delete_volume", refuses)
        assert await bed.reconcile() == 0
    bed.resumed("old", volume, None)
    assert await bed.reconcile() == 0 and bed.exists(volume)
