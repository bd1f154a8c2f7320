"""Attach and detach as a whole, against moto in this process (the local cloud needs a node for an attach), or against
the environment's own EC2 (docs/aws-assumptions.md, "On a real account")."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import boto3
import pytest
from moto import mock_aws
from temporalio.testing import ActivityEnvironment

from activities.ebs_looks import DEVICE_NAMES
from activities.volumes import Volumes
from perdure.contracts.control import (
    AttachVolume,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    GrowVolume,
    JobSnapshots,
    RefreshSnapshots,
    SnapshotRef,
    VolumeRef,
)
from perdure.domain.errors import VolumeForeign
from perdure.domain.volumes import VolumeOptions, client_token
from tests.patience import PATIENCE

T = TypeVar("T")
REAL = os.environ.get("PERDURE_TEST_EC2", "") == "yes"
"""The environment's own EC2 is asked (AWS_REGION, credentials, AWS_ENDPOINT_URL), not moto in this process."""
ZONE = os.environ.get("PERDURE_TEST_ZONE", "us-east-1a")
IMAGE = os.environ.get("PERDURE_TEST_IMAGE", "ami-12c6146b")
POLL, LIMIT = (2.0, 900.0) if REAL else (0.01, PATIENCE)
RUN = secrets.token_hex(4)
JOB, OTHER = f"perdure-test-{RUN}", f"perdure-test-{RUN}-other"
TAGS = [{"Key": "perdure:job", "Value": JOB}]
"""Of what is not Perdure's, for `_tidy`."""
OURS: list[dict[str, Any]] = [{"Name": "tag:perdure:job", "Values": [JOB, OTHER]}]


@pytest.fixture
def ec2() -> Iterator[Any]:
    if REAL:
        with contextlib.closing(boto3.client("ec2")) as client:
            try:
                yield client
            finally:
                _tidy(client)
        return
    with mock_aws():
        client = boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        with contextlib.closing(client):
            yield client


def _tidy(client: Any) -> None:
    """Nothing of this run stays in the account."""
    held = client.describe_instances(Filters=OURS)["Reservations"]
    instances = [one["InstanceId"] for reservation in held for one in reservation["Instances"]]
    if instances:
        client.terminate_instances(InstanceIds=instances)
        client.get_waiter("instance_terminated").wait(InstanceIds=instances)
    for snapshot in client.describe_snapshots(OwnerIds=["self"], Filters=OURS)["Snapshots"]:
        client.delete_snapshot(SnapshotId=snapshot["SnapshotId"])
    for volume in client.describe_volumes(Filters=OURS)["Volumes"]:
        client.get_waiter("volume_available").wait(VolumeIds=[volume["VolumeId"]])
        client.delete_volume(VolumeId=volume["VolumeId"])


def instance(ec2: Any) -> str:
    placed = {"AvailabilityZone": ZONE}
    run = ec2.run_instances(
        ImageId=IMAGE,
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        Placement=placed,
        TagSpecifications=[{"ResourceType": "instance", "Tags": TAGS}],
    )
    instance_id = str(run["Instances"][0]["InstanceId"])
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id])
    return instance_id


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), LIMIT)


def wanted(token: str, **more: Any) -> CreateVolume:
    """EC2 answers a client token with the first volume for ever: each test of each run has its own."""
    own = client_token(RUN, os.environ["PYTEST_CURRENT_TEST"], token)
    fields = {"job_id": JOB, "zone": ZONE, "volume_type": "gp3", "size_gib": 1, "token": own}
    return CreateVolume(**fields | more)


def theirs(ec2: Any) -> str:
    """A volume that is not Perdure's."""
    tags = [{"ResourceType": "volume", "Tags": TAGS}]
    made = ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3", TagSpecifications=tags)
    ec2.get_waiter("volume_available").wait(VolumeIds=[made["VolumeId"]])
    return str(made["VolumeId"])


async def test_a_volumes_way(ec2: Any) -> None:
    volumes = Volumes(POLL, ec2)
    made = await run(volumes.create_volume, wanted("t"))
    first, second = instance(ec2), instance(ec2)
    for holder in (first, second):
        request = AttachVolume(volume_id=made.volume_id, instance_id=holder)
        assert (await run(volumes.attach_volume, request)).attached_to == holder
        assert (await run(volumes.attach_volume, request)).attached_to == holder, "asked twice, attached once"
        free = await run(volumes.detach_volume, DetachVolume(volume_id=made.volume_id, instance_id=holder))
        assert free.attached_to is None
    assert (await run(volumes.detach_volume, DetachVolume(volume_id=made.volume_id))).attached_to is None
    snapshot = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id=JOB, token="s"))
    again = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id=JOB, token="s"))
    assert snapshot == again
    copy = await run(volumes.create_volume, wanted("t2", snapshot_id=snapshot.snapshot_id))
    assert copy.volume_id != made.volume_id
    await run(volumes.delete_volume, VolumeRef(volume_id=made.volume_id))
    await run(volumes.delete_snapshot, snapshot)
    assert [volume["VolumeId"] for volume in ec2.describe_volumes(Filters=OURS)["Volumes"]] == [copy.volume_id]


