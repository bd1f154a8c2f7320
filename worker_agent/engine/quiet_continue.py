"""Letting a restored job go on so that it does not notice: no SIGCONT, no SIGCHLD about the stop or the continuation.

CRIU leaves restored processes in a group stop, and only SIGCONT ends one. So each thread is held by ptrace meanwhile:
the stop ends, the parents are told, and what that put into the queues is taken out again, before the first instruction
of the job. A thread that is let go on while it is traced stops again before it takes a signal (ptrace(2),
"Signal-delivery-stop"), and there the signal can be taken away.

A parent that would take its SIGCHLD before that comes back with it blocked (quiet_parents.py), and takes it again last.

What the job itself had waiting at the dump stays (signal_queues.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from perdure.domain.checkpoints import Manifest
from perdure.domain.errors import ImageInvalid, RestoreFailed
from perdure.image.layout import IMAGES
from worker_agent import proc
from worker_agent.engine import job_root as roots
from worker_agent.engine import quiet_parents, runc, signal_queues
from worker_agent.engine.container import Container
from worker_agent.engine.ptrace import Traced, let_go
from worker_agent.engine.threads import urgently

log = structlog.get_logger()

LIMIT = 20.0
"""Seconds for all of it; a few milliseconds are usual. The runtime waits ten longer (CONTINUE_LIMIT)."""
_UNHUSH_LIMIT = 10.0
_MOST_STOPS = 16
"""A thread that stops so often without taking its signal will not."""
_STOP_SIGNALS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_CLD_STOPPED, _CLD_CONTINUED = 5, 6
_ALL = (1 << 64) - 1


@dataclass
class _Process:
    pid: int
    goes_on: bool
    own: frozenset[int]
    """Signals that waited for it at the dump."""
    threads: list[Traced] = field(default_factory=list)


async def continue_restored(container: Container, manifest: Manifest) -> None:
    """Let the restored processes go on, but for those that stood stopped at the freeze. They notice nothing of it; only
    where that cannot be done do they get SIGCONT, and the log says so. RestoreFailed: a process has ended."""
    pids = await runc.pids(container)
    inner = await urgently(proc.inner, pids, container.init_pid)
    stay = {pid for pid, number in inner.items() if number in manifest.stopped}
    images = roots.store(container.job_root).folder(manifest.number) / IMAGES
    try:
        hushed = await urgently(_hushed, images, inner, container.init_pid)
    except (ImageInvalid, OSError) as problem:
        raise RestoreFailed(f"checkpoint {manifest.number}: {problem}", "continue") from problem
    try:
        waiting = await urgently(signal_queues.waiting, images, inner)
        await urgently(let_go_on, inner, stay, waiting, hushed)
    except (ImageInvalid, OSError) as problem:
        log.warning("a restored job gets SIGCONT", container=container.id[:12], reason=str(problem))
        await urgently(_unhush, hushed)
        _send_sigcont(pid for pid in pids if pid not in stay)


def _hushed(images: Path, inner: Mapping[int, int], init_pid: int) -> dict[int, frozenset[int]]:
    """By process, the threads that came back with SIGCHLD blocked, in this node's numbers."""
    threads = quiet_parents.threads_to_hush(images)
    found = {}
    for pid, number in inner.items():
        if number in threads:
            tids = proc.inner(proc.threads(pid), init_pid)
            found[pid] = frozenset(tid for tid, inside in tids.items() if inside in threads[number])
    return found


def _unhush(hushed: Mapping[int, frozenset[int]]) -> None:
    """Where `let_go_on` did not come to it: a job that never hears of its children again would be worse than none."""
    traced: list[Traced] = []
    end = time.monotonic() + _UNHUSH_LIMIT
    try:
        for pid, tids in hushed.items():
            for tid in tids:
                traced.append(Traced(pid, tid))
                traced[-1].interrupt()
                _settle(traced[-1], end)
                traced[-1].set_mask(traced[-1].mask() & ~quiet_parents.BIT)
    except OSError as problem:
        raise RestoreFailed(f"a restored process could not be let go on: {problem}", "continue") from problem
    finally:
        let_go(traced)


