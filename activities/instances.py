"""What EC2 knows of an instance: whether it lives, how it is paid, when it began, and who ended it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
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
        found = [one for group in answer["Reservations"] for one in group["Instances"]]
        if not found:
            return InstanceState(instance_id=instance.instance_id, state="unknown")
        return read_instance(found[0])


def read_instance(found: dict[str, Any]) -> InstanceState:
    """One entry of DescribeInstances."""
    transition = found.get("StateTransitionReason", "")
    return InstanceState(
        instance_id=found["InstanceId"],
        state=found["State"]["Name"],
        pay_type=found.get("InstanceLifecycle") or "on-demand",
        launched_at=found.get("LaunchTime"),
        ended_at=_instant_in(transition),
        ended_by=_who_ended(found.get("StateReason", {}).get("Code") or transition),
    )


def _who_ended(reason: str) -> str:
    """`aws`: it took a Spot instance back. A failure on its side is neither that nor anybody's wish."""
    if reason.startswith(("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")):
        return "aws"
    return "user" if reason.startswith(("Client.", "User initiated")) else ""


def _instant_in(reason: str) -> datetime | None:
    """`User initiated (2026-11-23 04:05:06 GMT)`: the time; other reasons have none."""
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", reason)
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if found else None
