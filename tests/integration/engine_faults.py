"""What befalls processes in the engine's tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator

from perdure import waiting
from tests.integration.engine_places import wait_for
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import Container, tasks

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def traced(pid: int) -> Iterator[None]:
    """A process that a debugger (this thread) has attached to and lets run."""
    seize, interrupt, detach = 0x4206, 0x4207, 17
    assert _libc.ptrace(seize, pid, 0, 0) == 0
    yield
    assert _libc.ptrace(interrupt, pid, 0, 0) == 0
    os.waitpid(pid, 0x40000000)  # __WALL
    assert _libc.ptrace(detach, pid, 0, 0) == 0


@contextlib.contextmanager
def end_criu(container: Container, sign: str) -> Iterator[None]:
    """Kill CRIU as soon as its log of this container's restore has that sign; and runc, which would wait for ever."""
    killed = []

    def kill() -> None:
        def at_work() -> list[int]:
            return [pid for pid in tasks.users_of(container.work_dir) if proc.command(pid) == "criu"]

        def groups_at_work() -> set[int]:
            found = set()
            for pid in at_work():
                with contextlib.suppress(ProcessLookupError):
                    found.add(os.getpgid(pid))
            return found

        def signed() -> bool:
            try:
                return sign in (container.work_dir / "restore.log").read_text(errors="replace")
            except FileNotFoundError:
                return False

        # To find processes takes longer than what CRIU does next: they are known before the sign comes.
        groups = waiting.until(groups_at_work, PATIENCE, 0.001, "CRIU is at work")
        wait_for(signed, f"{sign!r} in CRIU's log", pause=0.001)
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
                killed.append(group)
        for pid in at_work():
            with contextlib.suppress(ProcessLookupError):  # the one before took it along
                os.killpg(os.getpgid(pid), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        assert killed
