"""Processes in unusual states, each through a checkpoint, a death and a restore elsewhere: stopped, traced, in the
middle of a vfork (zombies: the matrix)."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest

from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import CheckpointFailed, NotCheckpointable
from tests.integration.engine_bed import Bed, Running, alive, freezer_of
from tests.integration.engine_faults import traced
from tests.integration.engine_places import wait_for
from tests.integration.test_engine import checkpoint, die, fresh, identity, restored
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import Taking, checkpoint_steps, last_pid, stopped, tasks

pytestmark = [pytest.mark.criu]

STOPPED = """
import ctypes, os, signal, sys, threading, time
name = lambda name: ctypes.CDLL(None).prctl(15, bytes.fromhex(name), 0, 0, 0)
name('4dc3bc6c6c65722d646174656e73c3a4747a65')  # cut after 15 bytes, in the middle of a character
parent = os.getpid()
child = os.fork()
if child == 0:
    name('0d5472616365725069643a0937')  # as /proc says it of one that process 7 traces; and a carriage return before it
    signal.signal(signal.SIGCONT, lambda *_: open('/data/continued', 'a').write('x'))
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    count = 0
    while os.getppid() == parent:
        count += 1
        with open('/data/count.new', 'w') as file:
            file.write(str(count))
        os.rename('/data/count.new', '/data/count')
        time.sleep(.002)
    os._exit(0)
while not os.path.exists('/data/count'):
    time.sleep(.01)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
print('stopped', flush=True)
while not os.path.exists('/data/go'):
    time.sleep(.01)
    print('tick', flush=True)
os.kill(child, signal.SIGCONT)
os.waitpid(child, os.WCONTINUED)
before = int(open('/data/count').read())
while int(open('/data/count').read()) < before + 5:
    time.sleep(.01)
