"""When the kernel tries again to send what a restored TCP connection has not got acknowledged.

Its timers back off while the reader is slow: to two minutes, in which a reader that has begun to read waits. They can
be bounded to a second, where the kernel can (Linux 6.15).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterable, Iterator

from worker_agent.engine.descriptors import copied, links

_RTO_MAX_MS = 44
"""Linux, include/uapi/linux/tcp.h: TCP_RTO_MAX_MS."""
_AT_MOST = 1000
"""Milliseconds between two tries to send: the least that the kernel takes."""
_AS_BEFORE = 924_600
"""Milliseconds after which a connection that nobody acknowledges breaks: Linux's own value (ip-sysctl,
tcp_retries2), which would shrink with the time between the tries."""


def hurry(pids: Iterable[int]) -> int:
    """Bound the time between two tries to send, of restored connections that have something to send. How many there
    were; 0 on kernels that cannot. Blocks shortly."""
    count = 0
    for found in tcp_sockets(pids):
        with contextlib.suppress(OSError):
            count += _bound(found)
    return count


def _bound(found: socket.socket) -> bool:
    unsent = struct.unpack("i", fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    if not unsent:
        return False
    found.setsockopt(socket.IPPROTO_TCP, _RTO_MAX_MS, _AT_MOST)
    if not found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _AS_BEFORE)
    return True


def tcp_sockets(pids: Iterable[int]) -> Iterator[socket.socket]:
    """A copy of each, closed when the next is asked for."""
    done: set[str] = set()
    for pid in pids:
        for number, link in links(pid).items():
            if not link.startswith("socket:[") or link in done:
                continue
            done.add(link)
            with contextlib.suppress(OSError), copied(pid, number) as copy, socket.socket(fileno=os.dup(copy)) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                    yield found
