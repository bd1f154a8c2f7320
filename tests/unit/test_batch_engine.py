"""Batch as boto3 sees it, on nodes whose part the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from activities.instances import read_instance
from localcloud.aws.batch.definitions import lower_keys
from localcloud.node_link import ContainerOptions, StopTask, Tmpfs, Ulimit
from tests.unit.cloud_bed import CloudBed, cloud_bed, wait_for

RECLAIMS = {"attempts": 3, "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "RETRY"}]}
EXIT_REST = {"onReason": "*", "action": "EXIT"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), zones=["us-east-1a"], nodes_per_zone=0) as bed:
        yield bed


@pytest.fixture
def bed(shared: CloudBed) -> CloudBed:
    shared.refresh()
    return shared


def test_a_job_runs_and_succeeds(bed: CloudBed) -> None:
    job_id = bed.submit(
        containerOverrides={
            "command": ["echo", "hi"],
            "environment": [{"name": "X", "value": "a\nb;rm"}, {"name": "AWS_BATCH_JOB_ID", "value": "mine"}],
            "resourceRequirements": [{"type": "VCPU", "value": "2"}],
        }
    )
    node = bed.node_in("us-east-1a")
    task = node.task()
    assert task.command == ["echo", "hi"] and task.vcpus == 2 and task.memory_mib == 512
    assert task.environment["X"] == "a\nb;rm"
    assert task.environment["AWS_BATCH_JOB_ID"] == job_id
    assert task.environment["AWS_BATCH_JOB_ATTEMPT"] == "1"
    assert task.environment["AWS_BATCH_JQ_NAME"] == "default"
    assert task.environment["AWS_BATCH_CE_NAME"] == "perdure-spot"
    assert task.environment["AWS_EXECUTION_ENV"] == "AWS_ECS_EC2"
    assert task.environment["AWS_ENDPOINT_URL"] == bed.cloud.endpoint_url
    path = task.environment["ECS_CONTAINER_METADATA_URI_V4"].removeprefix("http://169.254.170.2")
    metadata = bed.http.get(f"{node.spec.imds_url}{path}")
    assert metadata.json()["DockerId"] == task.container_id

    starting = bed.job(job_id)
    assert starting["status"] == "STARTING" and "startedAt" not in starting
    node.started(task)
    running = bed.wait_status(job_id, "RUNNING")
    assert running["attempts"] == [] and "stoppedAt" not in running and "exitCode" not in running["container"]
    assert running["container"]["logStreamName"].startswith("perdure-local/default/")

    node.wrote(task, b"one\ntwo")
    node.exited(task, 0)
    done = bed.wait_status(job_id, "SUCCEEDED")
    assert done["container"]["exitCode"] == 0
    assert done["statusReason"] == "Essential container in task exited"
    assert done["createdAt"] <= done["startedAt"] <= done["stoppedAt"]
    [attempt] = done["attempts"]
    assert attempt["container"]["exitCode"] == 0 and attempt["container"]["taskArn"] == done["container"]["taskArn"]

    stream = done["container"]["logStreamName"]

    def lines() -> list[str]:
        try:
            events = bed.aws.logs.get_log_events(
                logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True
            )
        except bed.aws.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in events["events"]]

    wait_for(lambda: len(lines()) == 2)
    assert lines() == ["one", "two"]


def test_a_reclaimed_job_is_retried_on_another_node_and_has_no_exit_code(bed: CloudBed) -> None:
    job_id = bed.submit(retryStrategy={"attempts": 2, "evaluateOnExit": [*RECLAIMS["evaluateOnExit"], EXIT_REST]})  # type: ignore[misc]
    first = bed.node_in("us-east-1a")
    first.started(first.task())
    bed.wait_status(job_id, "RUNNING")
    instance_id = first.spec.instance_id

    answer = bed.http.post("/_local/reclaim", json={"job_id": job_id, "no_notice": True, "wait": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["jobs"] == [job_id] and answer.json()["state"] == "done"
    second = bed.node_in("us-east-1a")
    assert second is not first
    task = second.task()
    assert task.environment["AWS_BATCH_JOB_ATTEMPT"] == "2"
    second.started(task)
    job = bed.wait_status(job_id, "RUNNING")
    [lost] = job["attempts"]
    assert lost["statusReason"] == f"Host EC2 (instance {instance_id}) terminated."
    assert "exitCode" not in lost["container"] and "reason" not in lost["container"]

    second.exited(task, 3)
    failed = bed.wait_status(job_id, "FAILED")
    assert failed["container"]["exitCode"] == 3 and len(failed["attempts"]) == 2
    state = bed.aws.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    assert state["State"]["Name"] == "terminated"
    assert state["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    told = read_instance(dict(state))
    assert (told.pay_type, told.ended_by, told.ended_at) == ("spot", "aws", None)


def test_out_of_memory_is_told_by_its_reason(bed: CloudBed) -> None:
    rules = [{"onReason": "OutOfMemory*", "action": "EXIT"}, {"onExitCode": "137", "action": "RETRY"}]
    job_id = bed.submit(retryStrategy={"attempts": 10, "evaluateOnExit": rules})
    node = bed.node_in("us-east-1a")
    killed = node.task()
    node.started(killed)
    node.exited(killed, 137)
    memory = node.task()
    assert memory.environment["AWS_BATCH_JOB_ATTEMPT"] == "2"
    node.started(memory)
    node.exited(memory, 137, "OutOfMemoryError: Container killed due to memory usage")
    job = bed.wait_status(job_id, "FAILED")
    assert job["container"]["reason"].startswith("OutOfMemoryError")
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [137, 137]


def test_a_failed_start_repeats_its_number_and_does_not_go_on_for_ever(bed: CloudBed) -> None:
    job_id = bed.submit(retryStrategy={"attempts": 2})
    node = bed.node_in("us-east-1a")
    for _ in range(2):
        task = node.task()
        assert task.environment["AWS_BATCH_JOB_ATTEMPT"] == "1"
        node.start_failed(task, "CannotStartContainerError: no such file")
    job = bed.wait_status(job_id, "FAILED")
    assert job["statusReason"] == "Task failed to start"
    assert job["container"]["reason"] == "CannotStartContainerError: no such file"
    assert len(job["attempts"]) == 2 and "startedAt" not in job["attempts"][0]


def test_a_start_lost_with_its_host_is_no_attempt(bed: CloudBed) -> None:
    job_id = bed.submit(retryStrategy={"attempts": 1})
    first = bed.node_in("us-east-1a")
    first.task()
    first.dies()
    second = bed.node_in("us-east-1a")
    task = second.task()
    assert task.environment["AWS_BATCH_JOB_ATTEMPT"] == "1"
    second.started(task)
    second.exited(task, 0)
    assert bed.wait_status(job_id, "SUCCEEDED")["status"] == "SUCCEEDED"
    assert bed.http.get(f"/_local/jobs/{job_id}").json()["attempts"][0]["started_at"] is None


def test_terminate_is_final_and_keeps_the_given_reason(bed: CloudBed) -> None:
    job_id = bed.submit(retryStrategy={"attempts": 10})
    node = bed.node_in("us-east-1a")
    task = node.task()
    node.started(task)
    bed.wait_status(job_id, "RUNNING")
    bed.aws.batch.terminate_job(jobId=job_id, reason="enough of it")
    stop = node.asked()
    assert isinstance(stop, StopTask) and stop.container_id == task.container_id and stop.grace_seconds == 30
    assert bed.job(job_id)["status"] == "RUNNING"
    node.exited(task, 143)
    job = bed.wait_status(job_id, "FAILED")
    assert job["statusReason"] == "enough of it" and job["isTerminated"]
    bed.aws.batch.terminate_job(jobId=job_id, reason="again")
    bed.aws.batch.terminate_job(jobId="unknown", reason="again")
    assert bed.job(job_id)["statusReason"] == "enough of it"


def test_a_time_out_is_never_retried(bed: CloudBed) -> None:
    job_id = bed.submit(retryStrategy={"attempts": 10}, timeout={"attemptDurationSeconds": 1})
    node = bed.node_in("us-east-1a")
    task = node.task()
    node.started(task)
    assert isinstance(node.asked(), StopTask)
    node.exited(task, 143)
    assert bed.wait_status(job_id, "FAILED")["statusReason"] == "Job attempt duration exceeded timeout"


def test_cancel_ends_what_has_not_started(bed: CloudBed) -> None:
    bed.http.post("/_local/capacity", json={"zones": []}).raise_for_status()
    job_id = bed.submit()
    assert bed.job(job_id)["status"] == "RUNNABLE"
    bed.aws.batch.cancel_job(jobId=job_id, reason="changed my mind")
    job = bed.job(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "changed my mind") and "exitCode" not in job["container"]


def test_a_large_job_gets_a_larger_node_and_an_impossible_one_says_so(bed: CloudBed) -> None:
    needs = [{"type": "VCPU", "value": "6"}, {"type": "MEMORY", "value": "1000"}]
    bed.submit(containerOverrides={"resourceRequirements": needs})
    node = wait_for(lambda: bed.living(vcpus=8))
    assert node.task().vcpus == 6
    job_id = bed.submit(containerOverrides={"resourceRequirements": [{"type": "VCPU", "value": "1000"}]})
    wait_for(lambda: "MISCONFIGURATION" in bed.job(job_id).get("statusReason", ""))
    assert bed.job(job_id)["status"] == "RUNNABLE"


def test_a_launch_that_fails_is_tried_again(bed: CloudBed) -> None:
    gone_before = sum(node["state"] == "gone" for node in bed.status()["nodes"])
    bed.launcher.failures = 2
    bed.submit(containerOverrides={"resourceRequirements": [{"type": "VCPU", "value": "6"}]})
    node = wait_for(lambda: bed.living(vcpus=8))
    assert node.task().vcpus == 6
    assert sum(node["state"] == "gone" for node in bed.status()["nodes"]) == gone_before + 2


def test_what_a_definition_says_of_its_container(bed: CloudBed) -> None:
    properties: Any = {
        "image": "local",
        "command": ["cat", "Ref::file"],
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}],
        "volumes": [{"name": "in", "host": {"sourcePath": "/srv/in"}}],
        "mountPoints": [{"sourceVolume": "in", "containerPath": "/in", "readOnly": True}],
        "ulimits": [{"name": "nofile", "softLimit": 5, "hardLimit": 6}],
        "readonlyRootFilesystem": True,
        "linuxParameters": {
            "initProcessEnabled": True,
            "sharedMemorySize": 100,
            "tmpfs": [{"containerPath": "/t", "size": 7, "mountOptions": ["mode=1777"]}],
        },
    }
    bed.aws.batch.register_job_definition(
        jobDefinitionName="mounts", type="container", containerProperties=properties, parameters={"file": "a"}
    )
    bed.submit(jobDefinition="mounts:1", parameters={"file": "/in/x"})
    task = bed.node_in("us-east-1a").task()
    [mount] = task.mounts
    assert (mount.source, mount.destination, mount.read_only) == ("/srv/in", "/in", True)
    assert task.command == ["cat", "/in/x"]
    assert task.image == "local"
    assert task.options == ContainerOptions(
        ulimits=[Ulimit(name="nofile", soft=5, hard=6)],
        tmpfs=[Tmpfs(destination="/t", size_mib=7, options=["mode=1777"])],
        shared_memory_mib=100,
        init=True,
        read_only_root=True,
    )


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"jobName": "no spaces please"}, "job name"),
        ({"jobQueue": "nowhere"}, "nowhere does not exist"),
        ({"jobDefinition": "nothing"}, "nothing is not found"),
        ({"jobDefinition": "perdure-local:7"}, "perdure-local:7 is not found"),
        ({"retryStrategy": {"attempts": 11}}, "between 1 and 10"),
        ({"arrayProperties": {"size": 3}}, "arrayProperties"),
        ({"timeout": {"attemptDurationSeconds": 0}}, "at least 1"),
        ({"containerOverrides": {"resourceRequirements": [{"type": "MEMORY", "value": "-4"}]}}, "positive"),
    ],
)
def test_what_batch_refuses(bed: CloudBed, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClientError, match=sentence) as refusal:
        bed.submit(**request_)
    assert refusal.value.response["Error"]["Code"] == "ClientException"


def test_list_jobs_by_status_and_filter(bed: CloudBed) -> None:
    first, second = bed.submit(jobName="alpha-1"), bed.submit(jobName="beta")
    node = bed.node_in("us-east-1a")
    task = node.task()
    node.started(task)
    bed.wait_status(first, "RUNNING")
    running = bed.aws.batch.list_jobs(jobQueue="default")["jobSummaryList"]
    assert [job["jobId"] for job in running] == [first]
    named = bed.aws.batch.list_jobs(jobQueue="default", filters=[{"name": "JOB_NAME", "values": ["BETA*"]}])
    assert [job["jobId"] for job in named["jobSummaryList"]] == [second]
    assert bed.aws.batch.describe_jobs(jobs=["unknown"])["jobs"] == []


def test_capitalised_keys_are_taken() -> None:
    asked = {"JobName": "x", "ContainerOverrides": {"Environment": [{"Name": "A", "Value": "B"}]}, "Tags": {"Key": "V"}}
    assert lower_keys(asked) == {
        "jobName": "x",
        "containerOverrides": {"environment": [{"name": "A", "value": "B"}]},
        "tags": {"Key": "V"},
    }


def test_chunked_requests_are_read(bed: CloudBed) -> None:
    job_id = bed.submit()
    answer = bed.http.post(
        "/v1/describejobs",
        content=iter([b'{"Jobs": ["', job_id.encode(), b'"]}']),
        headers={"Authorization": "AWS4-HMAC-SHA256 Credential=perdure/20261122/us-east-1/batch/aws4_request"},
    )
    assert [job["jobId"] for job in answer.json()["jobs"]] == [job_id]
