"""The processes of a container, and what they are up to: stopped, from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from worker_agent import proc
from worker_agent.engine.stopped import stopped_tasks
from worker_agent.preflight.findings import Finding, Level, Process


def check_processes(processes: list[Process], init_pid: int) -> Iterator[Finding]:
    """What each of them is."""
    level = max(0, proc.level(init_pid))
    stopped = stopped_tasks(process.pid for process in processes)
    for process in processes:
        if process.pid in stopped:
            yield Finding(Level.NOTE, "stopped", "is stopped (SIGSTOP); it is saved, and stays stopped", "", process)
        if _from_outside(process.pid, init_pid, level):
            what = "was started from outside (exec); it is not saved and does not come back"
            yield Finding(Level.NOTE, "exec", what, "", process)


def shares_ipc(pid: int) -> bool:
    """Has it the IPC namespace that this program has?"""
    with contextlib.suppress(OSError):  # it ended
        return os.path.samefile(f"/proc/{pid}/ns/ipc", "/proc/self/ns/ipc")
    return False


def _from_outside(pid: int, init_pid: int, level: int) -> bool:
    """Is an ancestor of it not in the container? (One that ends while we climb is no proof.)"""
    while pid != init_pid:
        status = proc.status(pid)
        if not status:
            return False
        if len(status.numbers) <= level or not status.parent:
            return True
        pid = status.parent
    return False
