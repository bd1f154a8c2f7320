"""The last line of a lazy restore: no job runs on with zeros where its memory should be.

When the last descriptor of a userfaultfd is closed, the kernel forgets that pages are missing, and the next access
finds zeros (fs/userfaultfd.c, userfaultfd_release). So the serving program is not alone: a second process shares its
table of descriptors (CLONE_FILES), those of children that are born later too. Should the first one die, every access to
a missing page goes on waiting, and the second one ends the job before it lets go.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from perdure.domain.errors import FreezerFailed
from worker_agent.freezer import Freezer

NAME = "perdure-lazy"
"""What both processes call themselves, as `ps` and `top` show it."""
STATE = "lazy.json"
"""In the container's work folder."""
RESTORE_WHOLE = "restore-whole"
"""In a checkpoint's folder: it was restored lazily once, and that failed."""
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_FILES = 0x400
_PR_SET_NAME = 15
_DEATH = 60.0
"""Seconds in which a killed job must be gone."""
_POLL = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class State:
    """How far it is: `serving`; `sound`: what CRIU read itself is verified; `drained`: all of the job's memory is
    there; `failed`: the job was ended, or is about to be; `left`: the restore did not come to its end."""

    stage: str
    pid: int
    reason: str = ""
    seconds: float = 0.0
    """Since the program began to listen."""


@dataclass(frozen=True)
class Charge:
    """What is guarded. Paths absolute; `freezer` is the job's cgroup as freezer.py knows it."""

    work_folder: str
    checkpoint: str
    freezer: str
    unified: bool

    def tell(self, state: State) -> None:
        """Whole or not at all. The folder goes when the container does."""
        fresh = Path(self.work_folder) / f"{STATE}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            fresh.write_text(json.dumps(asdict(state)))
            fresh.replace(Path(self.work_folder) / STATE)

    def end_job(self, reason: str, pid: int) -> None:
        """Tell first, so that nobody takes the end for the job's own; then kill everything, until nothing is left. The
        disk last: it may be what failed."""
        with contextlib.suppress(OSError):
            self.tell(State("failed", pid, reason))
        job = Freezer(Path(self.freezer), self.unified)
        end = time.monotonic() + _DEATH
        while time.monotonic() < end:
            with contextlib.suppress(OSError, FreezerFailed):  # it may go while we look
                job.kill()
            if not job.pids():
                break
            time.sleep(_POLL)
        with contextlib.suppress(OSError):
            (Path(self.checkpoint) / RESTORE_WHOLE).write_text(reason)


class Done:
    """Said by the serving program in its last moment, heard by the guard: memory that both have."""

    def __init__(self) -> None:
        self._word = mmap.mmap(-1, mmap.PAGESIZE)

    def say(self) -> None:
        self._word[0] = 1

    def __bool__(self) -> bool:
        return self._word[0] == 1


def call_itself(name: str) -> None:
    """The name of this process; and the kernel ends others first when memory runs out."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def start(charge: Charge, done: Done) -> None:
    """Begin to guard this process, which must have one thread only. OSError."""
    watched, number = os.pidfd_open(os.getpid()), os.getpid()
    child = _libc.syscall(_CLONE[os.uname().machine], _CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "no guard could be started")
    if child:
        return
    try:
        os.setsid()  # whoever kills the program's process group does not mean both
        _watch(watched, number, charge, done)
    finally:
        os._exit(0)


def _watch(watched: int, number: int, charge: Charge, done: Done) -> None:
    end = select.poll()
    end.register(watched, select.POLLIN)
    end.poll()
    if not done:
        charge.end_job("the program that brings the memory in died", number)
