"""Unusual processes under cgroup version 2, whose freezer differs."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.mark.row("Processes", "a stopped process (SIGSTOP)", column=COLUMN)
def test_a_stopped_process_stays_stopped(in_vm: Call) -> None:
    assert in_vm("processes:stopped") == ["T"] * 4
