"""What is left of a rehearsal on this node, and its end: processes, a cgroup, a folder on the job root.

The kernel ends a rehearsal with its first process, and that one with the agent. But who is at the lowest priority may
wait for minutes for the processor time that dying takes, and an agent can be killed before its child has asked to die
with it. So whatever still runs is found, gets a usual priority and SIGKILL, and is waited for. Nothing is removed
before: a stage that lives makes its folders again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from perdure.domain.errors import CommandFailed, JobRootBusy
from perdure.dying import hurry, hurry_group
from perdure.image.mounts import delete_tree, parse_mountinfo
from worker_agent import proc
from worker_agent.engine import tasks
from worker_agent.rehearse.spec import CGROUPS, FOLDER

log = structlog.get_logger()

_PROC = Path("/proc")
_CGROUP_TOP = Path("/sys/fs/cgroup")
_LIMIT = 60.0
"""Seconds for all of it. The end of a process with a usual priority takes milliseconds, on a busy node seconds. What is
not gone by then waits in the kernel for a disk or a server, perhaps for ever; an agent that starts does not."""
_POLL = 0.02


def stage_argv(folder: Path) -> tuple[str, ...]:
    """The last words of the command line of the stage that works in this folder, and of each program that starts it."""
    return ("-m", "worker_agent.rehearse.stage", str(folder / "spec.json"))


def tidy(job_root: Path, container_id: str) -> str:
    """End and remove what is left of a rehearsal of that container on this node. In words what could not be (it was
    logged); empty: nothing is left. Idempotent. Blocks, for a minute at most."""
    end = time.monotonic() + _LIMIT
    folder = job_root / FOLDER
    left = end_processes(folder, container_id, end)
    left = left or _nothing(partial(_remove_cgroups, container_id), end) or _delete(folder, end)
    if left:
        log.error("something of a rehearsal is left", folder=str(folder), what=left)
    return left


def _nothing(left: Callable[[], str], end: float) -> str:
    """What `left` says, asked until that is nothing or the time is over."""
    while (said := left()) and time.monotonic() < end:
        time.sleep(_POLL)
    return said


# ---- processes ----------------------------------------------------------------------------------------------------


def end_processes(folder: Path, container_id: str, end: float | None = None) -> str:
    """All processes of the rehearsal that works in `folder` are dead when this returns, or it says which is not at
    `end` (monotonic seconds; None: a minute from now). Blocks."""
    end = time.monotonic() + _LIMIT if end is None else end
    while True:
        for cgroup in _cgroups(container_id):
            hurry_group(cgroup)
        found = _found(folder)
        if not found:
            return ""
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            hurry(pid)
        while any(map(_runs, found)):
            if time.monotonic() > end:
                return ", ".join(_words(pid) for pid in found if _runs(pid))
            time.sleep(_POLL)


def _found(folder: Path) -> list[int]:
    """The processes of the rehearsal that run. Two things tell them: a mount namespace in which something is mounted
    below the folder or from it (runc, CRIU, restored processes), and the stage's command line.

    Who is on its way out has neither any more. It writes nothing more, but it may have to give mounts back: every
    dying process at the lowest priority is hurried, whoever's it is, which harms nobody.
    """
    namespaces: dict[str, bool | None] = {os.readlink(_PROC / "self/ns/mnt"): None}
    found = []
    for pid in proc.everyone():
        its = _in_its_mounts(pid, folder, namespaces)
        command = b"" if its is False else _command_line(pid)
        if its or command.endswith(_null_ended(stage_argv(folder))):
            found += [pid] if _runs(pid) else []
        elif its is None and not command:
            _hurry_if_dying(pid)
    return found


def _in_its_mounts(pid: int, folder: Path, namespaces: dict[str, bool | None]) -> bool | None:
    """Is this process in the rehearsal's mounts? None: its command line must tell. False: it does not even see the job
    root. The kernel makes a whole table for each reader, so each namespace of `namespaces` is read once."""
    try:
        namespace = os.readlink(_PROC / f"{pid}/ns/mnt")
        if namespace not in namespaces:
            text = proc.read(f"/proc/{pid}/mountinfo")
            namespaces[namespace] = _has_its_mounts(text, folder)
        return namespaces[namespace]
    except OSError:  # it is on its way out
        return None


def _has_its_mounts(table: str, folder: Path) -> bool | None:
    top, job_root = str(folder), str(folder.parent)
    mounts = parse_mountinfo(table) if job_root in table else []
    for mount in mounts:
        layers = mount.options if mount.kind == "overlay" else ""
        if mount.point.startswith(top + "/") or f"={top}/" in layers or f":{top}/" in layers:
            return True
    return None if any(mount.point == job_root for mount in mounts) else False


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return (_PROC / f"{pid}/cmdline").read_bytes()
    return b""


def _null_ended(words: tuple[str, ...]) -> bytes:
    return b"".join(b"\0" + os.fsencode(word) for word in words) + b"\0"


def _hurry_if_dying(pid: int) -> None:
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(pid) == os.SCHED_IDLE and tasks.ends(pid):
            hurry(pid)


def _threads(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return proc.threads(pid)
    return []


def _runs(pid: int) -> bool:
    """Is a thread of it not dead yet? A process whose first thread is dead looks like a zombie while others live."""
    return any(_state(pid, thread) not in "ZX" for thread in _threads(pid))


def _state(pid: int, thread: int) -> str:
    with contextlib.suppress(OSError):
        return proc.stat(pid, thread)[0]
    return "X"


def _words(pid: int) -> str:
    where = "?"
    with contextlib.suppress(OSError):
        where = (_PROC / f"{pid}/wchan").read_text()
    return f"process {pid} ({proc.command(pid)}, state {_state(pid, pid)}, in {where}) did not die"


# ---- cgroup and folder --------------------------------------------------------------------------------------------


def _cgroups(container_id: str) -> list[Path]:
    """Those of that rehearsal, in each hierarchy (version 1) or in the only one (version 2)."""
    hierarchies = [folder for folder in _CGROUP_TOP.iterdir() if folder.is_dir() and not folder.is_symlink()]
    return [folder for top in (_CGROUP_TOP, *hierarchies) if (folder := top / CGROUPS / container_id).is_dir()]


def _remove_cgroups(container_id: str) -> str:
    """Each with those below it, and the one above it if nobody else needs that."""
    for cgroup in _cgroups(container_id):
        with contextlib.suppress(OSError):
            for place, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(place)
            os.rmdir(cgroup.parent)
    return "".join(f"cgroup {cgroup} is not empty" for cgroup in _cgroups(container_id)[:1])


def _delete(folder: Path, end: float) -> str:
    try:
        delete_tree(folder, limit_seconds=max(1.0, end - time.monotonic()))
    except (JobRootBusy, OSError, CommandFailed, subprocess.TimeoutExpired) as problem:
        return f"{folder} was not removed: {problem}"
    return ""
