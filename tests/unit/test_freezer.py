"""The freezer on real cgroups: version 1 where it is mounted, and version 2 (its core needs no controller)."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.domain.errors import FreezerFailed
from perdure.image.mounts import read_mounts
from perdure.waiting import until
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import stopped
from worker_agent.freezer import Freezer

pytestmark = pytest.mark.criu


def hierarchies() -> dict[str, Path]:
    """Mount point of a version 1 freezer and of version 2, as far as this machine has them."""
    found = {}
    for mount in read_mounts():
        if mount.kind == "cgroup2" and os.access(mount.point, os.W_OK):
            found["v2"] = Path(mount.point)
        elif mount.kind == "cgroup" and "freezer" in mount.options.split(","):
            found["v1"] = Path(mount.point)
    return found


@pytest.fixture(params=["v1", "v2"])
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    top = hierarchies().get(request.param)
    if top is None:
        pytest.skip(f"no cgroup {request.param} freezer on this machine")
    path = top / f"perdure-test-{secrets.token_hex(4)}"
    (path / "below").mkdir(parents=True)
    yield Freezer(path, unified=request.param == "v2")
    (path / "below").rmdir()
    path.rmdir()


@pytest.fixture
def counter(freezer: Freezer, tmp_path: Path) -> Iterator[Path]:
    """Two processes, one of them in a cgroup below, that append to a file for as long as they run."""
    line = tmp_path / "count"
    text = f"while :; do echo x >> {line}; done"
    processes = [subprocess.Popen(["/bin/sh", "-c", text]) for _ in range(2)]
    (freezer.path / "cgroup.procs").write_text(str(processes[0].pid))
    (freezer.path / "below" / "cgroup.procs").write_text(str(processes[1].pid))
    until(line.exists, PATIENCE)
    yield line
    freezer.kill()
    for process in processes:
        process.kill()
        process.wait()


def freeze(freezer: Freezer) -> None:
    if freezer.unified:
        (freezer.path / "cgroup.freeze").write_text("1")
        until(lambda: "frozen 1" in (freezer.path / "cgroup.events").read_text(), PATIENCE)
    else:
        (freezer.path / "freezer.state").write_text("FROZEN")
        until(lambda: (freezer.path / "freezer.state").read_text() == "FROZEN\n", PATIENCE)


def test_thawing_lets_everything_run_again(freezer: Freezer, counter: Path) -> None:
    assert not freezer.frozen()
    assert len(freezer.pids()) == 2
    freeze(freezer)
    assert freezer.frozen()
    freezer.thaw()
    freezer.thaw()
    size = counter.stat().st_size
    until(lambda: counter.stat().st_size > size, PATIENCE)


def test_what_is_killed_while_frozen_writes_nothing_more(freezer: Freezer, counter: Path) -> None:
    freeze(freezer)
    size = counter.stat().st_size
    freezer.kill()
    freezer.wait_empty(PATIENCE)
    assert freezer.pids() == []
    assert counter.stat().st_size == size


def test_one_that_stays_is_named(freezer: Freezer, counter: Path) -> None:
    with pytest.raises(FreezerFailed, match=rf"process {freezer.pids()[0]} .* did not die within 0 s"):
        freezer.wait_empty(0)


def test_a_cgroup_that_is_gone_is_not_frozen_and_thaws_quietly() -> None:
    freezer = Freezer.of_cgroup(f"/perdure-test-{secrets.token_hex(4)}")
    assert not freezer.exists() and not freezer.frozen() and freezer.pids() == []
    freezer.thaw()
    freezer.kill()


def test_a_process_knows_its_freezer() -> None:
    own = Freezer.of_process(os.getpid())
    assert own.exists() and os.getpid() in own.pids()
    with subprocess.Popen(["true"]) as done:
        done.wait()
        with pytest.raises(FreezerFailed, match="is gone"):
            Freezer.of_process(done.pid)


def test_criu_goes_on_even_where_a_stopped_task_cannot_be_brought_home(freezer: Freezer) -> None:
    """It is stopped while a task in its hands is outside its cgroup. Left so it would hang for the whole limit."""
    if freezer.unified:
        pytest.skip("version 2 lets stopped tasks be seized as they are")
    home, beside = freezer.path / "home", freezer.path / "beside"
    home.mkdir()
    beside.mkdir()
    seize = "import ctypes, sys, time; ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0); print(flush=True)"
    task = subprocess.Popen(["sleep", "3600"])
    argv = [sys.executable, "-c", f"{seize}; time.sleep(3600)", str(task.pid)]
    tracer = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        (home / "cgroup.procs").write_text(str(task.pid))
        assert tracer.stdout is not None and tracer.stdout.readline()
        handing = threading.Thread(target=stopped._handed_over, args=(beside, task.pid, task.pid))
        handing.start()
        until(lambda: (beside / "tasks").read_text() != "", PATIENCE, 0.001)
        home.rmdir()
        handing.join()
        assert proc.stat(tracer.pid)[0] != "T"
    finally:
        for process in (tracer, task):
            process.kill()
            process.communicate()
        for place in filter(Path.exists, (home, beside)):
            _remove(place)


def _remove(cgroup: Path) -> None:
    until(lambda: (cgroup / "tasks").read_text() == "", PATIENCE)
    cgroup.rmdir()
