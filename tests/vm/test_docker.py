"""Docker 20.10 on pure cgroup version 2, through perdure-runtime and the agent."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(1800)]


@pytest.mark.row("Kernels", "cgroup v2: Docker 20.10, a new container with its limits, out of memory", column=COLUMN)
def test_docker_runs_a_job_again_in_a_new_cgroup(in_vm: Call) -> None:
    found = in_vm("dockered:moved", limit_seconds=1500)
    assert found["restored from"] == found["taken"] and found["other container"]
    before, after = found["limits"]
    assert before == after and before["memory.max"] == str(100 << 20) and before["pids.max"] == "99"
    assert before["its own"] == before["memory.max"]
    first, last = found["lines"][0], found["lines"][-1]
    assert first > 1 and found["lines"] == list(range(first, last + 1)), "the log goes on where it was"
    assert found["user"] == "1000"
    assert (found["exit code"], found["oom"]) == (137, "true")
