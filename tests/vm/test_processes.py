"""Unusual processes under cgroup version 2, whose freezer differs."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@pytest.mark.row("Processes", "a stopped process (SIGSTOP)", column=COLUMN)
@pytest.mark.checks("processes:stopped")
def test_a_stopped_process_stays_stopped(checked: list[str]) -> None:
    assert checked == ["T"] * 4
