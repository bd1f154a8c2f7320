"""Zone snapshots: snapshots of a job volume that are taken while its job runs.

A volume goes to another zone by a snapshot, and a snapshot holds only the blocks that changed since the one before. So
whoever takes snapshots before the notice has only the last changes left to move after it. When one is taken, and
what it may cost: pure, time is an argument. What a move takes: zone_moves.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from pydantic import Field

from perdure.domain.prices import Rate
from perdure.domain.values import Frozen

GIB = 1 << 30
LEAST_CHANGED_BYTES = 64 << 20
"""Less than this is moved within seconds on the day itself."""
DEAREST_SHARE = Fraction(1, 10)
"""Of what the instance costs: more than this the snapshots of a job may not cost."""
HOURS_A_MONTH = 730


class VolumeUse(Frozen):
    """How a job volume is used, as its node sees it: bytes in use on its file system, and bytes that were written to
    the device since it was attached there (a block that is written twice counts twice)."""

    used_bytes: int = Field(ge=0)
    written_bytes: int = Field(ge=0)


class SnapshotState(StrEnum):
    """EC2's words."""

    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"


class ZoneSnapshot(Frozen):
    """One snapshot, as EC2 shows it. Times UTC."""

    snapshot_id: str
    volume_id: str
    state: SnapshotState
    started_at: datetime
    completed_at: datetime | None = None


class ZoneSnapshots(Frozen):
    """What is known of one job's snapshots.

    `changed_bytes`: written since the newest was asked for, so at least what the next one moves. `asked_at`: when that
    was (UTC). `number` rises with each. `taken`: those that exist, as they were last seen. `refused`: people were told
    why none is taken.
    """

    use: VolumeUse | None = None
    changed_bytes: int = 0
    asked_at: datetime | None = None
    number: int = 0
    taken: list[ZoneSnapshot] = Field(default_factory=list)
    refused: bool = False
    trouble: str = ""
    """Why the last one could not be taken, as people were told."""

    def heard(self, use: VolumeUse) -> ZoneSnapshots:
        """The node told how the volume is used. Its counter begins anew where the volume is attached anew."""
        before = self.use.written_bytes if self.use else 0
        written = use.written_bytes - before if use.written_bytes >= before else use.written_bytes
        return self.model_copy(update={"use": use, "changed_bytes": self.changed_bytes + written})

    def asked(self, now: datetime) -> ZoneSnapshots:
        """A snapshot holds all that was written up to now."""
        return self.model_copy(update={"changed_bytes": 0, "asked_at": now, "number": self.number + 1})

    def seen(self, taken: list[ZoneSnapshot]) -> ZoneSnapshots:
        """What EC2 shows."""
        return self.model_copy(update={"taken": taken})

    @property
    def warm(self) -> bool:
        """A later snapshot will hold only what changed."""
        return any(one.state is SnapshotState.COMPLETED for one in self.taken)

    @property
    def to_move_bytes(self) -> int | None:
        """At most so many bytes must be moved on a change of zone; None: not known."""
        if self.use is None:
            return None
        return min(self.changed_bytes, self.use.used_bytes) if self.warm else self.use.used_bytes


class Next(StrEnum):
    """What to do about a snapshot now."""

    TAKE = "take"
    LATER = "later"
    TOO_DEAR = "too dear"


def hourly_micros(used_bytes: int, storage: Rate) -> Fraction:
    """Micro-dollars an hour that a snapshot of so many bytes costs."""
    return Fraction(used_bytes, GIB) * storage.micros / HOURS_A_MONTH


def next_snapshot(
    known: ZoneSnapshots,
    now: datetime,
    *,
    interval_seconds: float,
    since: datetime,
    instance_micros: int | None,
    storage: Rate | None,
) -> Next:
    """Decide, after a committed checkpoint. `since` (UTC): when the volume was made; `instance_micros`: what the
    instance costs an hour; a price that is not known forbids nothing. `interval_seconds` 0: never."""
    if not interval_seconds or known.use is None:
        return Next.LATER
    if now - (known.asked_at or since) < timedelta(seconds=interval_seconds):
        return Next.LATER
    if known.changed_bytes < LEAST_CHANGED_BYTES:
        return Next.LATER
    if storage is None or instance_micros is None:
        return Next.TAKE
    dear = hourly_micros(known.use.used_bytes, storage) > instance_micros * DEAREST_SHARE
    return Next.TOO_DEAR if dear else Next.TAKE
