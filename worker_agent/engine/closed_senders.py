"""TCP senders of the job that have closed their sockets while a slow reader of the job has not taken everything yet.

The kernel alone has such a socket and sends what is left in it. No process has it, so CRIU does not see it: the bytes
would be lost, and the reader would take what it has for everything. It passes as soon as the reader has read.

In the freeze the kernel is asked for sockets in the three states in which one can be, which are few: sock_diag(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from worker_agent.engine.in_network import work_in_network_of
from worker_agent.engine.looking import Look, one_of_each

_SOCK_DIAG, _BY_FAMILY, _REQUEST, _DUMP, _ERROR, _DONE = 4, 20, 0x1, 0x300, 2, 3
_ENDING = 1 << 4 | 1 << 9 | 1 << 11
"""FIN_WAIT1, LAST_ACK, CLOSING."""
_ANY = (1 << 12) - 1
_HEAD = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=4B 48s 5I")
_ENDS = struct.Struct("=2s2s16s16s")
_SIZE = 1 << 16
_LIMIT = 5.0
_ANY_DEVICE_AND_COOKIE = struct.pack("=IQ", 0, (1 << 64) - 1)

Sockets = Mapping[int, frozenset[int]]
"""For one process of each network namespace: the inodes of the container's sockets."""


def sockets_of(look: Look) -> Sockets:
    """Those that were seen. Blocks shortly."""
    own = frozenset(look.sockets)
    return dict.fromkeys(one_of_each(look.processes, "net"), own) if own else {}


def who_reads_from_one(sockets: Sockets) -> int | None:
    """A process whose network has such a sender, to one of these sockets; None if there is none. OSError."""
    for pid, own in sockets.items():
        with ThreadPoolExecutor(max_workers=1) as thread:  # it keeps the namespace that it enters
            if thread.submit(work_in_network_of, pid, _is_read_from, own).result():
                return pid
    return None


def _is_read_from(own: frozenset[int]) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_LIMIT)
        for family in (socket.AF_INET, socket.AF_INET6):
            senders = [ends for ends, inode, unread in _asked(kernel, family, _ENDING) if unread and not inode]
            for sender in senders:
                if any(inode in own for _, inode, _ in _asked(kernel, family, _ANY, _turned(sender))):
                    return True
    return False


def _turned(ends: bytes) -> bytes:
    """The same connection, seen from its other end."""
    port, peers_port, address, peer = _ENDS.unpack_from(ends)
    return _ENDS.pack(peers_port, port, peer, address) + _ANY_DEVICE_AND_COOKIE


def _asked(kernel: socket.socket, family: int, states: int, ends: bytes = b"") -> Iterator[tuple[bytes, int, int]]:
    """Ends, inode and unacknowledged bytes of the TCP sockets in these states, or of the one with these ends."""
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, states) + (ends or bytes(48))
    flags = _REQUEST if ends else _REQUEST | _DUMP
    kernel.send(_HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, flags, 0, 0) + body)
    while True:
        answer = kernel.recv(_SIZE)
        place = 0
        while place < len(answer):
            size, kind, *_ = _HEAD.unpack_from(answer, place)
            if kind in (_ERROR, _DONE):  # an error: there is no such socket
                return
            *_, found, _, _, unread, _, inode = _ANSWER.unpack_from(answer, place + _HEAD.size)
            yield found, inode, unread
            place += (size + 3) & ~3
        if ends:
            return
