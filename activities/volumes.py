"""Job volumes on EBS: made, attached, let go of, copied, deleted. All of them idempotent by the key that each names.

Only volumes and snapshots with our tags are touched. Each call looks at the tags first, because an id comes from a
workflow's history or from records; VolumeForeign refuses any other. No volume is taken from a live instance by force: a
file system that is still mounted would lose what it had not written, and its job with it.
"""

from __future__ import annotations

from typing import Any, Protocol

from temporalio import activity

from activities import aws
from perdure.contracts.control import (
    AttachVolume,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    SnapshotRef,
    VolumeActivities,
    VolumeRef,
)
from perdure.domain.errors import VolumeFailed, VolumeForeign, VolumeGone
from perdure.domain.volumes import JobVolume

JOB_TAG, MANAGED_TAG, TOKEN_TAG = "perdure:job", "perdure:managed", "perdure:token"
OURS = {"Name": f"tag:{MANAGED_TAG}", "Values": ["true"]}

DEVICE_NAMES = [f"/dev/sd{letter}" for letter in "fghijklmnop"] + [
    f"/dev/xvd{first}{second}" for first in "bc" for second in "abcdefghijklmnopqrstuvwxyz"
]
"""What EC2 recommends for data volumes on Linux. On Nitro instances the name only has to be free: the guest finds the
volume by its id."""


class Pause(Protocol):
    """Waits some seconds between two looks."""

    async def __call__(self, seconds: float) -> None: ...


