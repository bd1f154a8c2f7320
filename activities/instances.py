"""What EC2 knows of an instance: whether it lives, how it is paid, when it began, and who ended it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from activities import aws
from perdure.contracts.control import InstanceActivities, InstanceRef, InstanceState
from perdure.domain.errors import CloudUnavailable, VolumeFailed

ASKED_AT_ONCE = 200
"""Values that EC2 takes in one filter."""


class InstanceLookups(InstanceActivities):
    """Reads EC2; changes nothing there. Questions that come within `gather_seconds` of each other are one call: with
    thousands of nodes, each asked about once a minute, EC2's limit of calls would else be used up."""

    def __init__(self, client: Any = None, gather_seconds: float = 0.2) -> None:
        self._ec2 = client or aws.client("ec2")
        self._gather_seconds = gather_seconds
        self._asked: dict[str, asyncio.Future[InstanceState]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    @activity.defn(name="instance_state")
    async def instance_state(self, instance: InstanceRef) -> InstanceState:
        """EC2's word for one instance, `unknown` when EC2 has forgotten it (it does an hour after the end).

        Raises CloudUnavailable when EC2 does not say: not knowing must never look like gone.
        """
        if not self._asked:
            call = asyncio.create_task(self._ask_soon())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        if instance.instance_id not in self._asked:
            answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
            self._asked[instance.instance_id] = answer
        return await asyncio.shield(self._asked[instance.instance_id])

    async def _ask_soon(self) -> None:
        await asyncio.sleep(self._gather_seconds)
        asked, self._asked = self._asked, {}
        ids = list(asked)
        for start in range(0, len(ids), ASKED_AT_ONCE):
            part = ids[start : start + ASKED_AT_ONCE]
            try:
                found = await self._describe(part)
            except Exception as problem:  # whatever it is belongs to those who asked
                for instance_id in part:
                    asked[instance_id].set_exception(problem)
                continue
            for instance_id in part:
                known = found.get(instance_id)
                asked[instance_id].set_result(known or InstanceState(instance_id=instance_id, state="unknown"))

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
