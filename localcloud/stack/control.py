"""Starting and stopping a stack from outside: what `up` and `down` do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from localcloud.nodes.inside.configuration import EngineName
from localcloud.stack.checks import require_root
from localcloud.stack.stack import (
    SUPERVISOR_LOG,
    StackPhase,
    StackPlace,
    StackState,
    claimed,
    is_claimed,
    read_state,
)
from localcloud.stack.sweep import sweep
from perdure.domain.errors import StackError
from perdure.waiting import until

POLL_SECONDS = 0.1
STOP_LIMIT_SECONDS = 180.0


def start_stack(
    place: StackPlace,
    temporal_address: str | None,
    namespace: str,
    tell: Callable[[str], None],
    engine: EngineName = "runc",
) -> tuple[StackState, subprocess.Popen[bytes] | None]:
    """Start the stack's supervisor and return once everything serves; `tell` gets each line of progress.

    A stack that runs already is left as it is, and no process is returned. Raises StackError when it has another
    engine, or does not come up (nothing but logs is left then).
    """
    require_root()
    if is_claimed(place):
        state = read_state(place)
        if state is None or state.phase is not StackPhase.READY:
            raise StackError(f"stack {place.name!r} is being started or stopped by another command")
        if state.engine != engine:
            raise StackError(f"stack {place.name!r} runs already, with engine {state.engine}; stop it first")
        return state, None
    place.logs.mkdir(parents=True, exist_ok=True)
    # In a mount namespace of its own, so that nobody else's namespace can hold the stack's disk.
    argv = ["unshare", "--mount", "--propagation", "slave"]
    argv += [sys.executable, "-m", "localcloud.stack.supervisor", "--stack", place.name, "--base", str(place.base)]
    argv += ["--temporal-namespace", namespace, "--engine", engine]
    argv += ["--temporal-address", temporal_address] if temporal_address else []
    with (place.logs / SUPERVISOR_LOG).open("wb") as log:
        supervisor = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    try:
        return _wait_until_ready(place, supervisor, tell), supervisor
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise


def stop_stack(place: StackPlace) -> None:
    """Stop the stack if it runs and leave nothing of it but logs. Idempotent.

    Raises StackError when its supervisor does not end in time or something of it cannot be removed.
    """
    require_root()
    state = read_state(place)
    if is_claimed(place):
        pid = state.processes.get("supervisor") if state else None
        if pid is None or not _is_supervisor(pid, place):
            raise StackError(f"stack {place.name!r} is being changed by another command; try again when that is done")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        # The process outlives its lock for a moment.
        supervisor = pid
        try:
            until(
                lambda: not is_claimed(place) and not _is_supervisor(supervisor, place),
                STOP_LIMIT_SECONDS,
                POLL_SECONDS,
            )
        except TimeoutError:
            raise StackError(
                f"stack {place.name!r} did not stop in {STOP_LIMIT_SECONDS:g} s; see {place.logs}"
            ) from None
    if place.base.is_dir():
        with claimed(place):
            sweep(place)


def _is_supervisor(pid: int, place: StackPlace) -> bool:
    """Whether that process is this stack's supervisor: a number alone may belong to somebody else by now."""
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return "localcloud.stack.supervisor" in words and place.name in words and str(place.base) in words


def _wait_until_ready(
    place: StackPlace, supervisor: subprocess.Popen[bytes], tell: Callable[[str], None]
) -> StackState:
    told = 0
    while True:
        ended = supervisor.poll()
        state = read_state(place)
        if state is not None and state.processes.get("supervisor") == supervisor.pid:
            for line in state.progress[told:]:
                tell(line)
            told = max(told, len(state.progress))
            if state.phase is StackPhase.READY:
                return state
            if state.phase is StackPhase.FAILED:
                supervisor.wait()
                raise StackError(state.error)
        if ended is not None:
            raise StackError(f"the stack's supervisor ended with {ended}; {place.logs / SUPERVISOR_LOG} says why")
        time.sleep(POLL_SECONDS)
