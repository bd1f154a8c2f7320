"""Checkpoints that share pages, on pure cgroup version 2 and another kernel: small, complete, and to the byte."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1000)]


@pytest.mark.row("Memory", "shared pages: only what changed since the checkpoint before is written", column=COLUMN)
@pytest.mark.row("Memory", "shared pages: read before the freeze (predump)", column=COLUMN)
def test_a_series_of_checkpoints_is_small_and_each_restores_to_the_byte(in_vm: Call) -> None:
    found = in_vm("shared:series")
    assert found["same"] == [True, True, True]
    assert found["full"] == [1, 1, 1, 4]
    first, *shared, again = found["written KiB"]
    assert max(shared) < first / 2 and again > first * 0.9, found
    assert found["kept"] == [4, 3, 2, 1]
