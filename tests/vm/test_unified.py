"""Pure cgroup version 2, as on Amazon Linux 2023: freezing, limits, other users."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@pytest.mark.row("Kernels", "cgroup v2: restored under another path, with its limits", column=COLUMN)
@pytest.mark.row("Processes", "non-root user", column=COLUMN)
@pytest.mark.checks("unified:moved", {"uid": 1000, "gid": 1000, "additionalGids": [2000, 3000]})
def test_a_job_of_an_ordinary_user_goes_on_under_another_path_with_its_limits(checked: dict[str, Any]) -> None:
    found = checked
    assert found["same"]
    before, after = found["limits"]
    assert before == after
    assert before["memory.max"] == str(256 << 20)
    assert (before["pids.max"], before["cpu.max"]) == ("77", "150000 100000")
    assert int(found["memory"]["oom_kill"]) >= 1, "its memory is limited after the restore too"
    assert found["first line"] == "ready 1000 1000 [2000, 3000]"
    assert found["users"][0] == found["users"][1]


@pytest.mark.row("Kernels", "cgroup v2: killed while frozen, no instruction runs", column=COLUMN)
@pytest.mark.checks("unified:killed_frozen", 10)
def test_frozen_processes_die_without_another_instruction(checked: int) -> None:
    assert checked == 0


@pytest.mark.row("Kernels", "cgroup v2: left frozen by an agent that died", column=COLUMN)
@pytest.mark.checks("unified:left_frozen")
def test_the_next_agent_thaws_what_the_last_one_left_frozen(checked: list[str]) -> None:
    assert checked == ["the job stood frozen when the agent started again; it runs on"]


@pytest.mark.row("Kernels", "cgroup v2: restored beside the running job (a rehearsal)", column=COLUMN)
@pytest.mark.checks("unified:rehearsed")
def test_a_checkpoint_is_rehearsed_beside_its_job(checked: dict[str, Any]) -> None:
    found = checked
    assert found["verdict"] == ["passed", "", 1], found
    assert (found["limit"], found["left"]) == (str(200 << 20), [])
    assert found["same"]


@pytest.mark.matrix
@pytest.mark.row("Programs", "PostgreSQL", column=COLUMN)
def test_a_database_goes_on_after_a_restore(in_vm: Call) -> None:
    found = in_vm("programs:postgresql")
    assert found["exit code"] == 0, found
    assert found["lines"][-1] == "end 30 f 465", found
    assert [line.split()[0] for line in found["lines"][1:-1]] == [str(number) for number in range(1, 31)]
