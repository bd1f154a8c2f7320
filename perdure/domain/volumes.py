"""The managed EBS volume of one job: where it is, and what an attach from a given zone asks of it."""

from __future__ import annotations

from enum import StrEnum

from perdure.domain.values import Frozen


class JobVolume(Frozen):
    """A job volume. `attached_to` is an instance id; sizes in GiB. `formatted`: it has a file system."""

    volume_id: str
    zone: str
    size_gib: int
    attached_to: str | None = None
    formatted: bool = False


class VolumeStep(StrEnum):
    """What must happen before a node can mount the job volume."""

    CREATE = "create"
    KEEP = "keep"
    ATTACH = "attach"
    MIGRATE = "migrate"


def next_volume_step(volume: JobVolume | None, zone: str, instance_id: str) -> VolumeStep:
    """Decide by place alone: none yet, already here, free or elsewhere in this zone, or in another zone."""
    if volume is None:
        return VolumeStep.CREATE
    if volume.zone != zone:
        return VolumeStep.MIGRATE
    return VolumeStep.KEEP if volume.attached_to == instance_id else VolumeStep.ATTACH
