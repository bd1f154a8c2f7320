"""The AWS account of a stack, set up through boto3 as a person would: roles, compute environment, queues, log group."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3

from localcloud.aws.cloud_config import CREDENTIALS, CloudConfig
from localcloud.aws.imds import ROLE

if TYPE_CHECKING:  # stubs, installed for development only
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_logs import CloudWatchLogsClient

COMPUTE_ENVIRONMENT = "perdure-spot"
LOG_GROUP = "/aws/batch/job"
IMAGE_ID = "ami-12c6146b"
"""An image that moto knows."""
JOB_DEFINITION = "perdure-local"


class Clients:
    """boto3 clients of the cloud's own endpoint; each is safe to use from several threads."""

    def __init__(self, endpoint_url: str, region: str) -> None:
        self.endpoint_url, self.region = endpoint_url, region
        # All made here: making clients, unlike using them, is not safe from several threads.
        session = boto3.Session(
            CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name=region
        )
        self.ec2: EC2Client = session.client("ec2", endpoint_url=endpoint_url)
        self.batch: BatchClient = session.client("batch", endpoint_url=endpoint_url)
        self.ecs: ECSClient = session.client("ecs", endpoint_url=endpoint_url)
        self.iam: IAMClient = session.client("iam", endpoint_url=endpoint_url)
        self.logs: CloudWatchLogsClient = session.client("logs", endpoint_url=endpoint_url)

    def close(self) -> None:
        """Let go of all connections."""
        for client in (self.ec2, self.batch, self.ecs, self.iam, self.logs):
            client.close()


@dataclass(frozen=True)
class Account:
    """What was set up."""

    cluster_arn: str
    subnets: dict[str, str]
    """Default subnet by zone."""


def set_up(clients: Clients, config: CloudConfig) -> Account:
    """Make what Batch needs. Once per process: moto keeps nothing over a restart."""
    found = clients.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    subnets = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in found}
    missing = [zone for zone in config.zones if zone not in subnets]
    if missing:
        raise ValueError(f"{config.region} has no zone {', '.join(missing)}; it has {', '.join(sorted(subnets))}")
    role = clients.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps({}))["Role"]["Arn"]
    profile = clients.iam.create_instance_profile(InstanceProfileName=ROLE)["InstanceProfile"]["Arn"]
    clients.iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
    groups = clients.ec2.describe_security_groups()["SecurityGroups"]
    clients.batch.create_compute_environment(
        computeEnvironmentName=COMPUTE_ENVIRONMENT,
        type="MANAGED",
        state="ENABLED",
        serviceRole=role,
        computeResources={
            "type": "SPOT",
            "allocationStrategy": "SPOT_PRICE_CAPACITY_OPTIMIZED",
            "minvCpus": 0,
            "maxvCpus": config.max_vcpus,
            "instanceTypes": ["c5"],
            "subnets": [subnets[zone] for zone in config.zones],
            "securityGroupIds": [groups[0]["GroupId"]],
            "instanceRole": profile,
        },
    )
    for queue in config.queues:
        clients.batch.create_job_queue(
            jobQueueName=queue,
            priority=1,
            state="ENABLED",
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": COMPUTE_ENVIRONMENT}],
        )
    clients.batch.register_job_definition(
        jobDefinitionName=JOB_DEFINITION,
        type="container",
        containerProperties={
            "image": "local",
            "command": ["true"],
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}],
        },
    )
    clients.logs.create_log_group(logGroupName=LOG_GROUP)
    environments = clients.batch.describe_compute_environments(computeEnvironments=[COMPUTE_ENVIRONMENT])
    return Account(environments["computeEnvironments"][0]["ecsClusterArn"], subnets)
