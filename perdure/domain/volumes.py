"""The managed EBS volume of one job: where it is, and what an attach from a given zone asks of it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum

from perdure.domain.values import Frozen


class JobVolume(Frozen):
    """A job volume. `attached_to` is an instance id; sizes in GiB. `blank`: no container was given it yet, so it
    holds nothing. `created_at` (UTC) and `volume_type` are EC2's words; None and empty: not asked."""

    volume_id: str
    zone: str
    size_gib: int
    volume_type: str = ""
    created_at: datetime | None = None
    attached_to: str | None = None
    blank: bool = False
    forced: bool = False
    """It was stuck, and had to be taken from its last instance by force."""


class VolumeLife(Frozen):
    """A job volume from its creation to its deletion, for what it cost. UTC; GiB."""

    volume_id: str
    zone: str
    volume_type: str
    size_gib: int
    created_at: datetime
    deleted_at: datetime | None = None


class SnapshotLife(Frozen):
    """A snapshot that brought a job volume to another zone. `size_gib` is the volume's: AWS bills the blocks in use,
    which is less."""

    snapshot_id: str
    volume_id: str
    size_gib: int
    created_at: datetime
    deleted_at: datetime | None = None


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


def client_token(*parts: object) -> str:
    """A key for an EC2 call: the same parts give the same token, at most 64 ASCII characters whatever they hold."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode("ascii")).hexdigest()
