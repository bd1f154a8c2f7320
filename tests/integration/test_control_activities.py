"""The control activities against the local cloud: EC2's states and refusals over the wire, without nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from temporalio.testing import ActivityEnvironment

from activities.aws import as_ours
from activities.batch import BatchLookups, read_job
from activities.instances import InstanceLookups
from activities.volumes import Volumes
from perdure.contracts.control import (
    AttachVolume,
    BatchAttempt,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    JobRef,
    SnapshotRef,
    VolumeRef,
)
from perdure.domain.errors import AttachmentLimitReached, CloudUnavailable, UnknownJob, VolumeFailed, VolumeGone
from perdure.domain.nodes import InstanceState
from perdure.domain.retries import RetryRule, RetryStrategy
from tests.patience import PATIENCE
from tests.unit.cloud_bed import CloudBed, cloud_bed

T = TypeVar("T")
ZONE_A, ZONE_B = "us-east-1a", "us-east-1b"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        yield bed


@pytest.fixture
def volumes(bed: CloudBed) -> Volumes:
    return Volumes(poll_seconds=0.02, client=bed.aws.ec2)


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    """As a worker would; a hanging one fails."""
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


def wanted(token: str, zone: str = ZONE_A, **more: Any) -> CreateVolume:
    return CreateVolume(job_id="job-1", zone=zone, volume_type="gp3", size_gib=1, token=token, **more)


def tags_of(bed: CloudBed, volume_id: str) -> dict[str, str]:
    found = bed.aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    return {tag["Key"]: tag["Value"] for tag in found["Tags"]}


def held_by_an_instance(bed: CloudBed, volume_id: str) -> str:
    """An instance without a node: AWS leaves the volume `attaching` there."""
    instance_id = bed.run_instance(ZONE_A)
    bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    return instance_id


async def test_a_volume_is_made_once_per_token(bed: CloudBed, volumes: Volumes) -> None:
    made = await run(volumes.create_volume, wanted("token-1", tags={"team": "genomics", "perdure:job": "a lie"}))
    assert (made.zone, made.size_gib, made.attached_to) == (ZONE_A, 1, None)
    assert await run(volumes.create_volume, wanted("token-1")) == made
    assert (await run(volumes.create_volume, wanted("token-2"))).volume_id != made.volume_id
    tags = tags_of(bed, made.volume_id)
    assert tags["perdure:job"] == "job-1" and tags["perdure:managed"] == "true" and tags["team"] == "genomics"


async def test_a_volume_has_one_holder(bed: CloudBed, volumes: Volumes) -> None:
    volume = await run(volumes.create_volume, wanted("token-3"))
    holder, other = held_by_an_instance(bed, volume.volume_id), bed.run_instance(ZONE_A)
    with pytest.raises(VolumeFailed, match=holder):
        await run(volumes.attach_volume, AttachVolume(volume_id=volume.volume_id, instance_id=other))
    with pytest.raises(VolumeFailed, match=holder):
        await run(volumes.detach_volume, DetachVolume(volume_id=volume.volume_id, instance_id=other))


async def test_a_volume_of_a_terminated_instance_is_waited_for(bed: CloudBed, volumes: Volumes) -> None:
    volume = await run(volumes.create_volume, wanted("token-4"))
    instance = held_by_an_instance(bed, volume.volume_id)
    bed.aws.ec2.terminate_instances(InstanceIds=[instance])
    free = await run(volumes.detach_volume, DetachVolume(volume_id=volume.volume_id, instance_id=instance))
    assert free.attached_to is None


async def test_zones_must_match(bed: CloudBed, volumes: Volumes) -> None:
    volume = await run(volumes.create_volume, wanted("token-5", ZONE_B))
    with pytest.raises(VolumeFailed, match="ZoneMismatch"):
        await run(volumes.attach_volume, AttachVolume(volume_id=volume.volume_id, instance_id=bed.run_instance(ZONE_A)))


async def test_what_is_deleted_is_gone_and_deleting_again_is_no_error(bed: CloudBed, volumes: Volumes) -> None:
    volume = await run(volumes.create_volume, wanted("token-6"))
    for _ in range(2):
        await run(volumes.delete_volume, VolumeRef(volume_id=volume.volume_id))
    with pytest.raises(VolumeGone):
        await run(volumes.detach_volume, DetachVolume(volume_id=volume.volume_id))
    with pytest.raises(VolumeGone):
        await run(volumes.attach_volume, AttachVolume(volume_id=volume.volume_id, instance_id="i-1"))
    assert (await run(volumes.create_volume, wanted("token-6b"))).volume_id != volume.volume_id


async def test_an_attached_volume_is_not_deleted(bed: CloudBed, volumes: Volumes) -> None:
    volume = await run(volumes.create_volume, wanted("token-7"))
    held_by_an_instance(bed, volume.volume_id)
    with pytest.raises(VolumeFailed, match="VolumeInUse"):
        await run(volumes.delete_volume, VolumeRef(volume_id=volume.volume_id))


async def test_an_instance_is_known_by_its_state(bed: CloudBed) -> None:
    lookups = InstanceLookups(bed.aws.ec2)

    async def state(instance_id: str) -> InstanceState:
        return (await lookups.states([instance_id]))[instance_id]

    instance = bed.run_instance(ZONE_A)
    assert not (await state(instance)).gone
    bed.aws.ec2.terminate_instances(InstanceIds=[instance])
    while not (await state(instance)).gone:
        await asyncio.sleep(0.02)
    ended = await state(instance)
    assert (ended.pay_type, ended.ended_by) == ("on-demand", "user")
    assert ended.launched_at and ended.ended_at and ended.ended_at >= ended.launched_at.replace(microsecond=0)
    found = await state("i-0123456789abcdef0")
    assert found.state == "unknown" and found.gone


async def test_two_hundred_instances_are_one_call(bed: CloudBed) -> None:
    instances = [bed.run_instance(ZONE_A), bed.run_instance(ZONE_B)]
    unknown = [f"i-{number:017x}" for number in range(250)]
    calls: list[str] = []
    events = bed.aws.ec2.meta.events
    events.register("before-call.ec2.DescribeInstances", lambda **_: calls.append("asked"), "counted")
    try:
        found = await InstanceLookups(bed.aws.ec2).states([*instances, *unknown])
    finally:
        events.unregister("before-call.ec2.DescribeInstances", unique_id="counted")
    assert list(found) == [*instances, *unknown] and len(calls) == 2
    assert [one.gone for one in found.values()] == [False, False, *[True] * 250]


async def test_a_cloud_that_is_away_is_no_verdict() -> None:
    nowhere = boto3.client(
        "ec2",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1),
    )
    with contextlib.closing(nowhere):
        with pytest.raises(CloudUnavailable, match="did not answer"):
            await InstanceLookups(nowhere).states(["i-1", "i-2"])
        with pytest.raises(CloudUnavailable):
            await run(Volumes(0.01, nowhere).detach_volume, DetachVolume(volume_id="vol-1"))


async def test_an_unknown_job(bed: CloudBed) -> None:
    lookups = BatchLookups(bed.aws.batch)
    for job_id in ("11111111-2222-3333-4444-555555555555", "../../etc/passwd", "a;rm -rf /"):
        with pytest.raises(UnknownJob):
            await run(lookups.describe_job, JobRef(job_id=job_id))


async def test_a_submitted_job_is_read(bed: CloudBed) -> None:
    rules = [{"action": "RETRY", "onStatusReason": "Host EC2*"}, {"action": "EXIT", "onReason": "*"}]
    job_id = bed.submit(retryStrategy={"attempts": 5, "evaluateOnExit": rules}, timeout={"attemptDurationSeconds": 900})
    job = await run(BatchLookups(bed.aws.batch).describe_job, JobRef(job_id=job_id))
    assert job.name == "try" and job.timeout_seconds == 900 and not job.final
    assert job.retry == RetryStrategy(
        attempts=5,
        rules=[RetryRule(action="RETRY", on_status_reason="Host EC2*"), RetryRule(action="EXIT", on_reason="*")],
    )
    assert (job.vcpus or 0) > 0 and (job.memory_mib or 0) > 0 and job.created_at is not None


def test_every_field_of_a_job_is_read() -> None:
    """DescribeJobs as AWS documents it."""
    found = {
        "jobId": "j",
        "jobName": "align",
        "jobQueue": "arn:aws:batch:us-east-1:1:job-queue/spot",
        "status": "FAILED",
        "statusReason": "Host EC2 (instance i-1) terminated.",
        "createdAt": 1772366400500,
        "stoppedAt": 1772370000000,
        "isTerminated": True,
        "retryStrategy": {"attempts": 3},
        "timeout": {"attemptDurationSeconds": 60},
        "container": {
            "exitCode": 137,
            "resourceRequirements": [{"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "2048"}],
        },
        "attempts": [
            {
                "startedAt": 1772366401000,
                "stoppedAt": 1772366402000,
                "statusReason": "Essential container in task exited",
                "container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed"},
            },
            {"container": {}, "statusReason": "Host EC2 (instance i-1) terminated."},
        ],
    }
    job = read_job(found)
    assert (job.exit_code, job.vcpus, job.memory_mib, job.terminated, job.final) == (137, 0.5, 2048, True, True)
    assert job.created_at == datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)
    assert job.attempts[0].exit_code == 137 and (job.attempts[0].reason or "").startswith("OutOfMemory")
    assert job.attempts[1] == BatchAttempt(status_reason="Host EC2 (instance i-1) terminated.")
    assert job.container_count == 1 and job.retry == RetryStrategy(attempts=3)


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, 1),
        ({"ecsProperties": {"taskProperties": [{"containers": [{}, {}]}]}}, 2),
        ({"ecsProperties": {"taskProperties": [{"containers": [{}]}]}}, 1),
        ({"nodeProperties": {"numNodes": 4}}, 4),
    ],
)
def test_containers_are_counted(more: dict[str, Any], count: int) -> None:
    assert read_job({"jobId": "j", "status": "RUNNING", **more}).container_count == count


OURS = {"Tags": [{"Key": "perdure:managed", "Value": "true"}]}


class PlayedEc2:
    """EC2's answers in order, where the local cloud cannot be brought to give them."""

    def __init__(self, states: list[dict[str, Any]]) -> None:
        self.states = states
        """An empty one: nothing is shown."""
        self.asked: list[str] = []

    def describe_volumes(self, **_: Any) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"Volumes": [{"VolumeId": "vol-1", "AvailabilityZone": ZONE_A, "Size": 1, **OURS, **state}]}

    def detach_volume(self, **arguments: Any) -> None:
        assert "Force" not in arguments, "never by force"
        self.asked.append(arguments["InstanceId"])

    def describe_snapshots(self, **arguments: Any) -> dict[str, Any]:
        by_id = any(one["Name"] == "snapshot-id" for one in arguments["Filters"])
        self.asked.append("wait" if by_id else "look")
        state = self.states.pop(0) if self.states else {}
        return {"Snapshots": [{"SnapshotId": "snap-1", **OURS, **state}] if state else []}

    def create_snapshot(self, **_: Any) -> dict[str, Any]:
        self.asked.append("create")
        return {"SnapshotId": "snap-1", "State": "pending"}


