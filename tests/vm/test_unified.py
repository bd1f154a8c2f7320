"""Pure cgroup version 2, as on Amazon Linux 2023: freezing, limits, other users."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


@pytest.mark.row("Kernels", "cgroup v2: restored under another path, with its limits", column=COLUMN)
def test_a_job_goes_on_under_another_cgroup_path_with_its_limits(in_vm: Call) -> None:
    found = in_vm("unified:moved")
    assert found["same"]
    before, after = found["limits"]
    assert before == after
    assert (
        before["memory.max"] == str(256 << 20) and before["pids.max"] == "77" and before["cpu.max"] == "150000 100000"
    )


@pytest.mark.row("Processes", "non-root user", column=COLUMN)
def test_a_job_of_an_ordinary_user_stays_that_user(in_vm: Call) -> None:
    found = in_vm("unified:moved", {"uid": 1000, "gid": 1000, "additionalGids": [2000, 3000]})
    assert found["same"]
    assert found["first line"] == "ready 1000 1000 [2000, 3000]"
    assert found["users"][0] == found["users"][1]
