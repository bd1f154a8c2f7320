"""What a job's container finds in its environment besides its own variables.

Source: AWS Batch user guide, "Job environment variables" (the AWS_BATCH_ prefix is Batch's own and wins);
AWS_EXECUTION_ENV and the metadata address: ECS (metaflow will not start without them).
"""

from __future__ import annotations

from typing import Any

from localcloud.aws.batch.jobs import Attempt, Job
from localcloud.aws.cloud_config import CREDENTIALS
from localcloud.aws.fleet import Node


def container_environment(job: Job, attempt: Attempt, node: Node, endpoint_url: str, cluster: str) -> dict[str, str]:
    """The whole environment; publishes the container's ECS metadata on its node."""
    region = node.imds.identity.region
    # Batch gives no endpoint; against a local cloud no job would get far without one.
    defaults = {"AWS_ENDPOINT_URL": endpoint_url, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    role = str(job.plan.properties.get("jobRoleArn") or "")
    if "AWS_ACCESS_KEY_ID" not in job.plan.environment and not role:
        defaults |= CREDENTIALS
    batch = {
        "AWS_BATCH_JOB_ID": job.job_id,
        "AWS_BATCH_JOB_ATTEMPT": str(attempt.number),
        "AWS_BATCH_CE_NAME": job.compute_environment,
        "AWS_BATCH_JQ_NAME": job.queue,
        "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
        **node.imds.add_task(attempt.container_id, _metadata(attempt, node.zone, cluster), role),
    }
    return {**defaults, **job.plan.environment, **batch}


def _metadata(attempt: Attempt, zone: str, cluster: str) -> dict[str, Any]:
    return {
        "container": {
            "DockerId": attempt.container_id,
            "Name": "default",
            "Labels": {
                "com.amazonaws.ecs.cluster": cluster,
                "com.amazonaws.ecs.container-name": "default",
                "com.amazonaws.ecs.task-arn": attempt.task_arn,
            },
        },
        "task": {"Cluster": cluster, "TaskARN": attempt.task_arn, "AvailabilityZone": zone},
    }