def held(state: str) -> dict[str, Any]:
    return {"State": "in-use", "Attachments": [{"InstanceId": "i-1", "State": state}]}


FREE = {"State": "available", "Attachments": []}


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def test_a_detach_that_the_guest_holds_up_is_waited_for_and_asked_again() -> None:
    states = [held("attached"), held("detaching"), held("busy"), held("attached"), held("detaching"), FREE]
    played = PlayedEc2(states)
    volume = await run(Volumes(0, played, no_pause).detach_volume, DetachVolume(volume_id="vol-1", instance_id="i-1"))
    assert volume.attached_to is None and played.asked == ["i-1", "i-1"]


async def test_a_volume_that_ec2_could_not_make_is_an_error() -> None:
    with pytest.raises(VolumeFailed, match="error"):
        await run(
            Volumes(0, PlayedEc2([{"State": "available"}, {"State": "error"}]), no_pause).create_volume, wanted("t")
        )


async def test_a_snapshot_is_found_by_its_token_and_waited_for() -> None:
    played = PlayedEc2([{"State": "pending"}, {"State": "pending"}, {"State": "completed"}])
    request = CreateSnapshot(volume_id="vol-1", job_id="job-1", token="t")
    assert (await run(Volumes(0, played, no_pause).create_snapshot, request)).snapshot_id == "snap-1"
    assert played.asked == ["look", "wait", "wait"]