def _send_sigcont(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError as error:
            raise RestoreFailed(f"process {pid} ended before it was continued", "continue") from error


def let_go_on(
    pids: Iterable[int],
    stay: Iterable[int],
    own: Mapping[int, frozenset[int]],
    hushed: Mapping[int, frozenset[int]],
) -> None:
    """End the group stop of `pids`, but for those in `stay`, of which only the parents hear nothing. `own`: the signals
    that waited for a process at the dump. `hushed`: the threads of a process that take SIGCHLD again at the end.
    Everything in one thread.

    OSError (TimeoutError too): it could not be done; nothing is traced any more, and some may still stand stopped.
    """
    end = time.monotonic() + LIMIT
    kept = set(stay)
    wanted = (pid for pid in pids if pid in hushed or (_was_told(pid) if pid in kept else _stands(pid)))
    processes = [_Process(pid, pid not in kept, own.get(pid, frozenset())) for pid in wanted]
    traced: list[Traced] = []
    try:
        for process in processes:
            _seize(process, traced)
        for task in traced:
            _settle(task, end)
        going = [process for process in processes if process.goes_on and process.threads]
        for process in going:
            os.kill(process.pid, signal.SIGCONT)
        for process in going:
            _tell_parent(process, end)
        for process in processes:
            _clear(process, end)
        for process in processes:
            for task in process.threads:
                if task.tid in hushed.get(process.pid, ()):
                    task.set_mask(task.mask() & ~quiet_parents.BIT)
    finally:
        let_go(traced)


def _stands(pid: int) -> bool:
    """Is it stopped, or about to be? One that has ended waits for its parent, and one that runs needs nothing."""
    status = _status(pid)
    return status.state == "T" or (status.state != "Z" and bool(status.signals("ShdPnd") & _bit(signal.SIGSTOP)))


def _was_told(pid: int) -> bool:
    """Stopped, and a SIGCHLD waits for it."""
    status = _status(pid)
    return status.state == "T" and bool(status.signals("ShdPnd") & _bit(signal.SIGCHLD))


def _status(pid: int) -> proc.Status:
    status = proc.status(pid)
    if not status:
        raise ProcessLookupError(f"process {pid} has ended")
    return status


def _bit(number: int) -> int:
    return 1 << (number - 1)


def _seize(process: _Process, traced: list[Traced]) -> None:
    for tid in proc.threads(process.pid):
        task = Traced(process.pid, tid)
        traced.append(task)
        process.threads.append(task)
        task.interrupt()


def _settle(task: Traced, end: float) -> None:
    """Until it stands still without a signal in its hands; one that it had already taken is delivered."""
    while number := task.wait(end):
        task.interrupt()
        task.go_on(number)


def _tell_parent(process: _Process, end: float) -> None:
    """On its way back to the job's code the first thread tells the parent of the continuation (kernel, get_signal), and
    then stops again."""
    first = process.threads[0]
    first.interrupt()
    first.go_on()
    _settle(first, end)
    first.forget_continued()


def _clear(process: _Process, end: float) -> None:
    """Out of the queue goes what the stop and its end have put there; in again what they took from it."""
    if not process.threads:
        return
    for _ in range(_MOST_STOPS):
        number = _not_its_own(process)
        if not number:
            break
        _take(process, number, end)
    else:
        raise TimeoutError(f"process {process.pid} did not take signal {number}")
    if process.goes_on:
        for stop in process.own.intersection(_STOP_SIGNALS):
            os.kill(process.pid, stop)


def _not_its_own(process: _Process) -> int:
    """A signal that waits for the process because of the stop or its end; 0 if there is none."""
    for number, code in process.threads[0].shared_pending():
        if number not in process.own and _of_a_stop(number, code):
            return number
    return 0


def _of_a_stop(number: int, code: int) -> bool:
    return number == signal.SIGCONT or (number == signal.SIGCHLD and code in (_CLD_STOPPED, _CLD_CONTINUED))


def _take(process: _Process, number: int, end: float) -> None:
    """Have a thread take this signal, and take it away from it: one that would take this and no other. Without one, a
    thread blocks all others for that moment."""
    bit = _bit(number)
    for task in process.threads:
        if task.deliverable() == bit:
            _pass_over(task, end)
            return
    task = process.threads[0]
    mask = task.mask()
    task.set_mask(_ALL & ~bit)
    try:
        _pass_over(task, end)
    finally:
        task.set_mask(mask)


def _pass_over(task: Traced, end: float) -> None:
    """Up to the thread's next stop, of which there is one: a signal waits for it."""
    task.go_on()
    number = task.wait(end)
    if number:
        ours = _of_a_stop(number, task.signal_code())
        task.interrupt()
        task.go_on(0 if ours else number)
        _settle(task, end)
