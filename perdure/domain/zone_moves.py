"""What a job's change of zone takes, by each of the three ways there are, and which of them can be had.

A snapshot of the volume is the way that is taken. A copy of the checkpoints in a store, and another container in the
old zone, are worked out beside it, so that people see what their settings cost them (docs/zone-changes.md). Pure.
"""

from __future__ import annotations

from perdure.domain.values import Frozen
from perdure.domain.zone_snapshots import GIB, ZoneSnapshots

SNAPSHOT_SECONDS, SNAPSHOT_BYTES_PER_SECOND = 5.0, 18 << 20
CREATE_SECONDS, ATTACH_SECONDS = 2.0, 6.6
"""What a move is taken to need until this volume has shown otherwise (docs/aws-assumptions.md)."""
STORE_BYTES_PER_SECOND = 56 << 20
"""The slower of the two speeds that were measured (docs/performance.md, Stores)."""

WORTH_SECONDS = 30.0
"""So much quicker a store must be before people are told to look at their settings."""


class MovePrediction(Frozen):
    """How a change of zone will go: bytes to move, seconds until the volume is attached, and micro-dollars for the new
    instance that waits meanwhile (None: not known). `warm`: only what changed since a zone snapshot is moved."""

    warm: bool
    moved_bytes: int | None
    seconds: float
    micros: int | None


class OtherWay(Frozen):
    """A way that is not taken: what it would take (None: not known), and why it cannot be had. `seconds` are at least
    so many; `micros` as in MovePrediction."""

    name: str
    seconds: float | None
    micros: int | None
    why_not: str


def predict_move(known: ZoneSnapshots, size_gib: int, instance_micros: int | None) -> MovePrediction:
    """Of a volume that is free in its old zone, by a snapshot. Without a word of its use, all of it counts.
    `instance_micros`: what the new instance costs an hour."""
    moved = known.to_move_bytes
    rate = _measured_rate(known)
    to_move = size_gib * GIB if moved is None else moved
    seconds = SNAPSHOT_SECONDS + to_move / rate + CREATE_SECONDS + ATTACH_SECONDS
    micros = micros_of(instance_micros, seconds)
    return MovePrediction(warm=known.warm, moved_bytes=moved, seconds=round(seconds, 1), micros=micros)


def store_way(known: ZoneSnapshots, instance_micros: int | None, *, configured: bool) -> OtherWay:
    """The job's files and checkpoints out of a store, had they been put there."""
    seconds = None if known.use is None else known.use.used_bytes / STORE_BYTES_PER_SECOND
    why = "its checkpoints are on its volume alone" if configured else "no store is configured (store.kind)"
    micros = None if seconds is None else micros_of(instance_micros, seconds)
    return OtherWay(name="a copy in a store", seconds=seconds, micros=micros, why_not=why)


def old_zone_way(
    zone: str, waited_seconds: float | None, instance_micros: int | None, attempts_left: int | None
) -> OtherWay:
    """Another container in the old zone, where the volume is. `waited_seconds`: that this one took to come; where
    there is no capacity, another takes longer. While nothing runs nothing is paid: the attach costs."""
    seconds = None if waited_seconds is None else waited_seconds + ATTACH_SECONDS
    end_this = f"to end this container would cost {_attempts(attempts_left)}"
    why = "this is the last attempt" if attempts_left == 0 else end_this
    return OtherWay(
        name=f"another container in {zone}",
        seconds=seconds,
        micros=micros_of(instance_micros, ATTACH_SECONDS),
        why_not=f"Batch chose the zone, and {why}",
    )


def _attempts(left: int | None) -> str:
    if left is None:
        return "an attempt"
    return "the last attempt" if left == 1 else f"one of {left} attempts that are left"


def micros_of(instance_micros: int | None, seconds: float) -> int | None:
    """Micro-dollars that an instance at so many an hour costs meanwhile."""
    return None if instance_micros is None else int(instance_micros * seconds / 3600)


def _measured_rate(known: ZoneSnapshots) -> float:
    """Bytes a second. The first zone snapshot of a volume holds all that was in use: it tells how fast this one is."""
    done = [one for one in known.taken if one.completed_at is not None]
    if known.use is None or known.number != 1 or not done or done[0].completed_at is None:
        return SNAPSHOT_BYTES_PER_SECOND
    seconds = (done[0].completed_at - done[0].started_at).total_seconds() - SNAPSHOT_SECONDS
    return known.use.used_bytes / seconds if seconds > 1 else SNAPSHOT_BYTES_PER_SECOND


def move_in_words(move: MovePrediction) -> str:
    """For people."""
    size = "all of it" if move.moved_bytes is None else f"{move.moved_bytes / GIB:.2f} GiB"
    what = f"{size} changed since the last zone snapshot" if move.warm else f"{size} to move, no zone snapshot yet"
    return f"{what}; predicted: {took(move.seconds, move.micros)}, in which the new instance waits"


def took(seconds: float, micros: int | None) -> str:
    """Seconds and dollars, for people."""
    return f"{seconds:.0f} s" + ("" if micros is None else f" and ${micros / 1e6:.4f}")


def others_in_words(move: MovePrediction, store: OtherWay, old_zone: OtherWay) -> str:
    """For people: the ways that are not taken, and which setting would have been quicker."""
    said = f"Not to be had: {_way_in_words(store)}; {_way_in_words(old_zone)}."
    if store.seconds is not None and store.seconds + WORTH_SECONDS < move.seconds:
        said += (
            " A job like this one would be quicker with its checkpoints in a store (job_volume.for_jobs, store.kind)."
        )
    return said


def _way_in_words(way: OtherWay) -> str:
    if way.seconds is None:
        return f"{way.name} ({way.why_not})"
    cost = "" if way.micros is None else f", ${way.micros / 1e6:.4f}"
    return f"{way.name} (at least {way.seconds:.0f} s{cost}: {way.why_not})"
