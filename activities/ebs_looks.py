"""What EC2 shows of volumes and snapshots: those with our tags, and no others.

Looks at single ones are gathered into one call (ec2_calls.py), because all jobs share the account's limits.
"""

from __future__ import annotations

from typing import Any

from activities import aws
from activities.ebs_answers import OURS, TOKEN_TAG, must_be_ours, read_tagged_snapshot, read_tagged_volume
from activities.ec2_calls import Lookup
from perdure.domain.errors import AttachmentLimitReached, VolumeGone
from perdure.domain.orphans import Tagged

DEVICE_NAMES = [f"/dev/sd{letter}" for letter in "fghijklmnop"] + [
    f"/dev/xvd{first}{second}" for first in "bc" for second in "abcdefghijklmnopqrstuvwxyz"
]
"""What EC2 recommends for data volumes on Linux. On Nitro instances the name only has to be free: the guest finds the
volume by its id."""


class EbsLooks:
    """By an EC2 client of boto3. Every call may raise CloudUnavailable."""

    def __init__(self, client: Any) -> None:
        self._ec2 = client
        self._volumes = Lookup(self._some_volumes)
        self._snapshots = Lookup(self._some_snapshots)

    async def volume(self, volume_id: str) -> dict[str, Any]:
        """One of our volumes. VolumeGone, VolumeForeign."""
        volume = await self._volumes.one(volume_id)
        if volume is None:
            raise VolumeGone(f"{volume_id} does not exist: somebody has deleted it")
        if volume["State"] in {"deleting", "deleted"}:
            raise VolumeGone(f"{volume_id} is being deleted by somebody else")
        must_be_ours(volume_id, volume)
        return volume

    async def _some_volumes(self, volume_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Those that exist. By a filter: asked by their ids, one unknown one would spoil the answer for all."""
        found = await aws.call(
            f"describe {', '.join(volume_ids)[:200]}",
            self._ec2.describe_volumes,
            Filters=[{"Name": "volume-id", "Values": volume_ids}],
        )
        return {one["VolumeId"]: one for one in found["Volumes"]}

    async def snapshot(self, snapshot_id: str) -> dict[str, Any]:
        """One of our snapshots. VolumeGone, VolumeForeign."""
        snapshot = await self._snapshots.one(snapshot_id)
        if snapshot is None:
            raise VolumeGone(f"{snapshot_id} does not exist: somebody has deleted it")
        must_be_ours(snapshot_id, snapshot)
        return snapshot

    async def _some_snapshots(self, snapshot_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Those of the account that exist."""
        found = await aws.call(
            f"describe {', '.join(snapshot_ids)[:200]}",
            self._ec2.describe_snapshots,
            OwnerIds=["self"],
            Filters=[{"Name": "snapshot-id", "Values": snapshot_ids}],
        )
        return {one["SnapshotId"]: one for one in found["Snapshots"]}

    async def tagged(self) -> list[Tagged]:
        """All volumes and snapshots of the account, in this region, that bear our tags, whosever they are.
        CloudUnavailable."""
        volumes = await self._all("look for our volumes", self._ec2.describe_volumes, "Volumes")
        snapshots = await self._all(
            "look for our snapshots", self._ec2.describe_snapshots, "Snapshots", OwnerIds=["self"]
        )
        region = str(self._ec2.meta.region_name)
        return [
            *(read_tagged_volume(one) for one in volumes if one["State"] not in {"deleting", "deleted"}),
            *(read_tagged_snapshot(one, region) for one in snapshots),
        ]

    async def _all(self, what: str, describe: Any, key: str, **where: Any) -> list[dict[str, Any]]:
        """Of all pages."""
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = await aws.call(what, describe, Filters=[OURS], MaxResults=500, **where, **more)
            found += page[key]
            if not page.get("NextToken"):
                return found
            more = {"NextToken": page["NextToken"]}

    async def made_with(self, token: str) -> tuple[str | None, list[str]]:
        """The volume that an earlier try with this token made, if it is of use; and those that ended as `error`."""
        found = await aws.call(
            "look for the job's volume",
            self._ec2.describe_volumes,
            Filters=[OURS, {"Name": f"tag:{TOKEN_TAG}", "Values": [token]}],
        )
        usable = [one for one in found["Volumes"] if one["State"] in {"creating", "available", "in-use"}]
        failed = [str(one["VolumeId"]) for one in found["Volumes"] if one["State"] == "error"]
        return str(usable[0]["VolumeId"]) if usable else None, failed

    async def free_device(self, instance_id: str, volume_id: str) -> str:
        """A device name that is not in use; two volumes that come at once begin the search in different places."""
        found = await aws.call(f"describe {instance_id}", self._ec2.describe_instances, InstanceIds=[instance_id])
        instance = found["Reservations"][0]["Instances"][0]
        used = {one["DeviceName"] for one in instance.get("BlockDeviceMappings", [])}
        start = sum(volume_id.encode()) % len(DEVICE_NAMES)
        free = [name for name in DEVICE_NAMES[start:] + DEVICE_NAMES[:start] if name not in used]
        if not free:
            raise AttachmentLimitReached(f"{instance_id} has no free device name for {volume_id}")
        return free[0]