async def test_a_volume_gets_what_was_configured(ec2: Any) -> None:
    options = VolumeOptions(iops=6000, throughput_mib_per_second=500, encrypted=True)
    made = await run(Volumes(POLL, ec2).create_volume, wanted("o", size_gib=12, options=options))
    (found,) = ec2.describe_volumes(VolumeIds=[made.volume_id])["Volumes"]
    assert (found["Iops"], found["Throughput"], found["Encrypted"]) == (6000, 500, True)


async def test_a_volume_grows_once(ec2: Any) -> None:
    volumes = Volumes(POLL, ec2)
    made = await run(volumes.create_volume, wanted("g"))
    for _ in range(2):
        assert (await run(volumes.grow_volume, GrowVolume(volume_id=made.volume_id, size_gib=3))).size_gib == 3
    assert (await run(volumes.grow_volume, GrowVolume(volume_id=made.volume_id, size_gib=2))).size_gib == 3


async def test_zone_snapshots_follow_each_other(ec2: Any) -> None:
    """One more under each token; completed ones but the newest are deleted; of another job none is touched."""
    volumes = Volumes(POLL, ec2)
    made = await run(volumes.create_volume, wanted("t"))
    other = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id=OTHER, token="o"))

    async def refresh(token: str, **more: Any) -> JobSnapshots:
        request = RefreshSnapshots(job_id=JOB, volume_id=made.volume_id, token=token, **more)
        return await run(volumes.refresh_snapshots, request)

    first = await refresh("one")
    assert await refresh("one") == first and [one.snapshot_id for one in first.snapshots] == [first.made]
    second = await refresh("two", tags={"team": "genomics"})
    assert second.made != first.made and [one.snapshot_id for one in second.snapshots] == [second.made]
    assert [one.snapshot_id for one in (await refresh("")).snapshots] == [second.made]
    assert (await refresh("", keep_newest=False)).snapshots == []
    left = ec2.describe_snapshots(OwnerIds=["self"], Filters=OURS)["Snapshots"]
    assert [one["SnapshotId"] for one in left] == [other.snapshot_id]


async def test_several_volumes_find_free_device_names(ec2: Any) -> None:
    volumes, holder = Volumes(POLL, ec2), instance(ec2)
    made = [await run(volumes.create_volume, wanted(f"many-{number}")) for number in range(5)]
    for volume in made:
        await run(volumes.attach_volume, AttachVolume(volume_id=volume.volume_id, instance_id=holder))
    found = ec2.describe_volumes(VolumeIds=[volume.volume_id for volume in made])["Volumes"]
    devices = [volume["Attachments"][0]["Device"] for volume in found]
    assert len(set(devices)) == 5 and set(devices) <= set(DEVICE_NAMES)


async def test_issue_15_11_what_does_not_bear_our_tags_is_not_touched(ec2: Any) -> None:
    """Neither somebody's volume nor somebody's snapshot, whoever names it to us."""
    volumes, holder, other = Volumes(POLL, ec2), instance(ec2), instance(ec2)
    mine, held = theirs(ec2), theirs(ec2)
    ec2.attach_volume(VolumeId=held, InstanceId=other, Device="/dev/sdf")
    snapshot = str(
        ec2.create_snapshot(VolumeId=mine, TagSpecifications=[{"ResourceType": "snapshot", "Tags": TAGS}])["SnapshotId"]
    )
    for activity, request in (
        (volumes.attach_volume, AttachVolume(volume_id=mine, instance_id=holder)),
        (volumes.detach_volume, DetachVolume(volume_id=held, instance_id=other)),
        (volumes.create_snapshot, CreateSnapshot(volume_id=mine, job_id=JOB, token="s")),
        (volumes.create_volume, wanted("t", snapshot_id=snapshot)),
        (volumes.delete_volume, VolumeRef(volume_id=mine)),
        (volumes.delete_snapshot, SnapshotRef(snapshot_id=snapshot)),
    ):
        with pytest.raises(VolumeForeign, match="perdure:managed"):
            await run(activity, request)
    found = {one["VolumeId"]: one for one in ec2.describe_volumes(VolumeIds=[mine, held])["Volumes"]}
    assert found[mine]["State"] == "available" and found[held]["State"] == "in-use"
    assert len(ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]) == 1
    made = [*OURS, {"Name": "tag:perdure:managed", "Values": ["true"]}]
    assert not ec2.describe_volumes(Filters=made)["Volumes"]
