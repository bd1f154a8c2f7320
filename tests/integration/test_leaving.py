"""An instance that AWS takes back is taken off its cluster; ECS played by moto in this process. Never another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from temporalio.testing import ActivityEnvironment

from activities.leaving import ContainerInstances
from perdure.contracts.control import LeaveInstance
from tests.patience import PATIENCE

CLUSTER = "AWSBatch-genomics"


class Batch:
    """DescribeJobs: on which container instance the job runs."""

    container = ""

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": [{"jobId": one, "container": {"containerInstanceArn": self.container}} for one in jobs]}


@pytest.fixture
def ecs() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("ecs", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_cluster(clusterName=CLUSTER)
        yield client


def registered(ecs: Any) -> tuple[str, str]:
    """An instance on the cluster: its EC2 id, and ECS's name for it."""
    ec2 = boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    made = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
    instance_id = str(made["Instances"][0]["InstanceId"])
    document = json.dumps({"instanceId": instance_id})
    here = ecs.register_container_instance(cluster=CLUSTER, instanceIdentityDocument=document)
    return instance_id, str(here["containerInstance"]["containerInstanceArn"])


async def test_it_is_taken_off_once_and_no_other_is(ecs: Any) -> None:
    batch = Batch()
    leaving = ContainerInstances(batch, ecs)

    async def leave(instance_id: str) -> bool:
        request = LeaveInstance(job_id="job-1", instance_id=instance_id)
        return await asyncio.wait_for(ActivityEnvironment().run(leaving.leave_instance, request), PATIENCE)

    (first, name), (second, other) = registered(ecs), registered(ecs)
    assert not await leave(first), "Batch does not say where it runs"
    batch.container = other
    assert not await leave(first), "the job runs elsewhere by now"
    batch.container = name
    assert await leave(first)
    assert ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"] == [other]
    assert not await leave(first)
    batch.container = other
    assert await leave(second)
