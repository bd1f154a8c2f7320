"""What we need of moto and moto does not promise: private names, and answers that our guards build upon.

When moto's pin moves, this says what moved with it. Everything here goes through `localcloud.aws.moto_backend` or a
plain moto server; nothing of ours stands in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.serving import make_server

from localcloud.aws import moto_backend
from localcloud.aws.account import Clients, set_up
from localcloud.aws.cloud_config import SHAPES, CloudConfig, InstanceShape
from localcloud.aws.ec2_wire import field
from localcloud.aws.moto_backend import SPOT_TERMINATION, MotoEc2

ZONE = "us-east-1a"


@pytest.fixture(scope="module")
def aws() -> Iterator[Clients]:
    server = make_server(
        "127.0.0.1", 0, moto_backend.application(), threaded=True, request_handler=moto_backend.RequestHandler
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield Clients(f"http://127.0.0.1:{server.server_port}", "us-east-1")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def ec2(aws: Clients) -> MotoEc2:
    aws.ec2.describe_volumes()
    return MotoEc2("us-east-1")


def run_instance(aws: Clients) -> str:
    subnet = aws.ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [ZONE]}])["Subnets"][0]
    run = aws.ec2.run_instances(
        ImageId="ami-12c6146b",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet["SubnetId"],
        InstanceMarketOptions={"MarketType": "spot"},
    )
    assert run["Instances"][0]["InstanceLifecycle"] == "spot"
    return run["Instances"][0]["InstanceId"]


def test_a_volumes_transition_is_what_describe_and_filters_show(aws: Clients, ec2: MotoEc2) -> None:
    volume_id = aws.ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    ec2.set_volume_transition(volume_id, "creating")
    assert aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"] == "creating"
    creating = aws.ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["creating"]}])["Volumes"]
    assert [volume["VolumeId"] for volume in creating] == [volume_id]
    ec2.set_volume_transition(volume_id, "")
    assert aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"] == "available"


def test_an_attachments_status_shows_on_volume_and_instance_until_it_is_released(aws: Clients, ec2: MotoEc2) -> None:
    instance_id = run_instance(aws)
    volume_id = aws.ec2.create_volume(
        AvailabilityZone=ZONE,
        Size=1,
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "job", "Value": "x"}]}],
    )["VolumeId"]
    aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    for status in ("attaching", "attached", "busy", "detaching"):
        ec2.set_attachment_status(volume_id, status)
        shown = aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
        assert (shown["State"], shown["Attachments"][0]["State"]) == ("in-use", status)
    view = ec2.volume(volume_id)
    assert view is not None and view.attachment is not None
    assert (view.attachment.instance_id, view.attachment.device, view.tags) == (instance_id, "/dev/sdf", {"job": "x"})
    instance = ec2.instance(instance_id)
    assert instance is not None and instance.devices == {"/dev/sda1", "/dev/sdf"} and instance.zone == ZONE
    assert volume_id in {volume.volume_id for volume in ec2.data_volumes()}
    assert len(aws.ec2.describe_volumes()["Volumes"]) > len(ec2.data_volumes()), "root volumes are not data volumes"

    ec2.release(volume_id)
    shown = aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    assert (shown["State"], shown["Attachments"]) == ("available", [])
    instance = ec2.instance(instance_id)
    assert instance is not None and instance.devices == {"/dev/sda1"}


def test_instance_states_and_a_termination_that_keeps_data_volumes(aws: Clients, ec2: MotoEc2) -> None:
    instance_id = run_instance(aws)
    volume_id = aws.ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    for state in ("pending", "running", "shutting-down"):
        ec2.set_instance_state(instance_id, state)
        found = aws.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        assert found["State"]["Name"] == state
    ec2.terminate(instance_id, SPOT_TERMINATION)
    found = aws.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    assert found["State"] == {"Code": 48, "Name": "terminated"}
    assert found["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    volumes = {volume["VolumeId"]: volume for volume in aws.ec2.describe_volumes()["Volumes"]}
    assert volumes[volume_id]["Attachments"][0]["InstanceId"] == instance_id
    ec2.release(volume_id)
    assert aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"] == "available"


def test_a_snapshots_status_and_progress(aws: Clients, ec2: MotoEc2) -> None:
    volume_id = aws.ec2.create_volume(AvailabilityZone=ZONE, Size=2)["VolumeId"]
    snapshot_id = aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
    ec2.set_snapshot_status(snapshot_id, "pending")
    shown = aws.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
    assert (shown["State"], shown["Progress"], shown["VolumeSize"]) == ("pending", "0%", 2)
    ec2.set_snapshot_status(snapshot_id, "completed")
    shown = aws.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
    assert (shown["State"], shown["Progress"]) == ("completed", "100%")
    view = ec2.snapshot(snapshot_id)
    assert view is not None and (view.status, view.size_gib) == ("completed", 2)


def test_what_nobody_knows_is_none_and_changing_it_does_nothing(ec2: MotoEc2) -> None:
    assert ec2.volume("vol-0") is None and ec2.snapshot("snap-0") is None and ec2.instance("i-0") is None
    ec2.set_volume_transition("vol-0", "creating")
    ec2.set_attachment_status("vol-0", "attached")
    ec2.set_snapshot_status("snap-0", "pending")
    ec2.set_instance_state("i-0", "running")
    ec2.terminate("i-0")
    ec2.release("vol-0")


def test_the_answers_that_guards_read_ids_and_sizes_from(aws: Clients) -> None:
    bodies: list[bytes] = []
    aws.ec2.meta.events.register("before-parse.ec2", lambda response_dict, **_: bodies.append(response_dict["body"]))
    volume_id = aws.ec2.create_volume(AvailabilityZone=ZONE, Size=3)["VolumeId"]
    snapshot_id = aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
    created, snapped = bodies[-2:]
    assert (field(created, "volumeId"), field(created, "size")) == (volume_id, "3")
    assert b"<status>available<" in created
    assert field(snapped, "snapshotId") == snapshot_id and b"<status>completed<" in snapped


def test_a_definition_comes_back_with_all_that_a_job_is_made_of(aws: Clients) -> None:
    properties: Any = {
        "image": "busybox",
        "command": ["echo", "Ref::x"],
        "environment": [{"name": "A", "value": "B"}],
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "128"}],
        "volumes": [{"name": "h", "host": {"sourcePath": "/x"}}],
        "mountPoints": [{"containerPath": "/y", "sourceVolume": "h", "readOnly": False}],
        "user": "1000",
        "privileged": True,
    }
    rules: list[Any] = [{"onStatusReason": "Host EC2*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    aws.batch.register_job_definition(
        jobDefinitionName="whole",
        type="container",
        containerProperties=properties,
        retryStrategy={"attempts": 7, "evaluateOnExit": rules},
        parameters={"x": "3"},
        timeout={"attemptDurationSeconds": 90},
    )
    [found] = aws.batch.describe_job_definitions(jobDefinitionName="whole", status="ACTIVE")["jobDefinitions"]
    assert {name: found["containerProperties"].get(name) for name in properties} == properties
    assert found["retryStrategy"]["attempts"] == 7
    assert [rule["action"].upper() for rule in found["retryStrategy"]["evaluateOnExit"]] == ["RETRY", "EXIT"]
    assert found["parameters"] == {"x": "3"} and found["timeout"]["attemptDurationSeconds"] == 90
    assert found["revision"] == 1


def test_an_account_can_be_set_up_and_its_environment_starts_no_instances(aws: Clients) -> None:
    before = len(aws.ec2.describe_instances()["Reservations"])
    config = CloudConfig.model_validate({"stack": "test", "folder": "/nowhere", "queues": ["default", "second"]})
    account = set_up(aws, config)
    assert account.cluster_arn.startswith("arn:aws:ecs:us-east-1:") and ZONE in account.subnets
    assert len(aws.ec2.describe_instances()["Reservations"]) == before
    queues = aws.batch.describe_job_queues(jobQueues=["second"])["jobQueues"]
    assert queues[0]["state"] == "ENABLED" and queues[0]["computeEnvironmentOrder"][0]["computeEnvironment"]
    registered = aws.ecs.register_container_instance(
        cluster=account.cluster_arn, instanceIdentityDocument=f'{{"instanceId": "{run_instance(aws)}"}}'
    )["containerInstance"]
    aws.ecs.deregister_container_instance(
        cluster=account.cluster_arn, containerInstance=registered["containerInstanceArn"], force=True
    )


def test_the_shapes_are_amazons(aws: Clients) -> None:
    names: list[Any] = [shape.name for shape in SHAPES]
    known = aws.ec2.describe_instance_types(InstanceTypes=names)["InstanceTypes"]
    measures = {
        InstanceShape(each["InstanceType"], each["VCpuInfo"]["DefaultVCpus"], each["MemoryInfo"]["SizeInMiB"])
        for each in known
    }
    assert measures == set(SHAPES)
