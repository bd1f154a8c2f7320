"""Taking an instance that AWS takes back off its ECS cluster, so that Batch hears at once that its jobs are gone.

A setting, off by default (`checkpoint.deregister_instance`). It ends whatever else runs there for ECS, so a job's
workflow asks for it only where the node has said that every job on it is safe.
"""

from __future__ import annotations

from typing import Any

from temporalio import activity

from activities import aws
from perdure.contracts.control import InstanceActivities, LeaveInstance


class ContainerInstances(InstanceActivities):
    """Through boto3. Batch tells on which container instance a job runs."""

    def __init__(self, batch: Any = None, ecs: Any = None) -> None:
        self._batch, self._ecs = batch or aws.client("batch"), ecs or aws.client("ecs")

    @activity.defn(name="leave_instance")
    async def leave_instance(self, request: LeaveInstance) -> bool:
        """Key: instance_id. A job that Batch has placed elsewhere meanwhile names another one, which is left alone."""
        answer = await aws.call(f"describe job {request.job_id}", self._batch.describe_jobs, jobs=[request.job_id])
        jobs = [one for one in answer.get("jobs", []) if one.get("jobId") == request.job_id]
        name = jobs[0].get("container", {}).get("containerInstanceArn", "") if jobs else ""
        parts = name.split("/")  # arn:aws:ecs:REGION:ACCOUNT:container-instance/CLUSTER/ID
        if len(parts) != 3:
            return False
        found = await aws.call(
            f"describe container instance {name}",
            self._ecs.describe_container_instances,
            cluster=parts[1],
            containerInstances=[name],
        )
        here = [one for one in found["containerInstances"] if one.get("ec2InstanceId") == request.instance_id]
        if not here or here[0].get("status") == "INACTIVE":
            return False
        await aws.call(
            f"deregister {request.instance_id} from {parts[1]}",
            self._ecs.deregister_container_instance,
            cluster=parts[1],
            containerInstance=name,
            force=True,
        )
        activity.logger.warning("%s was taken off the cluster %s", request.instance_id, parts[1])
        return True
