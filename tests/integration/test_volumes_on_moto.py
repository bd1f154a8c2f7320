"""Attach and detach as a whole, against moto in this process (the local cloud needs a node for an attach)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import boto3
import pytest
from moto import mock_aws
from temporalio.testing import ActivityEnvironment

from activities.volumes import DEVICE_NAMES, Volumes
from perdure.contracts.control import (
    AttachVolume,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    JobSnapshots,
    RefreshSnapshots,
    SnapshotRef,
    VolumeRef,
)
from perdure.domain.errors import VolumeForeign
from perdure.domain.volumes import VolumeOptions

T = TypeVar("T")
ZONE = "us-east-1a"


@pytest.fixture
def ec2() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        with contextlib.closing(client):
            yield client


def instance(ec2: Any) -> str:
    placed = {"AvailabilityZone": ZONE}
    run = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, Placement=placed)
    return str(run["Instances"][0]["InstanceId"])


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), 30)


def wanted(token: str, **more: Any) -> CreateVolume:
    return CreateVolume(job_id="job-1", zone=ZONE, volume_type="gp3", size_gib=1, token=token, **more)


async def test_a_volumes_way(ec2: Any) -> None:
    volumes = Volumes(0.01, ec2)
    made = await run(volumes.create_volume, wanted("t"))
    first, second = instance(ec2), instance(ec2)
    for holder in (first, second):
        request = AttachVolume(volume_id=made.volume_id, instance_id=holder)
        assert (await run(volumes.attach_volume, request)).attached_to == holder
        assert (await run(volumes.attach_volume, request)).attached_to == holder, "asked twice, attached once"
        free = await run(volumes.detach_volume, DetachVolume(volume_id=made.volume_id, instance_id=holder))
        assert free.attached_to is None
    assert (await run(volumes.detach_volume, DetachVolume(volume_id=made.volume_id))).attached_to is None
    snapshot = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id="job-1", token="s"))
    again = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id="job-1", token="s"))
    assert snapshot == again
    copy = await run(volumes.create_volume, wanted("t2", snapshot_id=snapshot.snapshot_id))
    assert copy.volume_id != made.volume_id
    await run(volumes.delete_volume, VolumeRef(volume_id=made.volume_id))
    await run(volumes.delete_snapshot, snapshot)
    assert [volume["VolumeId"] for volume in ec2.describe_volumes(Filters=[_mine()])["Volumes"]] == [copy.volume_id]


async def test_a_volume_gets_what_was_configured(ec2: Any) -> None:
    options = VolumeOptions(iops=6000, throughput_mib_per_second=500, encrypted=True)
    made = await run(Volumes(0.01, ec2).create_volume, wanted("o", options=options))
    (found,) = ec2.describe_volumes(VolumeIds=[made.volume_id])["Volumes"]
    assert (found["Iops"], found["Throughput"], found["Encrypted"]) == (6000, 500, True)


async def test_zone_snapshots_follow_each_other(ec2: Any) -> None:
    """One more under each token; completed ones but the newest are deleted; of another job none is touched."""
    volumes = Volumes(0.01, ec2)
    made = await run(volumes.create_volume, wanted("t"))
    other = await run(volumes.create_snapshot, CreateSnapshot(volume_id=made.volume_id, job_id="job-2", token="o"))

    async def refresh(token: str, **more: Any) -> JobSnapshots:
        request = RefreshSnapshots(job_id="job-1", volume_id=made.volume_id, token=token, **more)
        return await run(volumes.refresh_snapshots, request)

    first = await refresh("one")
    assert await refresh("one") == first and [one.snapshot_id for one in first.snapshots] == [first.made]
    second = await refresh("two", tags={"team": "genomics"})
    assert second.made != first.made and [one.snapshot_id for one in second.snapshots] == [second.made]
    assert [one.snapshot_id for one in (await refresh("")).snapshots] == [second.made]
    assert (await refresh("", keep_newest=False)).snapshots == []
    left = ec2.describe_snapshots(OwnerIds=["self"], Filters=[_mine()])["Snapshots"]
    assert [one["SnapshotId"] for one in left] == [other.snapshot_id]


def _mine() -> dict[str, Any]:
    return {"Name": "tag:perdure:managed", "Values": ["true"]}


async def test_several_volumes_find_free_device_names(ec2: Any) -> None:
    volumes, holder = Volumes(0.01, ec2), instance(ec2)
    made = [await run(volumes.create_volume, wanted(f"many-{number}")) for number in range(5)]
    for volume in made:
        await run(volumes.attach_volume, AttachVolume(volume_id=volume.volume_id, instance_id=holder))
    found = ec2.describe_volumes(VolumeIds=[volume.volume_id for volume in made])["Volumes"]
    devices = [volume["Attachments"][0]["Device"] for volume in found]
    assert len(set(devices)) == 5 and set(devices) <= set(DEVICE_NAMES)


async def test_issue_15_11_what_does_not_bear_our_tags_is_not_touched(ec2: Any) -> None:
    """Neither somebody's volume nor somebody's snapshot, whoever names it to us."""
    volumes, holder, other = Volumes(0.01, ec2), instance(ec2), instance(ec2)
    theirs = str(ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"])
    held = str(ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"])
    ec2.attach_volume(VolumeId=held, InstanceId=other, Device="/dev/sdf")
    snapshot = str(ec2.create_snapshot(VolumeId=theirs)["SnapshotId"])
    for activity, request in (
        (volumes.attach_volume, AttachVolume(volume_id=theirs, instance_id=holder)),
        (volumes.detach_volume, DetachVolume(volume_id=held, instance_id=other)),
        (volumes.create_snapshot, CreateSnapshot(volume_id=theirs, job_id="job-1", token="s")),
        (volumes.create_volume, wanted("t", snapshot_id=snapshot)),
        (volumes.delete_volume, VolumeRef(volume_id=theirs)),
        (volumes.delete_snapshot, SnapshotRef(snapshot_id=snapshot)),
    ):
        with pytest.raises(VolumeForeign, match="perdure:managed"):
            await run(activity, request)
    found = {one["VolumeId"]: one for one in ec2.describe_volumes(VolumeIds=[theirs, held])["Volumes"]}
    assert found[theirs]["State"] == "available" and found[held]["State"] == "in-use"
    mine = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert len(mine) == 1 and not ec2.describe_volumes(Filters=[_mine()])["Volumes"]
