"""Job volumes on EBS: made, attached, let go of, copied, deleted. All of them idempotent by the key that each names.

Only volumes and snapshots with our tags are touched. Each call looks at the tags first, because an id comes from a
workflow's history or from records; VolumeForeign refuses any other. No volume that may be mounted is taken from a live
instance by force: it would lose what it had not written, and its job with it.

All jobs share the account's limits (ec2_calls.py): what changes something waits for its turn, by urgency; looks at
single volumes and snapshots are gathered into one call (ebs_looks.py). What changes its state is looked at soon, then
more seldom.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from temporalio import activity

from activities import aws
from activities.ebs_answers import (
    JOB_TAG,
    OURS,
    TOKEN_TAG,
    attachment_of,
    create_options,
    read_snapshot,
    read_volume,
    superseded,
    tag_of,
    tags_of,
)
from activities.ebs_looks import EbsLooks
from activities.ec2_calls import Mutations, Urgency, growing
from perdure.contracts.control import (
    AttachVolume,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    GrowVolume,
    JobSnapshots,
    RefreshSnapshots,
    SnapshotRef,
    VolumeActivities,
    VolumeRef,
)
from perdure.domain.errors import VolumeFailed, VolumeForeign, VolumeGone
from perdure.domain.orphans import Tagged
from perdure.domain.volumes import JobVolume, client_token
from perdure.domain.zone_snapshots import SnapshotState

STUCK_SECONDS = 60.0
"""An attach or a detach that takes longer than this hangs: the usual ones take some seconds."""
NOT_SHOWN_SECONDS = 20.0
"""What EC2 has just made need not be shown at once (EC2 developer guide, "Eventual consistency")."""


class Pause(Protocol):
    """Waits some seconds between two looks."""

    async def __call__(self, seconds: float) -> None: ...


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


class Volumes(VolumeActivities):
    """EBS through boto3; at most `poll_seconds` between two looks at something that changes state. `installation`: the
    name of this installation, a tag of all that is made; empty: none."""

    def __init__(
        self,
        poll_seconds: float,
        client: Any = None,
        pause: Pause = _pause,
        mutations: Mutations | None = None,
        stuck_seconds: float = STUCK_SECONDS,
        installation: str = "",
    ) -> None:
        self.installation = installation
        self._stuck_seconds = stuck_seconds
        self._ec2 = client or aws.client("ec2")
        # Once, because what comes too often must wait for its turn again and not knock by itself.
        self._changing = client or aws.client("ec2", tries=1)
        self._mutations = mutations or Mutations()
        self._looks = EbsLooks(self._ec2)
        self._poll_seconds = poll_seconds
        self._pause = pause

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        """A volume that is `available`. Key: token, as EC2's ClientToken and as a tag, which outlives EC2's memory.

        EC2 answers a ClientToken with the first volume for ever, also when that one failed: each failure has the next
        token. Those that failed go once there is one that did not, so that they are counted until then.
        """
        volume_id, failed = await self._looks.made_with(request.token)
        if volume_id is None:
            if request.snapshot_id:
                await self._looks.snapshot(request.snapshot_id)
            source: dict[str, Any] = {"SnapshotId": request.snapshot_id} if request.snapshot_id else {}
            if request.snapshot_id and request.initialization_mib_per_second:
                source["VolumeInitializationRate"] = request.initialization_mib_per_second
            made = await self._mutations.call(
                f"make a {request.volume_type} volume in {request.zone}",
                Urgency.JOB_WAITS,
                self._changing.create_volume,
                AvailabilityZone=request.zone,
                VolumeType=request.volume_type,
                Size=request.size_gib,
                ClientToken=client_token(request.token, len(failed)) if failed else request.token,
                TagSpecifications=[self._tags("volume", request)],
                **source,
                **create_options(request.options),
            )
            volume_id = str(made["VolumeId"])
        volume = read_volume(await self._until(self._looks.volume, volume_id, {"available", "in-use"}))
        for failure in failed:
            await self.delete_volume(VolumeRef(volume_id=failure))
        return volume

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        """The volume, attached to the instance. Key: (volume_id, instance_id). VolumeFailed while another holds it,
        AttachmentLimitReached where the instance can hold no more.

        An attach that hangs is taken back and asked for again: nobody can have mounted what is not attached yet.
        """
        what, since = f"attach {request.volume_id} to {request.instance_id}", time.monotonic()
        pauses = growing(self._poll_seconds)
        while True:
            volume = await self._looks.volume(request.volume_id)
            holder, state = attachment_of(volume)
            if holder not in {None, request.instance_id}:
                raise VolumeFailed(f"{request.volume_id} cannot be attached: {holder} still holds it ({state})")
            if holder is not None and state == "attached":
                return read_volume(volume)
            if holder is None:
                await self._mutations.call(
                    what,
                    Urgency.JOB_WAITS,
                    self._changing.attach_volume,
                    VolumeId=request.volume_id,
                    InstanceId=request.instance_id,
                    Device=await self._looks.free_device(request.instance_id, request.volume_id),
                )
                since = time.monotonic()
            elif state == "attaching" and time.monotonic() - since > self._stuck_seconds:
                activity.logger.warning("%s hangs; it is taken back and asked for again", what)
                await self._ask_to_detach(DetachVolume(volume_id=request.volume_id), request.instance_id)
                since = time.monotonic()
            await self._pause(next(pauses))

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        """The volume, `available`. Key: volume_id. Waits as long as it takes; VolumeFailed when an instance
        other than the one named holds it. By force only what the node let go of and what hangs all the same; a dead
        instance lets go by itself."""
        asked, forced, since = False, False, time.monotonic()
        pauses = growing(self._poll_seconds)
        while True:
            volume = await self._looks.volume(request.volume_id)
            holder, state = attachment_of(volume)
            if holder is None and volume["State"] == "available":
                return read_volume(volume).model_copy(update={"forced": forced})
            if holder is not None and request.instance_id not in {None, holder}:
                raise VolumeFailed(f"{request.volume_id} is held by {holder}, not by {request.instance_id}")
            hangs = request.unmounted and time.monotonic() - since > self._stuck_seconds
            if holder is not None and state == "attached" and not asked:
                # Asked again if EC2 gives up (`detaching` back to `attached`): the guest may have unmounted since.
                await self._ask_to_detach(request, holder)
                asked = True
            else:
                asked = state == "detaching"
                if holder is not None and hangs and not forced:
                    forced = True
                    await self._ask_to_detach(request, holder, force=True)
            await self._pause(next(pauses))

    async def _ask_to_detach(self, request: DetachVolume, holder: str, *, force: bool = False) -> None:
        volume_id = request.volume_id
        if force:
            activity.logger.warning("%s hangs at %s, which let go of it: it is taken by force", volume_id, holder)
        try:
            await self._mutations.call(
                f"detach {volume_id} from {holder}",
                Urgency.JOB_WAITS if request.deadline is None else Urgency.BY_DEADLINE,
                self._changing.detach_volume,
                deadline=request.deadline,
                VolumeId=volume_id,
                InstanceId=holder,
                **({"Force": True} if force else {}),
            )
        except VolumeGone:
            raise
        except VolumeFailed:
            # Let go between our look and our call, or the instance is on its way out: the next look tells.
            activity.logger.info("EC2 did not take the request to detach %s; looked at again", volume_id)

    @activity.defn(name="grow_volume")
    async def grow_volume(self, request: GrowVolume) -> JobVolume:
        """The volume, at least so large. Key: (volume_id, size_gib)."""
        volume = await self._looks.volume(request.volume_id)
        if volume["Size"] < request.size_gib:
            await self._mutations.call(
                f"make {request.volume_id} larger",
                Urgency.JOB_WAITS,
                self._changing.modify_volume,
                VolumeId=request.volume_id,
                Size=request.size_gib,
            )
        pauses = growing(self._poll_seconds)
        while (volume := await self._looks.volume(request.volume_id))["Size"] < request.size_gib:
            await self._pause(next(pauses))
        return read_volume(volume)

    @activity.defn(name="create_snapshot")
    async def create_snapshot(self, request: CreateSnapshot) -> SnapshotRef:
        """A completed snapshot of a volume that nobody has mounted. Key: token, kept as a tag: EC2 takes no token
        here."""
        found = await aws.call(
            f"look for the snapshot of {request.volume_id}",
            self._ec2.describe_snapshots,
            OwnerIds=["self"],
            Filters=[OURS, {"Name": f"tag:{TOKEN_TAG}", "Values": [request.token]}],
        )
        usable = [one for one in found["Snapshots"] if one["State"] != "error"]
        if not usable:
            await self._looks.volume(request.volume_id)
        snapshot = (
            usable[0] if usable else await self._new_snapshot(request, Urgency.JOB_WAITS, " on its way to another zone")
        )
        snapshot_id = str(snapshot["SnapshotId"])
        if snapshot["State"] != "completed":
            await self._until(self._looks.snapshot, snapshot_id, {"completed"})
        return SnapshotRef(snapshot_id=snapshot_id)

    @activity.defn(name="refresh_snapshots")
    async def refresh_snapshots(self, request: RefreshSnapshots) -> JobSnapshots:
        """What there is, one more, the superseded ones deleted. Key: token, kept as a tag. Waits for nothing."""
        found = await aws.call(
            f"look for the snapshots of job {request.job_id}",
            self._ec2.describe_snapshots,
            OwnerIds=["self"],
            Filters=[OURS, {"Name": f"tag:{JOB_TAG}", "Values": [request.job_id]}],
        )
        known = sorted(found["Snapshots"], key=lambda one: one["StartTime"])
        made = next((one for one in known if request.token and tag_of(one, TOKEN_TAG) == request.token), None)
        pending = any(one["State"] == SnapshotState.PENDING for one in known)
        if request.token and made is None and not pending:
            await self._looks.volume(request.volume_id)
            made = await self._new_snapshot(request, Urgency.WHENEVER, ", in case that it must go to another zone")
            known.append(made)
        gone = {str(one["SnapshotId"]) for one in superseded(known, keep_newest=request.keep_newest)}
        for snapshot_id in sorted(gone):
            await self.delete_snapshot(SnapshotRef(snapshot_id=snapshot_id, job_waits=request.job_waits))
        return JobSnapshots(
            snapshots=[read_snapshot(one) for one in known if one["SnapshotId"] not in gone],
            made=None if made is None else str(made["SnapshotId"]),
        )

    async def _new_snapshot(
        self, request: CreateSnapshot | RefreshSnapshots, urgency: Urgency, why: str
    ) -> dict[str, Any]:
        return await self._mutations.call(
            f"snapshot {request.volume_id}",
            urgency,
            self._changing.create_snapshot,
            VolumeId=request.volume_id,
            Description=f"Perdure: the volume of job {request.job_id}{why}",
            TagSpecifications=[self._tags("snapshot", request)],
        )

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        """Key: volume_id; an unknown volume is a deleted one."""
        try:
            await self._looks.volume(request.volume_id)
            await self._mutations.call(
                f"delete {request.volume_id}",
                Urgency.JOB_WAITS if request.job_waits else Urgency.WHENEVER,
                self._changing.delete_volume,
                VolumeId=request.volume_id,
            )
        except VolumeGone:
            activity.logger.info("%s was already deleted", request.volume_id)

    async def holder(self, volume_id: str, job_id: str) -> str | None:
        """Which instance has this volume of that job; None: it is `available`. VolumeGone; VolumeForeign also when it
        bears another job's tag; VolumeFailed in any other state."""
        volume = await self._looks.volume(volume_id)
        tags = {one["Key"]: one["Value"] for one in volume.get("Tags", [])}
        if tags.get(JOB_TAG) != job_id:
            raise VolumeForeign(f"{volume_id} bears the tag {JOB_TAG}={tags.get(JOB_TAG)}, and not job {job_id}'s")
        holder, _ = attachment_of(volume)
        if holder is None and volume["State"] not in {"available", "error"}:
            raise VolumeFailed(f"{volume_id} is {volume['State']}")
        return holder

    @activity.defn(name="delete_snapshot")
    async def delete_snapshot(self, request: SnapshotRef) -> None:
        """Key: snapshot_id; an unknown snapshot is a deleted one."""
        try:
            await self._looks.snapshot(request.snapshot_id)
            await self._mutations.call(
                f"delete {request.snapshot_id}",
                Urgency.JOB_WAITS if request.job_waits else Urgency.WHENEVER,
                self._changing.delete_snapshot,
                SnapshotId=request.snapshot_id,
            )
        except VolumeGone:
            activity.logger.info("%s was already deleted", request.snapshot_id)

    async def tagged(self) -> list[Tagged]:
        """All volumes and snapshots of the account, in this region, that bear our tags, whosever they are.
        CloudUnavailable."""
        return await self._looks.tagged()

    def _tags(self, kind: str, request: CreateVolume | CreateSnapshot | RefreshSnapshots) -> dict[str, Any]:
        return tags_of(kind, request.job_id, request.token, self.installation, request.tags)

    async def _until(
        self, describe: Callable[[str], Awaitable[dict[str, Any]]], made: str, states: set[str]
    ) -> dict[str, Any]:
        """What was made, a volume or a snapshot, once it is in such a state. VolumeFailed: it became `error`.
        VolumeGone: it is not shown even after a while."""
        pauses, since = growing(self._poll_seconds), time.monotonic()
        while True:
            await self._pause(next(pauses))
            try:
                found = await describe(made)
            except VolumeGone:
                if time.monotonic() - since > NOT_SHOWN_SECONDS:
                    raise
                continue
            if found["State"] in states:
                return found
            if found["State"] == "error":
                raise VolumeFailed(f"EC2 could not make {made}: its state is `error`")