os.kill(child, signal.SIGKILL)
print('ended by', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
TICKS = """
import os, time
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
while True:
    print('tick', flush=True)
    time.sleep(.01)
"""
VFORK = """
import os, sys, time
os.mkfifo('/data/gate')
print('begun', flush=True)
while not os.path.exists('/data/go'):
    # The child opens the fifo before it becomes `true`: until then it has the parent's memory, and the parent waits.
    actions = [(os.POSIX_SPAWN_OPEN, 5, '/data/gate', os.O_RDONLY, 0)]
    os.waitpid(os.posix_spawn('/bin/true', ['true'], {}, file_actions=actions), 0)
    print('tick', flush=True)
    time.sleep(.05)
print('end', flush=True)
"""


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def start(bed: Bed, code: str) -> Running:
    bed.command = ["/usr/bin/python3", "-c", code]
    running = await fresh(bed)
    running.first_line()
    return running


def child_of(running: Running) -> int:
    return freezer_of(running).pids()[-1]


def state(pid: int) -> str:
    return proc.stat(pid)[0]


@pytest.mark.row("Processes", "a stopped process (SIGSTOP)")
@pytest.mark.row("Processes", "a program whose short name is cut within a character, or is no text at all")
async def test_a_stopped_process_stays_stopped_and_runs_no_instruction(bed: Bed) -> None:
    running = await start(bed, STOPPED)
    count = bed.volume.root / "seen/data/count"
    stood_at = count.read_text()
    for epoch in (1, 2):
        for _ in range(2):  # the second of them: it was stopped by CRIU, not by its parent
            manifest = await checkpoint(running, epoch)
            assert manifest.stopped == [manifest_pid(manifest.processes)]
            running.more_lines(3)
            await_stop(child_of(running))
        await die(bed, running)
        running = await restored(bed, epoch + 1, manifest.number)
        running.more_lines(3)
        assert state(child_of(running)) == "T"
        assert count.read_text() == stood_at
        assert not (bed.volume.root / "seen/data/continued").exists()
    (bed.volume.root / "seen/data/go").touch()
    assert running.exit_code() == 0, running.log("stderr").decode()
    assert running.log().splitlines()[-1] == b"ended by -9"
    assert (bed.volume.root / "seen/data/continued").read_text() == "x"


def await_stop(pid: int) -> None:
    wait_for(lambda: state(pid) == "T", "state T")


def manifest_pid(processes: list[str]) -> int:
    """The last process of a manifest."""
    return int(processes[-1].split()[0])


async def test_a_container_that_is_stopped_as_a_whole(bed: Bed) -> None:
    running = await start(bed, TICKS)
    init = running.container.init_pid
    os.kill(init, signal.SIGSTOP)
    wait_for(lambda: state(init) == "T", "state T")
    manifest = await checkpoint(running)
    assert manifest.stopped == [1]
    lines = running.lines()
    assert state(init) == "T"
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    assert state(running.container.init_pid) == "T"
    assert running.lines() == lines
    assert await last_pid.read(running.container.init_pid) == manifest.last_pid >= 20  # no number comes twice
    os.kill(running.container.init_pid, signal.SIGCONT)
    running.more_lines(3)


async def test_what_stood_stopped_at_the_freeze_is_noted_even_if_it_ended_since(bed: Bed) -> None:
    running = await start(bed, STOPPED)
    child = child_of(running)

    def at(step: str) -> None:
        if step == "checksums":  # the job was let go on
            (bed.volume.root / "seen/data/go").touch()
            wait_for(lambda: not alive(child), "the end of the process that stood stopped")

    taking = Taking(PATIENCE, on_step=at)
    manifest = await taking.take(running.container, identity(1), kind=CheckpointKind.PERIODIC, keep=2, reserve_bytes=0)
    assert manifest.stopped == [manifest_pid(manifest.processes)]


async def test_what_an_agent_left_outside_the_cgroup_is_brought_back(bed: Bed) -> None:
    """As after its death in the very moment in which a stopped task was let out."""
    running = await start(bed, STOPPED)
    freezer = freezer_of(running)
    if freezer.unified:
        pytest.skip("version 2 lets stopped tasks be seized as they are")
    beside = freezer.path.with_name(freezer.path.name + "-perdure-stopped")
    beside.mkdir()
    pid = child_of(running)
    (beside / "tasks").write_text(str(pid))
    stopped.clean(freezer)
    assert not beside.exists()
    assert pid in freezer.pids()


@pytest.mark.row("Processes", "a traced process: refused by name, the job runs on")
async def test_a_traced_process_is_refused_by_name(bed: Bed) -> None:
    running = await start(bed, TICKS)
    init = running.container.init_pid
    with traced(init), pytest.raises(NotCheckpointable, match=rf"process {init} \(python3\) is traced .by process"):
        await checkpoint(running)
    assert os.listdir(bed.volume.root / "checkpoints") == []
    running.more_lines(1)
    assert (await checkpoint(running)).number == 1


@pytest.mark.row("Processes", "a vfork in flight: tried again, then refused for this time")
async def test_a_vfork_in_flight_is_waited_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = bed.volume.root / "seen/data/gate"
    running = await start(bed, VFORK)
    wait_for(lambda: any(map(tasks.waits_for_vfork, freezer_of(running).pids())), "a vfork in flight")
    monkeypatch.setattr(checkpoint_steps, "_VFORK_PATIENCE", 0.5)
    with pytest.raises(CheckpointFailed, match=r"never found at rest: process \d+ \(python3\) waits for a vfork"):
        await checkpoint(running)
    assert not freezer_of(running).frozen()
    keeper = os.open(gate, os.O_RDWR)  # from now on every child passes at once: vforks come and go
    try:
        running.more_lines(2)
        monkeypatch.setattr(checkpoint_steps, "_VFORK_PATIENCE", PATIENCE)
        manifest = await checkpoint(running)
        running.more_lines(2)
    finally:
        os.close(keeper)
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    keeper = os.open(gate, os.O_RDWR)
    try:
        running.more_lines(2)
        (bed.volume.root / "seen/data/go").touch()
        assert running.exit_code() == 0, running.log("stderr").decode()
    finally:
        os.close(keeper)
    assert running.log().splitlines()[-1] == b"end"
