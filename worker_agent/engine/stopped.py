"""Stopped processes (SIGSTOP, state T): found, brought through a dump as they are, and left stopped after a restore.

Under the freezer of cgroup version 1 CRIU hangs on them for ever: to be seized, a stopped task must wake for a moment
(the kernel's ptrace_attach waits for it), and a frozen task cannot. So, while CRIU waits for such a task, it is moved
into a cgroup beside the container's that is not frozen, where it goes from its stop straight into CRIU's hands, and
back. Nothing else thaws, no signal is sent, no parent hears of it, and no instruction of the task's own runs.

Version 2 freezes by other means and needs none of this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from perdure.domain.errors import FreezerFailed
from perdure.waiting import until
from worker_agent import proc
from worker_agent.engine.commands import complete
from worker_agent.engine.threads import urgently
from worker_agent.freezer import Freezer

_SUFFIX = "-perdure-stopped"
"""What the name of the cgroup beside the container's ends in."""
_POLL = 0.002
_CAUGHT = 1.0
"""Seconds in which a task that was let out must be in CRIU's hands; it is tried again after them."""


def stopped_tasks(pids: Iterable[int]) -> dict[int, list[int]]:
    """The stopped threads of each process that has any. A frozen task's stop is seen too (kernel 6.1 and younger show
    it as state D)."""
    found: dict[int, list[int]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended while we looked
            tids = [tid for tid in proc.threads(pid) if _stopped(pid, tid)]
            if tids:
                found[pid] = tids
    return found


def _stopped(pid: int, tid: int) -> bool:
    try:
        state = proc.stat(pid, tid)[0]
        return state == "T" or (state == "D" and proc.read(f"/proc/{pid}/task/{tid}/wchan") == "do_signal_stop")
    except OSError:
        return False


@contextlib.asynccontextmanager
async def let_through(freezer: Freezer, tasks: dict[int, list[int]]) -> AsyncIterator[None]:
    """While a dump of the frozen cgroup is taken inside this block, its stopped tasks reach CRIU's hands."""
    if freezer.unified or not tasks:
        yield
        return
    beside = _beside(freezer)
    beside.mkdir(exist_ok=True)
    over = threading.Event()
    usher = threading.Thread(target=_usher, args=(beside, tasks, over), name="stopped tasks")
    usher.start()
    try:
        yield
    finally:
        over.set()
        await complete(urgently(usher.join))
        await urgently(clean, freezer)


def clean(freezer: Freezer) -> None:
    """Bring back what an agent that was killed left beside the container's cgroup. Idempotent."""
    beside = _beside(freezer)
    if freezer.unified or not beside.is_dir():
        return
    for tid in (beside / "tasks").read_text().split():
        _move(int(tid), freezer.path)
    with contextlib.suppress(OSError):  # a process that died out there still counts for a moment
        beside.rmdir()


def _beside(freezer: Freezer) -> Path:
    return freezer.path.with_name(freezer.path.name + _SUFFIX)


def _usher(beside: Path, tasks: dict[int, list[int]], over: threading.Event) -> None:
    waiting = [(pid, tid) for pid, tids in tasks.items() for tid in tids]
    while waiting and not over.is_set():
        waiting = [task for task in waiting if not _handed_over(beside, *task)]
        over.wait(_POLL)


def _handed_over(beside: Path, pid: int, tid: int) -> bool:
    """Let one task out if CRIU waits for it. True if it is in CRIU's hands, or gone.

    CRIU itself stands still meanwhile (a signal reaches it as soon as the task is in its hands): it must not look at
    the task's cgroup while that is the wrong one (which happened on a busy machine, and a restore would repeat it).
    """
    status = proc.status(pid, tid)
    if not status:
        return True
    if not status.tracer:
        return False
    try:
        home = Freezer.of_process(tid).path
        os.kill(status.tracer, signal.SIGSTOP)
        try:
            _move(tid, beside)
            return _caught(pid, tid)
        finally:
            try:
                _move(tid, home)
            finally:
                os.kill(status.tracer, signal.SIGCONT)
    except (FileNotFoundError, ProcessLookupError, FreezerFailed):
        return True


def _caught(pid: int, tid: int) -> bool:
    """In CRIU's hands, or gone."""
    try:
        return until(lambda: proc.status(pid, tid).state in "t?", _CAUGHT, 0)
    except TimeoutError:
        return False


def _move(tid: int, cgroup: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        (cgroup / "tasks").write_text(str(tid))
