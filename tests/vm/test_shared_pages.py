"""Checkpoints that share pages, on pure cgroup version 2 and another kernel: small, complete, and to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.conftest import COLUMN

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@pytest.mark.row("Memory", "shared pages: only what changed since the checkpoint before is written", column=COLUMN)
@pytest.mark.row("Memory", "shared pages: read before the freeze (predump)", column=COLUMN)
@pytest.mark.row("Memory", "a lazy restore: the job goes on before all of its memory is there", column=COLUMN)
@pytest.mark.checks("shared:series")
def test_a_series_of_checkpoints_is_small_and_each_restores_to_the_byte(checked: dict[str, Any]) -> None:
    found = checked
    assert found["same"] == [True, True, True]
    assert found["full"] == [1, 1, 1, 4]
    first, *shared, again = found["written KiB"]
    assert max(shared) < first / 2 and again > first * 0.9, found
    assert found["kept"] == [4, 3, 2, 1]
