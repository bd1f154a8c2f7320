"""A cloud that is slower or less kind than usual. Each test has its own: moto's state belongs to the whole process, so
two clouds at a time would share it, and the other tests of the cloud keep one for their module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.aws.moto_backend import MotoEc2
from tests.unit.cloud_bed import QUICK, CloudBed, cloud_bed, reclaim, running_job


def test_what_takes_time_shows_until_it_is_done(tmp_path: Path) -> None:
    timing = QUICK.model_copy(update={"volume_create": 3600.0, "detach": 3600.0})
    with cloud_bed(tmp_path, nodes_per_zone=0, timing=timing) as slow:
        _what_takes_time(slow)


def _what_takes_time(slow: CloudBed) -> None:
    instance_id = slow.run_instance("us-east-1a")
    volume_id = slow.aws.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    assert shown(slow, volume_id)["State"] == "creating"
    with pytest.raises(ClientError) as refusal:
        slow.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    assert code(refusal) == "IncorrectState"
    with pytest.raises(ClientError) as refusal:
        slow.aws.ec2.delete_volume(VolumeId=volume_id)
    assert code(refusal) == "IncorrectState"

    MotoEc2("us-east-1").set_volume_transition(volume_id, "")
    slow.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    told = slow.aws.ec2.detach_volume(VolumeId=volume_id)
    assert (told["State"], told["InstanceId"]) == ("detaching", instance_id)
    assert shown(slow, volume_id)["Attachments"][0]["State"] == "detaching"
    assert slow.aws.ec2.detach_volume(VolumeId=volume_id, InstanceId=instance_id)["State"] == "detaching"


def shown(bed: CloudBed, volume_id: str) -> dict[str, Any]:
    return dict(bed.aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0])


def code(refusal: pytest.ExceptionInfo[ClientError]) -> str:
    return refusal.value.response["Error"]["Code"]


def test_batch_learns_late_of_a_dead_host(tmp_path: Path) -> None:
    timing = QUICK.model_copy(update={"late_host_notice": 3600.0})
    with cloud_bed(tmp_path, zones=["us-east-1a"], timing=timing) as bed:
        job_id, _ = running_job(bed)
        reclaim(bed, job_id=job_id, no_notice=True, wait=True)
        assert bed.job(job_id)["status"] == "RUNNING"
        again = bed.http.post("/_local/reclaim", json={"job_id": job_id})
        assert again.status_code == 409 and "gone already" in again.json()["error"]


def test_aws_may_place_a_container_on_a_noticed_node(tmp_path: Path) -> None:
    with cloud_bed(tmp_path, zones=["us-east-1a"], place_on_noticed=True) as bed:
        job_id, node = running_job(bed)
        reclaim(bed, job_id=job_id, notice_seconds=600)
        second = bed.submit()
        assert node.task().job_id == second
