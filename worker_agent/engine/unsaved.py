"""What CRIU refuses without a plain word, or saves wrongly without any: found before a dump, named for people.

Tried with CRIU 4.2.1: an eventfd that counts one by one comes back as an ordinary one (its reader gets everything at
once); a message queue and a pipe in packet mode end the dump; so does a TCP client that nobody has accepted yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path

from worker_agent.engine.descriptors import copied

WAITING_CLIENT = "has a TCP client waiting that it has not accepted yet"
"""Goes away by itself, as a rule in a moment."""
_MQUEUE_MAGIC = 0x19800202
"""Linux, ipc/mqueue.c."""
_LISTEN = "0A"
"""Linux, include/net/tcp_states.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def held(pid: int, shown: Mapping[int, str]) -> str:
    """The first such thing among the open descriptors of `pid` (`shown`: as /proc shows them); empty if none."""
    listening = set()
    for number, link in shown.items():
        with contextlib.suppress(OSError):  # closed while we looked
            if link == "anon_inode:[eventfd]" and counts_one_by_one(pid, number):
                return f"has an eventfd that counts one by one (EFD_SEMAPHORE, descriptor {number})"
            if link.startswith("pipe:") and _in_packets(pid, number):
                return f"has a pipe in packet mode (O_DIRECT, descriptor {number})"
            if link.startswith("/") and link.rfind("/") == 0 and is_message_queue(pid, number):
                return f"has a POSIX message queue open (descriptor {number})"
        if link.startswith("socket:["):
            listening.add(link[8:-1])
    return WAITING_CLIENT if listening and _somebody_waits(pid, listening) else ""


def counts_one_by_one(pid: int, number: int) -> bool:
    """Is it an eventfd of that kind? Kernels before 6.5 do not tell: False. OSError if it is gone."""
    info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    return bool(re.search(r"^eventfd-semaphore: 1$", info, re.MULTILINE))


def is_message_queue(pid: int, number: int) -> bool:
    """Is this descriptor a POSIX message queue? OSError if it is gone."""
    with copied(pid, number) as copy:
        status = (ctypes.c_long * 64)()
        return bool(_libc.fstatfs(copy, status) == 0 and status[0] == _MQUEUE_MAGIC)


def _in_packets(pid: int, number: int) -> bool:
    with copied(pid, number) as copy:
        return bool(fcntl.fcntl(copy, fcntl.F_GETFL) & os.O_DIRECT)


def _somebody_waits(pid: int, sockets: set[str]) -> bool:
    """A listening socket shows in the kernel's table, as bytes to read, how many clients wait."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and words[9] in sockets and int(words[4].partition(":")[2], 16):
                    return True
    return False
