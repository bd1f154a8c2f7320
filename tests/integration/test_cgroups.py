"""Groups of processes on the hierarchies of this machine, each of the two kinds that it has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.cgroups import Cgroup, hierarchies
from localcloud.linux import mount_table
from tests.patience import PATIENCE

pytestmark = pytest.mark.criu


def _unified() -> list[Path]:
    return [entry.point for entry in mount_table() if entry.kind == "cgroup2"][:1]


@pytest.fixture(params=["as runc sees them", "one tree (v2)"])
def group(request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    """An empty group that is gone afterwards."""
    roots = hierarchies() if request.param == "as runc sees them" else _unified()
    if not roots:
        pytest.skip("this machine has no cgroup v2 tree")
    group = Cgroup(f"/perdure-cgroup-test-{os.getpid()}", tuple(roots))
    try:
        yield group
    finally:
        group.kill()
        group.remove()
        assert not any(folder.exists() for folder in group.folders)


def start(group: Cgroup, script: str) -> subprocess.Popen[bytes]:
    """A shell in the leaf `a/b` of the group."""
    leaf = group.below("a/b")
    leaf.make()
    return subprocess.Popen(
        leaf.enter(["/bin/sh", "-c", script]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def test_all_of_it_freezes_thaws_and_dies(group: Cgroup) -> None:
    with start(group, "sleep 1000 & echo up; wait") as process:
        assert read_line(process) == b"up\n"
        assert len(group.pids()) == 2
        assert group.freeze(5)
        assert group.below("a/b").freeze(5)  # and once more below
        group.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert group.pids() == []


def test_the_frozen_runs_on_after_a_thaw(group: Cgroup) -> None:
    with start(group, "echo up; read line; echo $line; read line") as process:
        assert process.stdin is not None
        assert read_line(process) == b"up\n"
        assert group.freeze(5)
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        group.thaw()
        assert read_line(process) == b"still here\n"
        group.kill(spare=process.pid)
        assert process.poll() is None
        group.kill()
        process.wait(PATIENCE)


def test_a_group_that_is_not_there_is_frozen_killed_and_removed_in_vain(group: Cgroup) -> None:
    nothing = group.below("nothing")
    assert not nothing.freeze(1)
    nothing.kill()
    nothing.remove()
    with contextlib.suppress(OSError):
        nothing.thaw()
