"""A local stack's life: up, jobs' files from outside, down; and what its programs' sudden deaths leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from localcloud.cgroups import Cgroup, hierarchies
from localcloud.linux import loop_devices_below, mount_table
from localcloud.nodes.launcher import remove_folder
from localcloud.nodes.network import bridges_of
from localcloud.stack.stack import StackPlace
from tests.e2e.conftest import User, until
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack]

PERDURE = Path(sys.executable).parent / "perdure"


def perdure(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(PERDURE), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def place() -> Iterator[StackPlace]:
    """A stack that a test starts, kills and restarts as it likes; gone afterwards."""
    place = StackPlace(f"test-stack-{os.getpid()}")
    try:
        yield place
    finally:
        perdure("local", "down", "--stack", place.name)
        remove_folder(place.folder)
        place.lock_file.unlink()


def traces(place: StackPlace) -> list[str]:
    """What there is of the stack on this machine, its logs aside."""
    found = [str(entry.point) for entry in mount_table() if entry.point.is_relative_to(place.folder)]
    found += [str(device) for device in loop_devices_below(place.folder)]
    found += bridges_of(place.mark)
    found += [str(root) for root in hierarchies() if (root / place.cgroup.lstrip("/")).exists()]
    found += [f"process {pid}" for pid in Cgroup.at(place.cgroup).pids()]
    found += [
        f"process {process.pid}"
        for process in psutil.process_iter(["cmdline"])
        if any(str(place.folder) in word or word == place.name for word in process.info["cmdline"] or [])
        and process.pid != os.getpid()
    ]
    if place.folder.is_dir():
        found += [str(entry) for entry in place.folder.iterdir() if entry != place.logs]
    return found


def test_up_again_after_every_program_died_and_down_twice_leave_nothing(place: StackPlace) -> None:
    perdure("local", "up", "--detach", "--stack", place.name)
    with contextlib.closing(User(place.name)) as user:
        job = user.submit("/bin/sh", "-c", "echo up; exec sleep 1000")
        until(lambda: user.printed(job) == "up\n", "the job runs")
    assert perdure("local", "up", "--detach", "--stack", place.name).stdout == ""  # it runs already

    for name in ("supervisor", "cloud"):
        os.kill(user.status["processes"][name], signal.SIGKILL)
    perdure("local", "status", "--json", "--stack", place.name, status=5)
    perdure("local", "up", "--detach", "--stack", place.name)
    status = json.loads(perdure("local", "status", "--json", "--stack", place.name).stdout)
    assert {node["zone"] for node in status["nodes"] if node["state"] == "ready"} == {"us-east-1a", "us-east-1b"}
    assert status["jobs"] == []

    perdure("local", "down", "--stack", place.name)
    assert traces(place) == []
    perdure("local", "down", "--stack", place.name)
    perdure("local", "status", "--stack", place.name, status=5)
