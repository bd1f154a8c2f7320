"""What threads have set of their own and CRIU's image has no place for: their CPUs, I/O priority and timer slack, and
what of a process goes into a core dump. It is noted at the freeze and set again before a restored job goes on.

Somebody who binds ranks to cores (mpirun, taskset) or asks how many CPUs there are (nproc, OpenMP) finds it as before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from perdure.domain.checkpoints import ThreadSettings
from perdure.image.mounts import read_mounts
from worker_agent import proc

_IOPRIO_SET, _IOPRIO_GET = {"x86_64": (251, 252), "aarch64": (30, 31)}.get(os.uname().machine, (0, 0))
_WHO_PROCESS, _CLASS_SHIFT = 1, 13
_USUAL_SLACK = 50_000
"""Nanoseconds (prctl(2), PR_SET_TIMERSLACK). A real-time thread shows 0."""
_USUAL_FILTER = 0x33
"""core(5)."""

_libc = ctypes.CDLL(None, use_errno=True)


def noted(pids: Iterable[int], init_pid: int) -> dict[int, ThreadSettings]:
    """Of these processes' threads, by the container's numbers; those without anything of their own are left out, and so
    is what ends meanwhile. Blocks: some ten microseconds for each thread."""
    usual = _container_cpus(init_pid)
    found = {}
    for tid, inner, first in _threads(pids, init_pid):
        with contextlib.suppress(OSError):
            settings = _read(tid, first, usual)
            if settings != ThreadSettings():
                found[inner] = settings
    return found


def set_again(pids: Iterable[int], init_pid: int, settings: Mapping[int, ThreadSettings]) -> None:
    """Give these stopped processes' threads what they had. What this node cannot give (a CPU that it has not) is left
    out. Blocks shortly."""
    for tid, inner, _ in _threads(pids, init_pid):
        if inner in settings:
            _write(tid, settings[inner])


def _threads(pids: Iterable[int], init_pid: int) -> Iterator[tuple[int, int, bool]]:
    """Each thread's number on this node and in the container, and whether it is its process's first."""
    first = set(pids)
    tids = []
    for pid in first:
        with contextlib.suppress(OSError):  # it ended
            tids += proc.threads(pid)
    for tid, number in proc.inner(tids, init_pid).items():
        yield tid, number, tid in first


def _read(tid: int, first: bool, usual: set[int]) -> ThreadSettings:
    cpus = os.sched_getaffinity(tid)
    priority = _libc.syscall(_IOPRIO_GET, _WHO_PROCESS, tid) if _IOPRIO_GET else 0
    slack = int(Path(f"/proc/{tid}/timerslack_ns").read_text())
    dumped = int(Path(f"/proc/{tid}/coredump_filter").read_text() or str(_USUAL_FILTER), 16) if first else _USUAL_FILTER
    return ThreadSettings(
        cpus=[] if cpus >= usual else sorted(cpus),
        io_priority=priority if priority >> _CLASS_SHIFT > 0 else 0,
        timer_slack=0 if slack == _USUAL_SLACK else slack,
        core_filter=None if dumped == _USUAL_FILTER else dumped,
    )


def _write(tid: int, settings: ThreadSettings) -> None:
    if settings.cpus:
        with contextlib.suppress(OSError):  # none of them is here
            os.sched_setaffinity(tid, settings.cpus)
    if settings.io_priority and _IOPRIO_SET:
        _libc.syscall(_IOPRIO_SET, _WHO_PROCESS, tid, settings.io_priority)
    with contextlib.suppress(OSError):
        if settings.timer_slack:
            Path(f"/proc/{tid}/timerslack_ns").write_text(str(settings.timer_slack))
        if settings.core_filter is not None:
            Path(f"/proc/{tid}/coredump_filter").write_text(hex(settings.core_filter))


def _container_cpus(init_pid: int) -> set[int]:
    """The CPUs that a thread of the container has without asking for any."""
    with contextlib.suppress(OSError):
        for line in proc.lines(f"/proc/{init_pid}/cgroup"):
            number, controllers, path = line.split(":", 2)
            if "cpuset" in controllers.split(","):
                names = ("cgroup", "cpuset", "cpuset.effective_cpus")
            elif number == "0":
                names = ("cgroup2", "", "cpuset.cpus.effective")
            else:
                continue
            if cpus := _effective(path, *names):
                return cpus
    return _listed(Path("/sys/devices/system/cpu/online").read_text())


def _effective(path: str, kind: str, option: str, name: str) -> set[int]:
    """By the nearest cgroup above that says it; empty if none does."""
    for mount in read_mounts():
        if mount.kind == kind and (not option or option in mount.options.split(",")):
            for place in (Path(path), *Path(path).parents):
                with contextlib.suppress(OSError):
                    return _listed(Path(f"{mount.point}/{place}/{name}").read_text())
    return set()


def _listed(text: str) -> set[int]:
    """The kernel's lists: 0-3,8."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found
