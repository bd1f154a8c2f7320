"""What a restored job finds at the sockets that came back closed (connections.py): a connection that was reset.

Each is connected, while the job still stands, to a listener of ours on loopback that resets it at once: the job sees
the ECONNRESET that it would see if the network had broken, and its poll wakes up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable

from worker_agent.engine.connections import CLOSED_MARK
from worker_agent.engine.descriptors import copied, links

_LIMIT = 5.0


def reset(pids: Iterable[int]) -> int:
    """Let the sockets that came back closed say "connection reset". How many did.

    For restored processes that still stand. In the calling thread's network namespace must be theirs. Blocks shortly.
    """
    seen: set[int] = set()
    done = 0
    with contextlib.ExitStack() as open_listeners:
        listeners: dict[int, socket.socket] = {}
        for pid in pids:
            for number, link in links(pid).items():
                inode = int(link[8:-1]) if link.startswith("socket:[") else 0
                if not inode or inode in seen:
                    continue
                seen.add(inode)
                with copied(pid, number) as copy, socket.socket(fileno=os.dup(copy)) as found:
                    if not _is_marked(found):
                        continue
                    done += 1
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
                    with contextlib.suppress(OSError):  # bound to a device, or no IPv6 here: it stays "not connected"
                        _reset(found, listeners, open_listeners)
    return done


def _is_marked(found: socket.socket) -> bool:
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return False
    return found.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == CLOSED_MARK


def _reset(found: socket.socket, listeners: dict[int, socket.socket], scope: contextlib.ExitStack) -> None:
    family = found.family
    if family not in listeners:
        listener = socket.socket(family, socket.SOCK_STREAM)
        scope.enter_context(listener)
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        listener.settimeout(_LIMIT)
        listeners[family] = listener
    # Whether it blocks belongs to the job, and is shared with it.
    was_blocking = os.get_blocking(found.fileno())
    os.set_blocking(found.fileno(), False)
    try:
        with contextlib.suppress(BlockingIOError):
            found.connect(listeners[family].getsockname())
        accepted, _ = listeners[family].accept()
        with accepted:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        os.set_blocking(found.fileno(), was_blocking)
