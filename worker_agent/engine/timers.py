"""Repeating timer descriptors that stood expired at the freeze: they are started again after a restore.

The kernel restarts such a timer only when it is read, and shows no time left until then; CRIU restores exactly that,
which switches the timer off: the job would read it once more and then wait for ever (tried with CRIU 4.2.1).
"""

from __future__ import annotations

import ctypes
import fcntl
import re
import struct
from collections.abc import Iterable

from worker_agent import proc
from worker_agent.engine.descriptors import copied, links

_TIMER = re.compile(
    r"^ticks: (?P<ticks>\d+)$.*^it_value: \(0, 0\)$.*^it_interval: \((?P<seconds>\d+), (?P<nanoseconds>\d+)\)$",
    re.MULTILINE | re.DOTALL,
)
_TFD_IOC_SET_TICKS = 0x40085400

_libc = ctypes.CDLL(None, use_errno=True)


def restart(pids: Iterable[int]) -> int:
    """Restart such timers of these stopped processes; how many there were. OSError if the kernel refuses."""
    count = 0
    for pid in pids:
        for number, link in links(pid).items():
            if link != "anon_inode:[timerfd]":
                continue
            found = _TIMER.search(proc.read(f"/proc/{pid}/fdinfo/{number}"))
            if found and (int(found["seconds"]) or int(found["nanoseconds"])):
                with copied(pid, number) as timer:
                    _start(timer, int(found["seconds"]), int(found["nanoseconds"]), int(found["ticks"]))
                count += 1
    return count


def _start(timer: int, seconds: int, nanoseconds: int, ticks: int) -> None:
    period = (seconds, nanoseconds)
    if _libc.timerfd_settime(timer, 0, struct.pack("4q", *period, *period), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    if ticks:  # setting the time forgets what has not been read yet
        fcntl.ioctl(timer, _TFD_IOC_SET_TICKS, struct.pack("Q", ticks))
