"""The processes of a container, and what they are up to: stopped, sandboxed, from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator

from worker_agent import proc
from worker_agent.engine.stopped import stopped_tasks
from worker_agent.preflight.findings import Finding, Level, Process

_NESTED = ("pid", "user", "ipc", "uts", "time")
"""Namespaces of which CRIU saves the container's own alone (criu/namespaces.c, CLONE_SUBNS has those that may nest)."""


def check_processes(processes: list[Process], init_pid: int) -> Iterator[Finding]:
    """What each of them is."""
    own = _namespaces(init_pid)
    level = max(0, proc.level(init_pid))
    stopped = stopped_tasks(process.pid for process in processes)
    for process in processes:
        if process.pid in stopped:
            yield Finding(Level.NOTE, "stopped", "is stopped (SIGSTOP); it is saved, and stays stopped", "", process)
        other = [kind for kind, name in _namespaces(process.pid).items() if own.get(kind, name) != name]
        if other:
            what = f"runs in a container or sandbox of its own inside the job's ({', '.join(other)} namespace)"
            fix = "Run the program without the inner container or sandbox."
            yield Finding(Level.CHANGE, "nested namespace", what, fix, process)
        if _from_outside(process.pid, init_pid, level):
            what = "was started from outside (exec); it is not saved and does not come back"
            yield Finding(Level.NOTE, "exec", what, "", process)


def shares_ipc(pid: int) -> bool:
    """Has it the IPC namespace that this program has?"""
    return _namespaces(pid).get("ipc") == _namespaces(os.getpid()).get("ipc")


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


def _namespaces(pid: int) -> dict[str, str]:
    found = {}
    for kind in _NESTED:
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:  # gone, a zombie, or a kernel without that kind
            continue
    return found
