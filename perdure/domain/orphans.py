"""Orphans: volumes and snapshots with our tags that no live job and no kept record owns.

EC2 tells what bears our tags, the records tell which jobs there are. Who owns what follows from both: pure, time is an
argument. Two installations may share an account, so each thing bears the tag of the installation that made it. What
another installation made is left alone. What no record knows is only deleted where that tag proves that it is ours:
records may have been lost, or the thing may be older than the tag.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from perdure.domain.values import Frozen

ENDED = frozenset({"SUCCEEDED", "FAILED"})
"""What Batch calls a job that will not run again."""


class OrphanKind(StrEnum):
    """What is left."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"


class Tagged(Frozen):
    """A volume or snapshot with our tags, as EC2 shows it. `installation`: empty where it was made without that tag.
    `place`: the zone of a volume, the region of a snapshot. `size_gib`: of a snapshot at most so much, it shares blocks
    with others. `holder`: the instance that has the volume. `created_at` UTC."""

    resource_id: str
    kind: OrphanKind
    job_id: str
    installation: str
    place: str
    volume_type: str = ""
    size_gib: int
    created_at: datetime
    holder: str | None = None

    @property
    def priced_as(self) -> str:
        """What the price table calls it."""
        return "snapshot" if self.kind is OrphanKind.SNAPSHOT else self.volume_type


class JobTrace(Frozen):
    """What the records know of a job: is it over, and which volume it has, or has left for a `resume`."""

    over: bool
    volume_id: str | None = None


class Orphan(Frozen):
    """`reason`: why it is one, a sentence for people. `refusal`: why it is only told and not deleted; empty: it is
    deleted when its grace is over."""

    thing: Tagged
    reason: str
    refusal: str = ""


def judge(thing: Tagged, installation: str, trace: JobTrace | None, batch_status: str | None) -> Orphan | None:
    """An orphan, or None where somebody owns it. `trace` None: no record knows the job; then Batch's word on it
    counts, and `batch_status` None means that Batch does not know it either."""
    if thing.installation and thing.installation != installation:
        return None
    if trace is None:
        if batch_status is not None and batch_status not in ENDED:
            return None
        reason = f"no record knows its job {thing.job_id[:80] or '(no name)'}"
        proven = thing.installation == installation and installation != ""
        refusal = "" if proven else "it does not bear this installation's tag, so it may be somebody else's"
    elif not trace.over or (thing.kind is OrphanKind.VOLUME and thing.resource_id == trace.volume_id):
        return None
    else:
        reason, refusal = f"its job {thing.job_id[:80]} is over", ""
    if thing.holder is not None:
        refusal = f"it is attached to {thing.holder}"
    return Orphan(thing=thing, reason=reason, refusal=refusal)


class KnownOrphan(Frozen):
    """An orphan, since when it is one (UTC), and what it costs a month (micro-dollars; None: no price is known).
    `deleted_at`: we deleted it then."""

    orphan: Orphan
    found_at: datetime
    deleted_at: datetime | None = None
    month_micros: int | None = None
    estimated: bool = False


class OrphanSums(Frozen):
    """`month_micros`: of those whose price is known; `unpriced` are not. `kept`: those that are only told of."""

    found: int = 0
    size_gib: int = 0
    month_micros: int = 0
    kept: int = 0
    deleted: int = 0
    deleted_size_gib: int = 0
    saved_month_micros: int = 0
    estimated: bool = False
    unpriced: int = 0


def sums_of(orphans: Iterable[KnownOrphan]) -> OrphanSums:
    """Pure: of priced ones."""
    sums = OrphanSums().model_dump()
    for one in orphans:
        size, month = one.orphan.thing.size_gib, one.month_micros or 0
        what = ("found", "size_gib", "month_micros")
        if one.deleted_at is not None:
            what = ("deleted", "deleted_size_gib", "saved_month_micros")
        for name, amount in zip(what, (1, size, month), strict=True):
            sums[name] += amount
        sums["kept"] += 1 if one.orphan.refusal and one.deleted_at is None else 0
        sums["unpriced"] += 1 if one.month_micros is None else 0
        sums["estimated"] |= one.estimated
    return OrphanSums.model_validate(sums)
