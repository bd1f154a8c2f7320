"""What EC2 says of volumes and snapshots, read; and the tags by which ours are known."""

from __future__ import annotations

from typing import Any

from perdure.domain.errors import VolumeForeign
from perdure.domain.orphans import OrphanKind, Tagged
from perdure.domain.volumes import JobVolume, VolumeOptions
from perdure.domain.zone_snapshots import GIB, SnapshotState, ZoneSnapshot

JOB_TAG, MANAGED_TAG, TOKEN_TAG = "perdure:job", "perdure:managed", "perdure:token"
INSTALLATION_TAG = "perdure:installation"
"""Which installation made it: several may share an account."""
OURS = {"Name": f"tag:{MANAGED_TAG}", "Values": ["true"]}


def tags_of(kind: str, job_id: str, token: str, installation: str, extra: dict[str, str]) -> dict[str, Any]:
    ours = {JOB_TAG: job_id, MANAGED_TAG: "true", TOKEN_TAG: token, "Name": f"perdure {job_id}"[:255]}
    if installation:
        ours[INSTALLATION_TAG] = installation
    return {
        "ResourceType": kind,
        "Tags": [{"Key": key, "Value": value} for key, value in {**extra, **ours}.items()],
    }


def create_options(options: VolumeOptions) -> dict[str, Any]:
    """CreateVolume's arguments for them; what is left to EBS's default is not named."""
    named: dict[str, Any] = {
        "Iops": options.iops,
        "Throughput": options.throughput_mib_per_second,
        "Encrypted": options.encrypted,
        "KmsKeyId": options.kms_key,
    }
    return {name: value for name, value in named.items() if value}


def tag_of(found: dict[str, Any], key: str) -> str | None:
    return next((str(one["Value"]) for one in found.get("Tags", []) if one["Key"] == key), None)


def superseded(snapshots: list[dict[str, Any]], *, keep_newest: bool) -> list[dict[str, Any]]:
    """Of snapshots, the oldest first: those that no later one builds on, or that failed."""
    if not keep_newest:
        return snapshots
    done = [one for one in snapshots if one["State"] == SnapshotState.COMPLETED]
    return [one for one in snapshots if one["State"] == SnapshotState.ERROR or one in done[:-1]]


def read_snapshot(found: dict[str, Any]) -> ZoneSnapshot:
    return ZoneSnapshot(
        snapshot_id=found["SnapshotId"],
        volume_id=found["VolumeId"],
        state=SnapshotState(found["State"]) if found["State"] in set(SnapshotState) else SnapshotState.ERROR,
        started_at=found["StartTime"],
        completed_at=found.get("CompletionTime"),
    )


def must_be_ours(what: str, found: dict[str, Any]) -> None:
    tags = {one["Key"]: one["Value"] for one in found.get("Tags", [])}
    if tags.get(MANAGED_TAG) != "true":
        raise VolumeForeign(
            f"{what} does not bear the tag {MANAGED_TAG}=true, so Perdure does not touch it;"
            " if it holds a job of Perdure, somebody took the tag away: put it back"
        )


def attachment_of(volume: dict[str, Any]) -> tuple[str | None, str]:
    """Who holds the volume, and how firmly (attaching, attached, detaching, busy)."""
    held = [one for one in volume.get("Attachments", []) if one.get("State") != "detached"]
    return (str(held[0]["InstanceId"]), str(held[0]["State"])) if held else (None, "")


def read_volume(volume: dict[str, Any]) -> JobVolume:
    """One entry of DescribeVolumes."""
    holder, _ = attachment_of(volume)
    return JobVolume(
        volume_id=volume["VolumeId"],
        zone=volume["AvailabilityZone"],
        size_gib=volume["Size"],
        volume_type=volume.get("VolumeType", ""),
        iops=volume.get("Iops") or 0,
        throughput_mib_per_second=volume.get("Throughput") or 0,
        created_at=volume.get("CreateTime"),
        attached_to=holder,
    )


def read_tagged_volume(volume: dict[str, Any]) -> Tagged:
    """One entry of DescribeVolumes, for whoever looks for its owner."""
    return Tagged(
        resource_id=volume["VolumeId"],
        kind=OrphanKind.VOLUME,
        job_id=tag_of(volume, JOB_TAG) or "",
        installation=tag_of(volume, INSTALLATION_TAG) or "",
        place=volume["AvailabilityZone"],
        volume_type=volume.get("VolumeType", ""),
        size_gib=volume["Size"],
        created_at=volume["CreateTime"],
        holder=attachment_of(volume)[0],
    )


def read_tagged_snapshot(snapshot: dict[str, Any], region: str) -> Tagged:
    """One entry of DescribeSnapshots. Its size is that of its blocks where EC2 tells, else the volume's."""
    whole = snapshot.get("FullSnapshotSizeInBytes") or 0
    return Tagged(
        resource_id=snapshot["SnapshotId"],
        kind=OrphanKind.SNAPSHOT,
        job_id=tag_of(snapshot, JOB_TAG) or "",
        installation=tag_of(snapshot, INSTALLATION_TAG) or "",
        place=region,
        size_gib=-(-whole // GIB) or snapshot["VolumeSize"],
        created_at=snapshot["StartTime"],
    )
