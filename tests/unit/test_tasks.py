"""What a container's processes are up to, asked of real ones."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.waiting import until
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import timers
from worker_agent.engine.stopped import stopped_tasks
from worker_agent.engine.tasks import dump_bytes, ends, goes_away, names, obstacle, users_of, waits_for_vfork

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        until(lambda: proc.command(process.pid) == "sleep", PATIENCE)
        yield process
        process.kill()


def test_nothing_stands_in_the_way_of_a_plain_process(child: subprocess.Popen[bytes]) -> None:
    assert obstacle([child.pid, 2**22 - 1]) == ""


def test_a_stopped_process_is_seen_and_stands_in_nobody_s_way(child: subprocess.Popen[bytes]) -> None:
    assert stopped_tasks([child.pid]) == {}
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: stopped_tasks([child.pid, 2**22 - 1]) == {child.pid: [child.pid]}, PATIENCE)
    assert obstacle([child.pid]) == ""
    os.kill(child.pid, signal.SIGCONT)
    until(lambda: stopped_tasks([child.pid]) == {}, PATIENCE)


def test_one_that_ends_is_told_from_one_that_only_lost_its_first_thread(child: subprocess.Popen[bytes]) -> None:
    assert not ends(child.pid)
    assert ends(2**22 - 1), "there is no such process"
    child.kill()
    until(lambda: ends(child.pid), PATIENCE)  # a zombie: nobody has waited for it
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(3600,)).start();"
        "ctypes.CDLL(None).pthread_exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as leaderless:
        until(lambda: proc.stat(leaderless.pid)[0] == "Z", PATIENCE)
        assert not ends(leaderless.pid)
        leaderless.kill()
        until(lambda: ends(leaderless.pid), PATIENCE)


def test_a_traced_process_and_its_tracer_are_named() -> None:
    code = (
        "import ctypes, os, time; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print(flush=True); time.sleep(3600)"  # TRACEME
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as traced:
        assert traced.stdout is not None
        traced.stdout.readline()
        assert f"is traced by process {os.getpid()}" in obstacle([traced.pid])
        traced.kill()


def test_the_parent_of_a_running_vfork_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    # posix_spawn opens the fifo in the child, which shares the parent's memory until then; the parent waits in clone.
    code = """
import os, sys

actions = [(os.POSIX_SPAWN_OPEN, 5, sys.argv[1], os.O_RDONLY, 0)]
os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)
"""
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "gate"]) as parent:
        until(lambda: obstacle([parent.pid]) != "" or parent.poll() is not None, PATIENCE)
        assert waits_for_vfork(parent.pid) and goes_away(obstacle([parent.pid]))
        os.close(os.open(tmp_path / "gate", os.O_WRONLY))
        assert parent.wait(PATIENCE) == 0


def test_a_child_that_was_stopped_at_its_birth_is_no_vfork() -> None:
    code = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
mask, before = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
parent = os.getpid()
while True:
    child = os.fork()
    if child == 0:
        time.sleep(3600)
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    if open(f"/proc/{child}/syscall").read().split()[0] in ("56", "57", "58", "220", "435"):
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(child, flush=True)
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not waits_for_vfork(child) and obstacle([child, parent.pid]) == ""
        os.kill(child, signal.SIGKILL)
        parent.kill()


def test_users_of_a_folder_are_sought_among_programs_of_ours_not_in_containers(tmp_path: Path) -> None:
    """A neighbour's descriptors are not read: it may have hundreds of thousands."""
    code = "import os, time; os.chdir(__import__('sys').argv[1]); print(flush=True); time.sleep(3600)"
    argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as contained:
        assert contained.stdout is not None and contained.stdout.readline()
        assert users_of(tmp_path) == []
        contained.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@pytest.mark.parametrize("own_files", [True, False])
def test_a_program_that_calls_itself_criu_uses_no_folder_of_ours_that_it_does_not_see(
    tmp_path: Path, own_files: bool
) -> None:
    """A restored process has CRIU's name for a moment, and CRIU's files. A job may give itself name and folder."""
    code = f"""
import ctypes, os, subprocess, time
if {own_files}:
    subprocess.run(["mount", "-t", "tmpfs", "none", {str(tmp_path)!r}], check=True)
os.chdir({str(tmp_path)!r})
kept = open("file", "w")
ctypes.CDLL(None).prctl(15, b"criu", 0, 0, 0)
print(flush=True)
time.sleep(3600)
"""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-c", code]
    if not own_files:
        argv.remove("--mount")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as contained:
        assert contained.stdout is not None and contained.stdout.readline()
        found = [proc.command(pid) for pid in users_of(tmp_path)]
        contained.kill()
        assert found == ([] if own_files else ["criu"])


def test_processes_have_names_but_no_arguments(child: subprocess.Popen[bytes]) -> None:
    assert names([child.pid]) == [f"{child.pid} sleep"]


def test_memory_is_counted() -> None:
    code = "block = bytearray(64 << 20); print(flush=True); import time; time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert dump_bytes([process.pid], 2**22 - 1) > 64 << 20
        process.kill()


def test_memory_that_many_processes_share_counts_once() -> None:
    code = "import mmap, os, sys; shared = mmap.mmap(-1, 64 << 20); page = b'x' * (64 << 20);"
    code += "everyone = [os.fork() for _ in range(3)]; shared[:] = page; os.write(1, b'k'); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(8) == b"k" * 8  # three forks one after the other, by all that are there
        pids = _with_children(process.pid)
        private = 8 * (64 << 20)  # `page`, and what an interpreter needs
        assert 9 * (64 << 20) <= dump_bytes(pids, 2**22 - 1) + (1 << 20) < private + 8 * (16 << 20) + 2 * (64 << 20)
        process.stdin.close()


def _with_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _with_children(int(child)))]


def test_users_of_a_folder(tmp_path: Path) -> None:
    assert users_of(tmp_path) == []
    with subprocess.Popen(["sleep", "3600"], cwd=tmp_path) as inside:
        until(lambda: users_of(tmp_path) == [inside.pid], PATIENCE)
        assert users_of(tmp_path / "deeper") == []
        inside.kill()


def test_a_repeating_timer_that_stands_still_runs_again() -> None:
    """As CRIU leaves it: no time to go, but a period. (Made by a timer that expired and was not read.)"""
    timer = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    try:
        assert timers.restart([os.getpid()]) == 0
        _libc.timerfd_settime(timer, 0, struct.pack("4q", 0, 20_000_000, 0, 1), None)
        until(lambda: "it_value: (0, 0)" in Path(f"/proc/self/fdinfo/{timer}").read_text(), PATIENCE)
        assert timers.restart([os.getpid()]) == 1
        assert struct.unpack("Q", os.read(timer, 8))[0] >= 1
        until(lambda: "ticks: 0" not in Path(f"/proc/self/fdinfo/{timer}").read_text(), PATIENCE)
    finally:
        os.close(timer)
