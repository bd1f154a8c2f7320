"""Who owns a volume or snapshot with our tags: every case of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.domain.orphans import JobTrace, KnownOrphan, OrphanKind, Tagged, judge, sums_of

NOW = datetime(2026, 4, 1, tzinfo=UTC)
OVER = JobTrace(over=True, volume_id="vol-kept")


def tagged(**more: Any) -> Tagged:
    known = {"resource_id": "vol-1", "kind": OrphanKind.VOLUME, "job_id": "j", "installation": "ours"}
    return Tagged(**known | {"place": "us-east-1a", "size_gib": 10, "created_at": NOW} | more)


@pytest.mark.parametrize(("thing", "trace", "batch", "orphan", "deletable"), [
    (tagged(), JobTrace(over=False), None, False, False),
    (tagged(), OVER, None, True, True),
    (tagged(resource_id="vol-kept"), OVER, None, False, False),
    (tagged(resource_id="vol-kept", kind=OrphanKind.SNAPSHOT), OVER, None, True, True),
    (tagged(holder="i-1"), OVER, None, True, False),
    (tagged(installation=""), OVER, None, True, True),
    (tagged(installation="theirs"), OVER, None, False, False),
    (tagged(), None, None, True, True),
    (tagged(), None, "FAILED", True, True),
    (tagged(), None, "RUNNABLE", False, False),
    (tagged(installation=""), None, None, True, False),
    (tagged(installation="theirs"), None, None, False, False),
    (tagged(job_id=""), None, None, True, True),
])  # fmt: skip
def test_who_owns_it(thing: Tagged, trace: JobTrace | None, batch: str | None, orphan: bool, deletable: bool) -> None:
    found = judge(thing, "ours", trace, batch)
    assert (found is not None) == orphan
    assert found is None or (not found.refusal) == deletable


def test_an_installation_without_a_name_proves_nothing() -> None:
    found = judge(tagged(installation=""), "", None, None)
    assert found is not None and found.refusal


def test_sums_say_what_they_leave_out() -> None:
    one = judge(tagged(), "ours", OVER, None)
    held = judge(tagged(holder="i-1"), "ours", OVER, None)
    assert one and held
    sums = sums_of(
        [
            KnownOrphan(orphan=one, found_at=NOW, month_micros=5),
            KnownOrphan(orphan=held, found_at=NOW),
            KnownOrphan(orphan=one, found_at=NOW, month_micros=7, deleted_at=NOW, estimated=True),
        ]
    )
    assert (sums.found, sums.month_micros, sums.kept, sums.unpriced) == (2, 5, 1, 1)
    assert (sums.deleted, sums.saved_month_micros, sums.estimated) == (1, 7, True)
