"""TCP connections with bytes that had not been sent when the job was frozen: a writer faster than its reader.

CRIU restores such bytes by really sending them, before the other end of the connection exists again: inside one
container the answer is a reset, and the whole restore fails ("Can't restore not-sent send queue data … Broken pipe",
CRIU 4.2.1, tried). So the images to restore from call them sent but not acknowledged. The kernel then sends them
anew by its own timers, once both ends are there.

Those timers back off while the reader is slow: to two minutes, in which a reader that has begun to read waits. `hurry`
therefore bounds them to a second, where the kernel can (Linux 6.15).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterable
from pathlib import Path

from worker_agent.engine import criu_image
from worker_agent.engine.descriptors import copied, links

_MAGIC = 0x51465506
"""CRIU, criu/include/magic.h: TCP_STREAM_MAGIC."""
_UNSENT = 12
"""tcp_stream_entry.unsq_len (images/tcp-stream.proto): how many bytes at the end of the queue were not sent."""
_HEAD = 12
"""Bytes before the message: two magic numbers and its size. After it follow the queues themselves."""

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
    done: set[str] = set()
    count = 0
    for pid in pids:
        for number, link in links(pid).items():
            if not link.startswith("socket:[") or link in done:
                continue
            done.add(link)
            with contextlib.suppress(OSError), copied(pid, number) as copy, socket.socket(fileno=os.dup(copy)) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
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


def all_sent(images: Path) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name, so that nothing is sent before its time; mostly none.

    ImageInvalid if one cannot be read. Blocks.
    """
    changed = {}
    for path in sorted(images.glob("tcp-stream-*.img")):
        image = path.read_bytes()
        entry = next(criu_image.entries(image, _MAGIC), b"")
        message = criu_image.parse(entry)
        if criu_image.number(message, _UNSENT):
            sent = criu_image.encode(criu_image.with_field(message, _UNSENT, 0))
            size = struct.pack("<I", len(sent))
            changed[path.name] = image[: _HEAD - 4] + size + sent + image[_HEAD + len(entry) :]
    return changed
