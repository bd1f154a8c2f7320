"""The managed EBS volume of one job: where it is, and what an attach from a given zone asks of it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from perdure.domain.values import Frozen


class JobVolume(Frozen):
    """A job volume. `attached_to` is an instance id; sizes in GiB. `blank`: no container was given it yet, so it
    holds nothing. `created_at` (UTC), `volume_type`, `iops` and the throughput are EC2's words; None, empty and 0: it
    did not say."""

    volume_id: str
    zone: str
    size_gib: int
    volume_type: str = ""
    iops: int = 0
    throughput_mib_per_second: int = 0
    created_at: datetime | None = None
    attached_to: str | None = None
    blank: bool = False
    unmounted: bool = False
    """The instance said that it let go of it: all that was written is on it, and no more will come. What stays
    `detaching` may be taken from it by force."""
    forced: bool = False
    """It was stuck, and had to be taken from its last instance by force."""


class VolumeLife(Frozen):
    """A job volume from its creation to its deletion, for what it cost. UTC; GiB."""

    volume_id: str
    zone: str
    volume_type: str
    size_gib: int
    iops: int = 0
    throughput_mib_per_second: int = 0
    """0: what the type has by itself."""
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


class VolumeOptions(Frozen):
    """What a volume is made with, besides its type and size. 0 and empty: EBS's own default."""

    iops: int = 0
    throughput_mib_per_second: int = 0
    encrypted: bool = False
    kms_key: str = ""


class _Limits(NamedTuple):
    """Of one EBS type. `per_gib`: operations a second for each GiB at most."""

    least_gib: int
    iops: range
    per_gib: int
    needs_iops: bool = False


_LIMITS = {
    "gp2": _Limits(1, range(0), 0),
    "gp3": _Limits(1, range(3_000, 80_001), 500),
    "io1": _Limits(4, range(100, 64_001), 50, needs_iops=True),
    "io2": _Limits(4, range(100, 256_001), 1_000, needs_iops=True),
}
"""https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html. Where AWS has another limit, EC2
itself refuses (docs/aws-assumptions.md)."""
GP3_THROUGHPUT = range(125, 2_001)
"""MiB/s; at most a quarter of the operations a second."""
GP3_IOPS = 3_000
"""What gp3 has by itself."""


def impossible(volume_type: str, size_gib: int, options: VolumeOptions) -> str:
    """Why EBS would refuse such a volume, a sentence for people; empty: nothing is known against it."""
    limits, iops, throughput = _LIMITS[volume_type], options.iops, options.throughput_mib_per_second
    if size_gib < limits.least_gib:
        return f"a volume of type {volume_type} has at least {limits.least_gib} GiB"
    if limits.needs_iops and not iops:
        return f"a volume of type {volume_type} needs a number of operations a second (iops)"
    if iops and not limits.iops:
        return f"a volume of type {volume_type} takes no number of operations a second (iops)"
    if iops and iops not in limits.iops:
        return f"a volume of type {volume_type} has {limits.iops[0]} to {limits.iops[-1]} operations a second (iops)"
    free = GP3_IOPS if volume_type == "gp3" else 0
    if iops > max(free, limits.per_gib * size_gib):
        return f"a volume of type {volume_type} has at most {limits.per_gib} operations a second for each GiB"
    if throughput and volume_type != "gp3":
        return f"a volume of type {volume_type} takes no throughput; gp3 does"
    if throughput and throughput not in GP3_THROUGHPUT:
        return f"a throughput is {GP3_THROUGHPUT[0]} to {GP3_THROUGHPUT[-1]} MiB/s"
    if 4 * throughput > max(iops, GP3_IOPS):
        return f"{throughput} MiB/s need at least {4 * throughput} operations a second (iops)"
    if options.kms_key and not options.encrypted:
        return "a KMS key goes with encryption: turn it on, or leave the key out"
    return ""


def fitting(volume_type: str, size_gib: int, options: VolumeOptions) -> tuple[str, VolumeOptions]:
    """Type and options for a volume whose size is given: what is wanted, or, where EBS would refuse that at this size,
    a plain gp3, encrypted all the same. A job waits for it, and the setting may be younger than the volume."""
    if not impossible(volume_type, size_gib, options):
        return volume_type, options
    return "gp3", VolumeOptions(encrypted=options.encrypted, kms_key=options.kms_key)


NEARLY_FULL = 0.8
LEAST_GROWTH = 0.1
"""Of its size: less is not worth a change, of which EC2 allows few."""


def grown_size(size_gib: int, most_gib: int, used_bytes: int, *, no_room: bool = False) -> int | None:
    """GiB that a volume should have from now on: half as much again, `most_gib` at most. None: as it is. `no_room`: a
    checkpoint did not fit, however much is used."""
    if not no_room and used_bytes < NEARLY_FULL * size_gib * (1 << 30):
        return None
    wanted = min(most_gib, size_gib + max(1, size_gib // 2))
    return wanted if wanted >= size_gib * (1 + LEAST_GROWTH) else None


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


def freed_in_words(volume_id: str, ends_at: datetime | None, now: datetime) -> tuple[str, str]:
    """What people hear once a volume was seen `available`, and its level. `ends_at` (UTC): when its instance was to
    go; None: nobody said."""
    if ends_at is None or now <= ends_at:
        return f"Volume {volume_id} is free for the next instance.", "info"
    late = (now - ends_at).total_seconds()
    said = f"Volume {volume_id} is free for the next instance, but not inside the notice: {late:.0f} s after its end."
    return said, "warning"


def client_token(*parts: object) -> str:
    """A key for an EC2 call: the same parts give the same token, at most 64 ASCII characters whatever they hold."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode("ascii")).hexdigest()
