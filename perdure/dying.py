"""Who is to die must get processor time for it: the kernel gives none to the lowest priority on a busy machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SHARES = {"cpu.shares": "1024", "cpu.weight": "100"}
"""The kernel's defaults, of cgroup version 1 and 2."""


def hurry(pid: int) -> None:
    """Each thread of a process that was sent SIGKILL gets a usual priority, if it has a lower one. The kernel keeps one
    for each thread. Nothing happens if the process is gone."""
    with contextlib.suppress(OSError):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            with contextlib.suppress(OSError):  # this one has ended
                if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                if os.getpriority(os.PRIO_PROCESS, thread) > 0:
                    os.setpriority(os.PRIO_PROCESS, thread, 0)


def hurry_group(cgroup: Path) -> None:
    """The same for the shares of a cgroup in which everything was sent SIGKILL, and of those below it."""
    for place, _, names in os.walk(cgroup):
        for name in _SHARES.keys() & set(names):
            with contextlib.suppress(OSError):
                Path(place, name).write_text(_SHARES[name])
