"""How slow EBS is: named sets of rates. `fast` is for tests and the demo; where the others come from stands beside them
and, with the test that would settle each, in docs/aws-assumptions.md.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from localcloud.aws.cloud_config import Timing


class EbsRates(BaseModel):
    """Seconds, MiB/s, calls per second; 0 for a rate: no limit, so no waiting.

    `spread`: each delay is drawn from (1 - spread … 1 + spread) times its figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_create: float = Field(ge=0)
    attach: float = Field(ge=0)
    detach: float = Field(ge=0)
    dead_host_release: float = Field(ge=0)
    """From an instance's end until its volumes are `available`. A detach that is asked for meanwhile waits as long."""
    snapshot: float = Field(ge=0)
    """What every snapshot takes, however little is in it."""
    snapshot_mib_per_second: float = Field(0.0, ge=0)
    """Of the blocks that changed since the snapshot before."""
    first_touch: float = Field(0.0, ge=0)
    """What the first touch of a block takes, on a volume made from a snapshot."""
    fetch_mib_per_second: float = Field(0.0, ge=0)
    """The most that such blocks come in together."""
    spread: float = Field(0.0, ge=0, lt=1)
    mutations_per_second: float = Field(0.0, ge=0)
    """For each action that changes something: AttachVolume, CreateSnapshot, …"""
    mutations_burst: float = Field(1.0, ge=1)
    reads_per_second: float = Field(0.0, ge=0)
    """For each Describe action."""
    reads_burst: float = Field(1.0, ge=1)


def profiles(timing: Timing) -> dict[str, EbsRates]:
    """The named sets; `fast` is what the cloud's configuration says."""
    documented = EbsRates(
        # Seconds for an attach: the reference product's metric `volumeAttachTime` in its own sample, 6.6 s.
        attach=6.6,
        # Not documented. An ordinary detach of an unmounted volume, and a volume without data: some seconds.
        detach=5.0,
        volume_create=2.0,
        # aws-ebs-csi-driver #861: about nine minutes with a dead node; the reference product's notes: more than five.
        dead_host_release=300.0,
        # AWS: the time depends on the changed blocks and cannot be predicted. About 9 minutes for volumes of 10 GiB
        # (supabase/postgres #2457), so about 18 MiB/s.
        snapshot=5.0,
        snapshot_mib_per_second=18.0,
        # EBS user guide: the first touch of a block costs "significantly" more; no figure. Assumed.
        first_touch=0.02,
        # re:Post, "Speeding up large EBS volume initialization": gp3 volumes initialize at 130 to 140 MB/s.
        fetch_mib_per_second=130.0,
        spread=0.2,
        # EC2 developer guide, "Request throttling": a bucket for each action of each account and region. That 5 calls a
        # second are refilled is this project's planning figure for mutating calls.
        mutations_per_second=5.0,
        mutations_burst=50.0,
        reads_per_second=20.0,
        reads_burst=100.0,
    )
    return {
        "fast": EbsRates(
            volume_create=timing.volume_create,
            attach=timing.attach,
            detach=timing.detach,
            dead_host_release=timing.dead_host_release,
            snapshot=timing.snapshot,
        ),
        "documented": documented,
        # velero #8473: a snapshot made by hand took 47 s; velero #4242: often 2 min 37 s, however small the delta.
        "reported": documented.model_copy(update={"snapshot": 47.0}),
    }
