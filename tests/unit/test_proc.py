"""What /proc tells of real processes, whatever they call themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure.waiting import until
from tests.patience import PATIENCE
from tests.programs import THEN_WAIT, running
from worker_agent import proc
from worker_agent.container.protected_jobs import start_ticks
from worker_agent.engine import looking, tasks, thread_settings
from worker_agent.engine.stopped import stopped_tasks
from worker_agent.rehearse.make_up import make_up
from worker_agent.runtime import perdure_runtime

NOBODY = 1 << 22


@contextmanager
def named(name: bytes) -> Iterator[int]:
    """A process of that name."""
    code = f"import ctypes; ctypes.CDLL(None).prctl(15, bytes.fromhex({name.hex()!r}), 0, 0, 0)"
    with running(code + THEN_WAIT) as pid:
        assert Path(f"/proc/{pid}/comm").read_bytes() == name[:15] + b"\n"
        yield pid


def test_half_a_character_in_a_name_is_in_nobody_s_way() -> None:
    """The kernel cuts a name after 15 bytes, in the middle of a character if need be."""
    with named("Müller-datensätze".encode()) as pid:
        assert proc.command(pid) == "Müller-datens?"
        assert tasks.names([pid]) == [f"{pid} Müller-datens?"]
        assert tasks.obstacle([pid]) == "" and not tasks.ends(pid) and not tasks.waits_for_vfork(pid)
        assert stopped_tasks([pid]) == {} and thread_settings.noted([pid], pid) == {}
        assert tasks.dump_bytes([pid], pid) > 0 and tasks.users_of(Path("/nowhere")) == []
        assert looking.look([pid], pid).processes[pid].command == "Müller-datens?"
        assert start_ticks(pid) > 0


@pytest.mark.parametrize("forged", [b"\rTracerPid:\t7", b"\rNSpid:\t1 2 3", b"\x0cState:\tZ", b"a) Z 1 2 3 4 5"])
def test_a_name_forges_nothing(forged: bytes) -> None:
    with named(forged) as pid:
        seen = proc.status(pid)
        assert (seen.tracer, seen.numbers) == (0, [pid]) and seen.state in "RSD"
        assert seen.parent == os.getpid() and seen.name.isprintable()
        assert proc.stat(pid)[0] in "RSD" and proc.stat(pid)[1] == str(os.getpid())
        assert tasks.obstacle([pid]) == "" and proc.inner([pid], pid) == {pid: pid}
        assert perdure_runtime._inner_pid(pid) == pid


def test_a_program_s_file_that_has_no_text_for_a_name_is_told_as_text(tmp_path: Path) -> None:
    """What a job is made of is kept as JSON, beside all else that the agent knows of it."""
    program = tmp_path / os.fsdecode(b"\xff")
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "3600"]) as process:
        until(lambda: os.readlink(f"/proc/{process.pid}/exe").endswith("\udcff"), PATIENCE)
        found = make_up([process.pid])
        process.kill()
    assert "program ?" in found and "".join(found).encode()


def test_memory_in_swap_is_a_process_s_own_too() -> None:
    shown = proc.Status("Name:\tjob\nRssAnon:\t    1024 kB\nRssShmem:\t      16 kB\nVmSwap:\t    3072 kB\n")
    assert (shown.private_kib, shown.kib("RssShmem")) == (4096, 16)


def test_who_is_gone_has_no_status_and_no_number() -> None:
    gone = proc.status(NOBODY)
    assert not gone and gone.numbers == gone.sessions == [] and gone.tracer == gone.parent == gone.kib("RssAnon") == 0
    assert (gone.name, gone.state, proc.command(NOBODY)) == ("?", "?", "?")
    assert proc.level(NOBODY) == -1
    assert proc.inner([os.getpid()], NOBODY) == proc.inner([NOBODY], os.getpid()) == proc.inner([NOBODY], NOBODY) == {}
    for asked in (proc.stat, proc.threads, start_ticks):
        with pytest.raises(OSError):
            asked(NOBODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_a_container_numbers_its_processes_itself() -> None:
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "sleep 3600 & echo; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as outside:
        assert outside.stdout is not None and outside.stdout.readline()
        first = _child(outside.pid)
        second = _child(first)
        assert proc.level(first) == proc.level(os.getpid()) + 1
        assert proc.inner([first, second, outside.pid, NOBODY], first) == {first: 1, second: 2}
        assert proc.inner(proc.threads(second), first) == {second: 2}
        outside.kill()


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
