"""The processes of a container, and what they are up to: traced, stopped, sandboxed, from outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from worker_agent.engine.stopped import stopped_tasks
from worker_agent.engine.tasks import command
from worker_agent.preflight.findings import Finding, Level, Process

_NESTED = ("pid", "user", "ipc", "uts", "time")
"""Namespaces of which CRIU saves the container's own alone (criu/namespaces.c, CLONE_SUBNS has those that may nest)."""


def read_processes(pids: Iterable[int], init_pid: int) -> list[Process]:
    """Those that live, as this node and as the container numbers them. A number that another process of the machine
    has got meanwhile is left out: one of the container's has its process numbers, or descends from its first."""
    depth = max(0, len(_status(init_pid).get("NSpid", "").split()) - 1)
    home = _namespaces(init_pid).get("pid")
    statuses = {pid: _status(pid) for pid in sorted(pids)}
    parents = {pid: int(status.get("PPid", "0") or 0) for pid, status in statuses.items()}
    found = []
    for pid, status in statuses.items():
        numbers = status.get("NSpid", "").split()
        inside = _namespaces(pid).get("pid") == home or _descends(pid, init_pid, parents)
        if inside and len(numbers) > depth:
            found.append(Process(pid, int(numbers[depth]), command(pid)))
    return found


def check_processes(processes: list[Process], init_pid: int) -> Iterator[Finding]:
    """What each of them is."""
    own = _namespaces(init_pid)
    parents = {process.pid: int(_status(process.pid).get("PPid", "0") or 0) for process in processes}
    stopped = stopped_tasks(parents)
    for process in processes:
        tracer = int(_status(process.pid).get("TracerPid", "0") or 0)
        if tracer:
            what = f"is traced by process {tracer} ({command(tracer)})"
            yield Finding(Level.CHANGE, "traced", what, "Detach the debugger or strace.", process)
        if process.pid in stopped:
            yield Finding(Level.NOTE, "stopped", "is stopped (SIGSTOP); it is saved, and stays stopped", "", process)
        other = [kind for kind, name in _namespaces(process.pid).items() if own.get(kind, name) != name]
        if other:
            what = f"runs in a container or sandbox of its own inside the job's ({', '.join(other)} namespace)"
            fix = "Run the program without the inner container or sandbox."
            yield Finding(Level.CHANGE, "nested namespace", what, fix, process)
        if process.pid != init_pid and not _descends(process.pid, init_pid, parents):
            what = "was started from outside (exec); it is not saved and does not come back"
            yield Finding(Level.NOTE, "exec", what, "", process)


def shares_ipc(pid: int) -> bool:
    """Has it the IPC namespace that this program has?"""
    return _namespaces(pid).get("ipc") == _namespaces(os.getpid()).get("ipc")


def _descends(pid: int, init_pid: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != init_pid:
        pid = parents[pid]
    return pid == init_pid


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))


def _namespaces(pid: int) -> dict[str, str]:
    found = {}
    for kind in _NESTED:
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:  # gone, a zombie, or a kernel without that kind
            continue
    return found
