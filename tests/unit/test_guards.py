"""What EC2 refuses and takes its time for, asked by boto3. No node is behind these instances, so no disk moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.unit.cloud_bed import CloudBed, cloud_bed, wait_for


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        yield bed


def volume(bed: CloudBed, zone: str = "us-east-1a", **more: Any) -> str:
    """An available volume."""
    volume_id = bed.aws.ec2.create_volume(AvailabilityZone=zone, Size=1, **more)["VolumeId"]
    wait_for(lambda: shown(bed, volume_id)["State"] == "available")
    return volume_id


def attached(bed: CloudBed) -> tuple[str, str]:
    """A volume and the instance that it is attached to."""
    volume_id, instance_id = volume(bed), bed.run_instance("us-east-1a")
    bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    return volume_id, instance_id


def shown(bed: CloudBed, volume_id: str) -> dict[str, Any]:
    return dict(bed.aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0])


def code(refusal: pytest.ExceptionInfo[ClientError]) -> str:
    return refusal.value.response["Error"]["Code"]


def test_a_volume_becomes_available(bed: CloudBed) -> None:
    made = bed.aws.ec2.create_volume(AvailabilityZone="us-east-1a", Size=3, VolumeType="gp3")
    assert made["State"] == "creating" and made["Size"] == 3
    bed.aws.ec2.get_waiter("volume_available").wait(VolumeIds=[made["VolumeId"]], WaiterConfig={"Delay": 1})
    told = bed.http.get(f"/_local/volumes/{made['VolumeId']}").json()
    assert told["state"] == "available" and told["backing_file"].endswith(f"{made['VolumeId']}.img")


def test_a_client_token_makes_one_volume(bed: CloudBed) -> None:
    request: dict[str, Any] = {
        "AvailabilityZone": "us-east-1a",
        "Size": 1,
        "ClientToken": "token-1",
        "TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "job", "Value": "x"}]}],
    }
    made: list[str] = []
    askers = [
        threading.Thread(target=lambda: made.append(bed.aws.ec2.create_volume(**request)["VolumeId"])) for _ in range(4)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(made) == 4 and len(set(made)) == 1
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_volume(**{**request, "Size": 2})
    assert code(refusal) == "IdempotentParameterMismatch"


def test_zones_must_match(bed: CloudBed) -> None:
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.attach_volume(
            VolumeId=volume(bed, "us-east-1b"), InstanceId=bed.run_instance("us-east-1a"), Device="/dev/sdf"
        )
    assert code(refusal) == "InvalidVolume.ZoneMismatch"


def test_a_volume_is_attached_once(bed: CloudBed) -> None:
    volume_id, _ = attached(bed)
    assert shown(bed, volume_id)["State"] == "in-use"
    assert shown(bed, volume_id)["Attachments"][0]["State"] == "attaching"
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=bed.run_instance("us-east-1a"), Device="/dev/sdf")
    assert code(refusal) == "VolumeInUse"
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.delete_volume(VolumeId=volume_id)
    assert code(refusal) == "VolumeInUse"


def test_a_device_name_is_used_once(bed: CloudBed) -> None:
    _, instance_id = attached(bed)
    with pytest.raises(ClientError, match="already in use"):
        bed.aws.ec2.attach_volume(VolumeId=volume(bed), InstanceId=instance_id, Device="/dev/sdf")


def test_a_terminated_instance_takes_no_volume(bed: CloudBed) -> None:
    instance_id = bed.run_instance("us-east-1a")
    bed.aws.ec2.terminate_instances(InstanceIds=[instance_id])
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.attach_volume(VolumeId=volume(bed), InstanceId=instance_id, Device="/dev/sdf")
    assert code(refusal) == "IncorrectState"


def test_detaching_needs_no_instance(bed: CloudBed) -> None:
    volume_id, instance_id = attached(bed)
    assert bed.aws.ec2.detach_volume(VolumeId=volume_id)["InstanceId"] == instance_id
    wait_for(lambda: shown(bed, volume_id)["State"] == "available")
    assert shown(bed, volume_id)["Attachments"] == []
    devices = bed.aws.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    assert [mapping["DeviceName"] for mapping in devices["BlockDeviceMappings"]] == ["/dev/sda1"]


def test_what_cannot_be_detached(bed: CloudBed) -> None:
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.detach_volume(VolumeId=volume(bed))
    assert code(refusal) == "IncorrectState"
    volume_id, _ = attached(bed)
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.detach_volume(VolumeId=volume_id, InstanceId=bed.run_instance("us-east-1a"))
    assert code(refusal) == "InvalidAttachment.NotFound"


@pytest.mark.parametrize("action", ["attach_volume", "detach_volume", "delete_volume", "create_snapshot"])
def test_unknown_volumes(bed: CloudBed, action: str) -> None:
    more = {"InstanceId": bed.run_instance("us-east-1a"), "Device": "/dev/sdf"} if action == "attach_volume" else {}
    with pytest.raises(ClientError) as refusal:
        getattr(bed.aws.ec2, action)(VolumeId="vol-0123456789abcdef0", **more)
    assert code(refusal) == "InvalidVolume.NotFound"


def test_unknown_zone_and_instance(bed: CloudBed) -> None:
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_volume(AvailabilityZone="us-east-1f", Size=1)
    assert code(refusal) == "InvalidZone.NotFound"
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.attach_volume(VolumeId=volume(bed), InstanceId="i-0123456789abcdef0", Device="/dev/sdf")
    assert code(refusal) == "InvalidInstanceID.NotFound"


def test_volumes_only_grow(bed: CloudBed) -> None:
    volume_id = bed.aws.ec2.create_volume(AvailabilityZone="us-east-1a", Size=2)["VolumeId"]
    with pytest.raises(ClientError, match="smaller"):
        bed.aws.ec2.modify_volume(VolumeId=volume_id, Size=1)
    bed.aws.ec2.modify_volume(VolumeId=volume_id, Size=4)
    assert shown(bed, volume_id)["Size"] == 4


def test_a_dry_run_changes_nothing(bed: CloudBed) -> None:
    before = len(bed.aws.ec2.describe_volumes()["Volumes"])
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1, DryRun=True)
    assert code(refusal) == "DryRunOperation"
    assert len(bed.aws.ec2.describe_volumes()["Volumes"]) == before


def test_a_deleted_volume_leaves_its_file_and_its_tags(bed: CloudBed) -> None:
    volume_id = volume(bed, TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "job", "Value": "j-1"}]}])
    bed.aws.ec2.delete_volume(VolumeId=volume_id)
    told = bed.http.get(f"/_local/volumes/{volume_id}").json()
    assert told["deleted"] and told["state"] == "deleted" and told["tags"] == {"job": "j-1"}
    assert f"/deleted/{volume_id}.img" in told["backing_file"]
    assert bed.http.get("/_local/volumes/vol-0").status_code == 404


def test_user_pools_are_guarded_though_a_sign_in_is_not_signed(bed: CloudBed) -> None:
    headers = {"X-Amz-Target": "AWSCognitoIdentityProviderService.InitiateAuth"}
    asked = {"ClientId": "nobody", "AuthFlow": "USER_SRP_AUTH", "AuthParameters": {}}
    answer = bed.http.post("/", headers=headers | {"Content-Type": "application/x-amz-json-1.1"}, json=asked)
    assert (answer.status_code, answer.json()["__type"]) == (400, "ResourceNotFoundException")
    assert "invalid_client" in bed.http.get("/_hosted/us-east-1_none/oauth2/authorize").text