class Volumes(VolumeActivities):
    """EBS through boto3; `poll_seconds` between two looks at something that changes state."""

    def __init__(self, poll_seconds: float, client: Any = None, pause: Pause = aws.poll) -> None:
        self._ec2 = client or aws.client("ec2")
        self._poll_seconds = poll_seconds
        self._pause = pause

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        """A volume that is `available`. Key: token, as EC2's ClientToken and as a tag, which outlives EC2's memory."""
        volume_id = await self._find(request.token)
        if volume_id is None:
            if request.snapshot_id:
                await self._describe_snapshot(request.snapshot_id)
            source = {"SnapshotId": request.snapshot_id} if request.snapshot_id else {}
            made = await aws.call(
                f"make a {request.volume_type} volume in {request.zone}",
                self._ec2.create_volume,
                AvailabilityZone=request.zone,
                VolumeType=request.volume_type,
                Size=request.size_gib,
                ClientToken=request.token,
                TagSpecifications=[_tags("volume", request.job_id, request.token, request.tags)],
                **source,
            )
            volume_id = str(made["VolumeId"])
        return read_volume(await self._until(volume_id, {"available", "in-use"}))

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        """The volume, attached to the instance. Key: (volume_id, instance_id). VolumeFailed while another holds it."""
        what = f"attach {request.volume_id} to {request.instance_id}"
        while True:
            volume = await self._describe(request.volume_id)
            holder, state = _attachment(volume)
            if holder not in {None, request.instance_id}:
                raise VolumeFailed(f"{request.volume_id} cannot be attached: {holder} still holds it ({state})")
            if holder is not None and state == "attached":
                return read_volume(volume)
            if holder is None:
                await aws.call(
                    what,
                    self._ec2.attach_volume,
                    VolumeId=request.volume_id,
                    InstanceId=request.instance_id,
                    Device=await self._free_device(request.instance_id, request.volume_id),
                )
                continue
            await self._pause(self._poll_seconds)

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        """The volume, `available`. Key: volume_id. Waits as long as it takes, beating; VolumeFailed when an instance
        other than the one named holds it. Never by force: a dead instance lets go by itself."""
        asked = False
        while True:
            volume = await self._describe(request.volume_id)
            holder, state = _attachment(volume)
            if holder is None and volume["State"] == "available":
                return read_volume(volume)
            if holder is not None and request.instance_id not in {None, holder}:
                raise VolumeFailed(f"{request.volume_id} is held by {holder}, not by {request.instance_id}")
            if holder is not None and state == "attached" and not asked:
                # Asked again if EC2 gives up (`detaching` back to `attached`): the guest may have unmounted since.
                await self._ask_to_detach(request.volume_id, holder)
                asked = True
                continue
            asked = state == "detaching"
            await self._pause(self._poll_seconds)

    async def _ask_to_detach(self, volume_id: str, holder: str) -> None:
        try:
            await aws.call(
                f"detach {volume_id} from {holder}", self._ec2.detach_volume, VolumeId=volume_id, InstanceId=holder
            )
        except VolumeGone:
            raise
        except VolumeFailed:
            # Let go between our look and our call, or the instance is on its way out: the next look tells.
            activity.logger.info("EC2 did not take the request to detach %s; looked at again", volume_id)

    @activity.defn(name="create_snapshot")
    async def create_snapshot(self, request: CreateSnapshot) -> SnapshotRef:
        """A completed snapshot of a detached volume. Key: token, kept as a tag: EC2 takes no token here."""
        found = await aws.call(
            f"look for the snapshot of {request.volume_id}",
            self._ec2.describe_snapshots,
            OwnerIds=["self"],
            Filters=[OURS, {"Name": f"tag:{TOKEN_TAG}", "Values": [request.token]}],
        )
        usable = [one for one in found["Snapshots"] if one["State"] != "error"]
        if not usable:
            await self._describe(request.volume_id)
        snapshot = (
            usable[0]
            if usable
            else await aws.call(
                f"snapshot {request.volume_id}",
                self._ec2.create_snapshot,
                VolumeId=request.volume_id,
                Description=f"Perdure: the volume of job {request.job_id} on its way to another zone",
                TagSpecifications=[_tags("snapshot", request.job_id, request.token, request.tags)],
            )
        )
        snapshot_id = str(snapshot["SnapshotId"])
        while snapshot["State"] != "completed":
            if snapshot["State"] == "error":
                raise VolumeFailed(f"Snapshot {snapshot_id} of {request.volume_id} failed")
            await self._pause(self._poll_seconds)
            snapshot = await self._describe_snapshot(snapshot_id)
        return SnapshotRef(snapshot_id=snapshot_id)

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        """Key: volume_id; an unknown volume is a deleted one."""
        try:
            await self._describe(request.volume_id)
            await aws.call(f"delete {request.volume_id}", self._ec2.delete_volume, VolumeId=request.volume_id)
        except VolumeGone:
            activity.logger.info("%s was already deleted", request.volume_id)

    async def holder(self, volume_id: str, job_id: str) -> str | None:
        """Which instance has this volume of that job; None: it is `available`. VolumeGone; VolumeForeign also when it
        bears another job's tag; VolumeFailed in any other state."""
        volume = await self._describe(volume_id)
        tags = {one["Key"]: one["Value"] for one in volume.get("Tags", [])}
        if tags.get(JOB_TAG) != job_id:
            raise VolumeForeign(f"{volume_id} bears the tag {JOB_TAG}={tags.get(JOB_TAG)}, and not job {job_id}'s")
        holder, _ = _attachment(volume)
        if holder is None and volume["State"] not in {"available", "error"}:
            raise VolumeFailed(f"{volume_id} is {volume['State']}")
        return holder

    @activity.defn(name="delete_snapshot")
    async def delete_snapshot(self, request: SnapshotRef) -> None:
        """Key: snapshot_id; an unknown snapshot is a deleted one."""
        try:
            await self._describe_snapshot(request.snapshot_id)
            await aws.call(f"delete {request.snapshot_id}", self._ec2.delete_snapshot, SnapshotId=request.snapshot_id)
        except VolumeGone:
            activity.logger.info("%s was already deleted", request.snapshot_id)

    async def _find(self, token: str) -> str | None:
        """The volume that an earlier try with this token made, if it still is of use."""
        found = await aws.call(
            "look for the job's volume",
            self._ec2.describe_volumes,
            Filters=[OURS, {"Name": f"tag:{TOKEN_TAG}", "Values": [token]}],
        )
        usable = [one for one in found["Volumes"] if one["State"] in {"creating", "available", "in-use"}]
        return str(usable[0]["VolumeId"]) if usable else None

    async def _describe(self, volume_id: str) -> dict[str, Any]:
        """One of our volumes. VolumeGone, VolumeForeign."""
        found = await aws.call(f"describe {volume_id}", self._ec2.describe_volumes, VolumeIds=[volume_id])
        volume: dict[str, Any] = found["Volumes"][0]
        if volume["State"] in {"deleting", "deleted"}:
            raise VolumeGone(f"{volume_id} is being deleted by somebody else")
        _must_be_ours(volume_id, volume)
        return volume

    async def _describe_snapshot(self, snapshot_id: str) -> dict[str, Any]:
        """One of our snapshots. VolumeGone, VolumeForeign."""
        found = await aws.call(f"describe {snapshot_id}", self._ec2.describe_snapshots, SnapshotIds=[snapshot_id])
        snapshot: dict[str, Any] = found["Snapshots"][0]
        _must_be_ours(snapshot_id, snapshot)
        return snapshot

    async def _until(self, volume_id: str, states: set[str]) -> dict[str, Any]:
        while (volume := await self._describe(volume_id))["State"] not in states:
            if volume["State"] == "error":
                raise VolumeFailed(f"EC2 could not make {volume_id}: its state is `error`")
            await self._pause(self._poll_seconds)
        return volume

    async def _free_device(self, instance_id: str, volume_id: str) -> str:
        """A device name that is not in use; two volumes that come at once begin the search in different places."""
        found = await aws.call(f"describe {instance_id}", self._ec2.describe_instances, InstanceIds=[instance_id])
        instance = found["Reservations"][0]["Instances"][0]
        used = {one["DeviceName"] for one in instance.get("BlockDeviceMappings", [])}
        start = sum(volume_id.encode()) % len(DEVICE_NAMES)
        free = [name for name in DEVICE_NAMES[start:] + DEVICE_NAMES[:start] if name not in used]
        if not free:
            raise VolumeFailed(f"{instance_id} has no free device name for {volume_id}")
        return free[0]