async def test_a_snapshot_that_is_not_shown_at_once_is_not_taken_for_gone() -> None:
    """What is gone, with it a job's checkpoints, is told so only when EC2 has had time to show it."""
    played = PlayedEc2([{}, {"State": "available"}, {}, {}, {"State": "pending"}, {"State": "completed"}])
    request = CreateSnapshot(volume_id="vol-1", job_id="job-1", token="t")
    assert (await run(Volumes(0, played, no_pause).create_snapshot, request)).snapshot_id == "snap-1"
    assert played.asked == ["look", "create", "wait", "wait", "wait", "wait"]


def test_an_instance_that_can_hold_no_more_volumes_is_told_apart() -> None:
    error: Any = {"Code": "AttachmentLimitExceeded", "Message": "Volume attachment limit exceeded"}
    problem = as_ours(ClientError({"Error": error}, "AttachVolume"), "attach vol-1 to i-1")
    assert isinstance(problem, AttachmentLimitReached) and not problem.retryable and "i-1" in str(problem)


async def test_a_failed_snapshot_is_an_error() -> None:
    played = PlayedEc2([{"State": "pending"}, {"State": "error"}])
    with pytest.raises(VolumeFailed, match="snap-1"):
        await run(
            Volumes(0, played, no_pause).create_snapshot, CreateSnapshot(volume_id="vol-1", job_id="j", token="t")
        )


async def test_deleting_an_unknown_snapshot_is_no_error(volumes: Volumes) -> None:
    await run(volumes.delete_snapshot, SnapshotRef(snapshot_id="snap-0123456789abcdef0"))
