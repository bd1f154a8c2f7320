"""When a snapshot is taken while the job runs, what it may cost, and what a move is predicted to take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure.domain.prices import Rate
from perdure.domain.zone_moves import move_in_words, old_zone_way, others_in_words, predict_move, store_way
from perdure.domain.zone_snapshots import (
    GIB,
    LEAST_CHANGED_BYTES,
    Next,
    SnapshotState,
    VolumeUse,
    ZoneSnapshot,
    ZoneSnapshots,
    next_snapshot,
)

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
STORAGE = Rate(micros=50_000, estimated=True, source="a table")
INSTANCE = 70_000
"""Micro-dollars an hour."""


def use(used_gib: float, written_gib: float) -> VolumeUse:
    return VolumeUse(used_bytes=int(used_gib * GIB), written_bytes=int(written_gib * GIB))


def decide(known: ZoneSnapshots, minutes: float, interval: float = 600.0, **more: object) -> Next:
    prices: dict[str, object] = {"instance_micros": INSTANCE, "storage": STORAGE} | more
    now = BEGIN + timedelta(minutes=minutes)
    return next_snapshot(known, now, interval_seconds=interval, since=BEGIN, **prices)  # type: ignore[arg-type]


def taken(state: SnapshotState = SnapshotState.COMPLETED, seconds: float | None = None) -> ZoneSnapshot:
    done = None if seconds is None else BEGIN + timedelta(seconds=seconds)
    return ZoneSnapshot(snapshot_id="s", volume_id="v", state=state, started_at=BEGIN, completed_at=done)


def test_a_snapshot_waits_for_the_interval_and_for_changes() -> None:
    assert decide(ZoneSnapshots(), 60) is Next.LATER, "nothing is known of the volume"
    known = ZoneSnapshots().heard(use(10, 2))
    assert [decide(known, minutes) for minutes in (9, 10)] == [Next.LATER, Next.TAKE]
    assert decide(known, 10, interval=0) is Next.LATER
    asked = known.asked(BEGIN + timedelta(minutes=10))
    assert decide(asked, 30) is Next.LATER, "nothing has changed since"
    changed = asked.heard(VolumeUse(used_bytes=10 * GIB, written_bytes=2 * GIB + LEAST_CHANGED_BYTES))
    assert [decide(changed, minutes) for minutes in (19, 20)] == [Next.LATER, Next.TAKE]


def test_snapshots_never_cost_more_than_a_tenth_of_the_instance() -> None:
    small, large = ZoneSnapshots().heard(use(100, 1)), ZoneSnapshots().heard(use(103, 1))
    assert [decide(known, 60) for known in (small, large)] == [Next.TAKE, Next.TOO_DEAR]
    assert decide(large, 60, instance_micros=None) is Next.TAKE and decide(large, 60, storage=None) is Next.TAKE


def test_what_was_written_is_counted_over_attachments() -> None:
    known = ZoneSnapshots().heard(use(5, 3)).heard(use(5, 4))
    assert known.changed_bytes == 4 * GIB
    assert known.heard(use(5, 1)).changed_bytes == 5 * GIB, "attached anew, its counter began anew"


@pytest.mark.parametrize(
    ("known", "moved"),
    [
        (ZoneSnapshots(), None),
        (ZoneSnapshots().heard(use(5, 9)), 5.0),
        (ZoneSnapshots().heard(use(5, 9)).seen([taken(SnapshotState.PENDING)]), 5.0),
        (ZoneSnapshots().heard(use(5, 9)).asked(BEGIN).heard(use(5, 10)).seen([taken()]), 1.0),
        (ZoneSnapshots().heard(use(5, 9)).asked(BEGIN).heard(use(5, 99)).seen([taken()]), 5.0),
    ],
)
def test_what_must_be_moved(known: ZoneSnapshots, moved: float | None) -> None:
    assert known.to_move_bytes == (None if moved is None else moved * GIB)


def test_a_prediction_tells_seconds_and_dollars() -> None:
    cold = predict_move(ZoneSnapshots().heard(use(9, 9)), 100, 3600_000)
    assert cold.seconds == pytest.approx(13.6 + 512) and cold.micros == pytest.approx(525_600, abs=2)
    warm = ZoneSnapshots().heard(use(9, 9)).asked(BEGIN).heard(use(9, 9.18)).seen([taken()])
    assert predict_move(warm, 100, None).seconds == pytest.approx(13.6 + 10.24, abs=0.1)
    assert predict_move(ZoneSnapshots(), 18, None).seconds == pytest.approx(13.6 + 1024)
    assert move_in_words(predict_move(warm, 100, 70_000)).startswith("0.18 GiB changed since the last zone snapshot")


def test_the_first_snapshot_shows_how_fast_this_volume_is() -> None:
    known = ZoneSnapshots().heard(use(9, 9)).asked(BEGIN).heard(use(9, 10)).seen([taken(seconds=14)])
    assert predict_move(known, 100, None).seconds == pytest.approx(13.6 + 1.0)


def test_the_other_ways_are_told_with_what_they_would_take_and_why_not() -> None:
    known = ZoneSnapshots().heard(use(7, 9))
    move = predict_move(known, 100, 90_000)
    store = store_way(known, 90_000, configured=True)
    assert store.seconds == pytest.approx(128) and store.micros == 3_200
    said = others_in_words(move, store, old_zone_way("zone-a", 20.0, 90_000, 1))
    assert said.startswith(
        "Not to be had: a copy in a store (at least 128 s, $0.0032: its checkpoints are on its volume"
    )
    assert "another container in zone-a (at least 27 s, $0.0002: Batch chose the zone, and to end this" in said
    assert "would cost the last attempt)" in said and "would be quicker" in said
    warm = predict_move(ZoneSnapshots().heard(use(7, 7)).asked(BEGIN).seen([taken()]), 100, None)
    unknown = old_zone_way("zone-a", None, None, 0)
    said = others_in_words(warm, store_way(ZoneSnapshots(), None, configured=False), unknown)
    assert said == (
        "Not to be had: a copy in a store (no store is configured (store.kind)); another container in zone-a"
        " (Batch chose the zone, and this is the last attempt)."
    )