def _tags(kind: str, job_id: str, token: str, extra: dict[str, str]) -> dict[str, Any]:
    ours = {JOB_TAG: job_id, MANAGED_TAG: "true", TOKEN_TAG: token, "Name": f"perdure {job_id}"[:255]}
    return {
        "ResourceType": kind,
        "Tags": [{"Key": key, "Value": value} for key, value in {**extra, **ours}.items()],
    }


def _must_be_ours(what: str, found: dict[str, Any]) -> None:
    tags = {one["Key"]: one["Value"] for one in found.get("Tags", [])}
    if tags.get(MANAGED_TAG) != "true":
        raise VolumeForeign(
            f"{what} does not bear the tag {MANAGED_TAG}=true, so Perdure does not touch it;"
            " if it holds a job of Perdure, somebody took the tag away: put it back"
        )


def _attachment(volume: dict[str, Any]) -> tuple[str | None, str]:
    """Who holds the volume, and how firmly (attaching, attached, detaching, busy)."""
    held = [one for one in volume.get("Attachments", []) if one.get("State") != "detached"]
    return (str(held[0]["InstanceId"]), str(held[0]["State"])) if held else (None, "")


def read_volume(volume: dict[str, Any]) -> JobVolume:
    """One entry of DescribeVolumes."""
    holder, _ = _attachment(volume)
    return JobVolume(
        volume_id=volume["VolumeId"],
        zone=volume["AvailabilityZone"],
        size_gib=volume["Size"],
        volume_type=volume.get("VolumeType", ""),
        created_at=volume.get("CreateTime"),
        attached_to=holder,
    )
