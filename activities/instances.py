"""What EC2 knows of instances: whether they live, how they are paid, when they began, and who ended them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from activities import aws
from perdure.domain.errors import CloudUnavailable, VolumeFailed
from perdure.domain.nodes import InstanceState

ASKED_AT_ONCE = 200
"""Values that EC2 takes in one filter."""


class InstanceLookups:
    """Reads EC2; changes nothing there."""

    def __init__(self, client: Any = None) -> None:
        self._ec2 = client or aws.client("ec2")

    async def states(self, instance_ids: Sequence[str]) -> dict[str, InstanceState]:
        """EC2's word for each instance, `unknown` where EC2 has forgotten it (it does an hour after the end).

        Raises CloudUnavailable when EC2 does not say: not knowing must never look like gone.
        """
        found = {one: InstanceState(instance_id=one, state="unknown") for one in instance_ids}
        for start in range(0, len(instance_ids), ASKED_AT_ONCE):
            found |= await self._describe(list(instance_ids[start : start + ASKED_AT_ONCE]))
        return found

    async def _describe(self, ids: list[str]) -> dict[str, InstanceState]:
        what = f"describe instance {ids[0]}" + (f" and {len(ids) - 1} others" if len(ids) > 1 else "")
        try:
            # A filter, because asking for an unknown id is an error there.
            wanted = [{"Name": "instance-id", "Values": ids}]
            answer = await aws.call(what, self._ec2.describe_instances, Filters=wanted)
        except VolumeFailed as problem:
            raise CloudUnavailable(str(problem)) from problem
        found = [read_instance(one) for group in answer["Reservations"] for one in group["Instances"]]
        return {one.instance_id: one for one in found}


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
