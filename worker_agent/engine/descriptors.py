"""The open descriptors of other processes: what they are, and copies of them to ask or to set right."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator

from worker_agent import proc

_PIDFD_GETFD = 438
"""The same number on every architecture."""

_libc = ctypes.CDLL(None, use_errno=True)


def links(pid: int) -> dict[int, str]:
    """Each open descriptor of a process and what /proc shows for it. OSError if the process is gone."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed while we looked
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


@contextlib.contextmanager
def copied(pid: int, number: int) -> Iterator[int]:
    """A copy of another process's descriptor, closed at the end. OSError if either is gone."""
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(_PIDFD_GETFD, process, number, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), f"descriptor {number} of process {pid}")
    finally:
        os.close(process)
    try:
        yield copy
    finally:
        os.close(copy)


_MQUEUE_MAGIC = 0x19800202
"""Linux, ipc/mqueue.c."""
_PACKETS = os.O_DIRECT
"""On a pipe it keeps packets apart."""


def asked(question: Callable[[int, int], bool], pid: int, number: int) -> bool:
    """The answer to a question about a descriptor; False if it was closed meanwhile."""
    with contextlib.suppress(OSError):
        return question(pid, number)
    return False


def counts_one_by_one(pid: int, number: int) -> bool:
    """Is this eventfd one of that kind? Kernels before 6.5 do not tell: False. OSError if it is gone."""
    return "\neventfd-semaphore: 1\n" in proc.read(f"/proc/{pid}/fdinfo/{number}")


def keeps_packets_apart(pid: int, number: int) -> bool:
    """Is this end of a pipe in packet mode? OSError if it is gone."""
    flags = re.search(r"^flags:\s*([0-7]+)", proc.read(f"/proc/{pid}/fdinfo/{number}"), re.MULTILINE)
    return flags is not None and bool(int(flags[1], 8) & _PACKETS)


def is_message_queue(pid: int, number: int) -> bool:
    """Is this descriptor a POSIX message queue? OSError if it is gone."""
    with copied(pid, number) as copy:
        status = (ctypes.c_long * 64)()
        return bool(_libc.fstatfs(copy, status) == 0 and status[0] == _MQUEUE_MAGIC)
