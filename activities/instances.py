"""What EC2 knows of an instance."""

from __future__ import annotations

from typing import Any

from temporalio import activity

from activities import aws
from perdure.contracts.control import InstanceActivities, InstanceRef, InstanceState
from perdure.domain.errors import CloudUnavailable, VolumeFailed


class InstanceLookups(InstanceActivities):
    """Reads EC2; changes nothing there."""

    def __init__(self, client: Any = None) -> None:
        self._ec2 = client or aws.client("ec2")

    @activity.defn(name="instance_state")
    async def instance_state(self, instance: InstanceRef) -> InstanceState:
        """EC2's word for one instance, `unknown` when EC2 has forgotten it (it does an hour after the end).

        Raises CloudUnavailable when EC2 does not say: not knowing must never look like gone.
        """
        wanted = [{"Name": "instance-id", "Values": [instance.instance_id]}]
        try:
            # A filter, because asking for an unknown id is an error there.
            answer = await aws.call(
                f"describe instance {instance.instance_id}", self._ec2.describe_instances, Filters=wanted
            )
        except VolumeFailed as problem:
            raise CloudUnavailable(str(problem)) from problem
        states = [one["State"]["Name"] for group in answer["Reservations"] for one in group["Instances"]]
        return InstanceState(instance_id=instance.instance_id, state=states[0] if states else "unknown")
