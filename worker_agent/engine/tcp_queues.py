"""TCP connections with bytes that had not been sent when the job was frozen: a writer faster than its reader.

CRIU restores such bytes by really sending them, before the other end of the connection exists again: inside one
container the answer is a reset, and the whole restore fails ("Can't restore not-sent send queue data … Broken pipe",
CRIU 4.2.1, tried). So the images to restore from do not have them, and `send_held` writes them once both ends are
there, before the job goes on: the kernel then holds them as before, and they move when the reader reads.

A connection whose writer had said already that nothing more comes (FIN-WAIT1, LAST-ACK) comes back as one that has not
yet, and says so after its bytes. One whose other end had said so at the same time (CLOSING) cannot come back that way:
there the images call the bytes sent but not acknowledged, and the kernel sends them anew by its timers. Those back off
while the reader is slow, to two minutes; `hurry` bounds them to a second, where the kernel can (Linux 6.15).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.waiting import until
from worker_agent.engine import criu_image
from worker_agent.engine.connections import FILES, FILES_MAGIC
from worker_agent.engine.criu_image import Message
from worker_agent.engine.descriptors import copied, links

_MAGIC = 0x51465506
"""CRIU, criu/include/magic.h: TCP_STREAM_MAGIC."""
_OUT_LENGTH, _OUT_SEQUENCE, _UNSENT = 3, 4, 12
"""tcp_stream_entry (images/tcp-stream.proto): bytes of the send queue, the number after its last, and how many bytes at
its end were not sent. Outside the entry follow the bytes of both queues, those to send at the end."""
_HEAD = 12
"""Bytes before the message: two magic numbers and its size."""
_SOCKET, _ID, _INODE, _STATE, _OPTS, _SHUTDOWN, _SO_MARK = 4, 1, 2, 6, 14, 19, 10
"""images/fdinfo.proto, sk-inet.proto and sk-opts.proto: file_entry.isk, its fields (the first is fdinfo_entry's, too),
and a field of its options."""
_DESCRIPTORS_MAGIC = 0x56213732
"""FDINFO_MAGIC."""
_ESTABLISHED, _FIN_WAIT1, _CLOSE_WAIT, _LAST_ACK = 1, 4, 8, 9
"""Linux, include/net/tcp_states.h."""
_BEFORE_ITS_END = {_FIN_WAIT1: _ESTABLISHED, _LAST_ACK: _CLOSE_WAIT}
"""The state of a connection before its own end said that nothing more comes."""
_SHUT_READ = 1
_HELD_MARK = 0x5046_0000
"""On sockets whose bytes are held back, with a number of their own in the lower half: how they are found again."""
_MOST_HELD = 0xFFFF
_SO_BUF_LOCK, _SO_SNDBUFFORCE = 72, 32
_MOST_BUFFER = 1 << 30
_PATIENCE = 5.0

_RTO_MAX_MS = 44
"""Linux, include/uapi/linux/tcp.h: TCP_RTO_MAX_MS."""
_AT_MOST = 1000
"""Milliseconds between two tries to send: the least that the kernel takes."""
_AS_BEFORE = 924_600
"""Milliseconds after which a connection that nobody acknowledges breaks: Linux's own value (ip-sysctl,
tcp_retries2), which would shrink with the time between the tries."""


@dataclass(frozen=True)
class _Held:
    """A connection with bytes that are held back. `mark` is the job's own, `ends`: nothing comes after the bytes."""

    unsent: bytes
    mark: int
    ends: bool


def hold_back(images: Path, files: bytes | None) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name, so that nothing is sent before its time; mostly none.
    `files` is the `files.img` that is to be restored, None if it is that of `images`.

    ImageInvalid if one cannot be read. Blocks.
    """
    streams = _streams_with_unsent(images)
    if not streams:
        return {}
    image = files or (images / FILES).read_bytes()
    entries = [criu_image.parse(entry) for entry in criu_image.entries(image, FILES_MAGIC)]
    changed = {name: _called_sent(stream) for name, stream in streams.items()}
    count, reachable = 0, _of_descriptors(images)
    for place, entry in enumerate(entries):
        found = criu_image.part(entry, _SOCKET)
        name = f"tcp-stream-{criu_image.number(found, _INODE):x}.img" if found else ""
        if found and name in streams and _can_wait(found, reachable) and count < _MOST_HELD:
            count += 1
            ends = criu_image.number(found, _STATE) in _BEFORE_ITS_END
            changed[name] = _without_unsent(streams[name], ends)
            held = criu_image.encode(_marked(_reopened(found), _HELD_MARK + count))
            entries[place] = criu_image.with_field(entry, _SOCKET, held)
    if count:
        changed[FILES] = criu_image.image(FILES_MAGIC, map(criu_image.encode, entries))
    return changed


def send_held(images: Path, restored: Path, pids: Iterable[int]) -> int:
    """Write the bytes that `hold_back` took out of `images` to the connections of restored processes, which came back
    from the images in `restored` and still stand. How many connections there were.

    ImageInvalid, OSError (also TimeoutError): not all could be written. Blocks shortly.
    """
    held = _held(images, restored) if (restored / FILES).exists() else {}
    found = set()
    if held:
        for copy in _tcp_sockets(pids):
            mark = copy.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
            if mark in held:
                found.add(mark)
                _send(copy, held[mark])
    if missing := held.keys() - found:
        raise OSError(f"{len(missing)} TCP connections that have something to send did not come back")
    return len(found)


def hurry(pids: Iterable[int]) -> int:
    """Bound the time between two tries to send, of restored connections that have something to send. How many there
    were; 0 on kernels that cannot. Blocks shortly."""
    count = 0
    for found in _tcp_sockets(pids):
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


def _tcp_sockets(pids: Iterable[int]) -> Iterator[socket.socket]:
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


def _streams_with_unsent(images: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(images.glob("tcp-stream-*.img"))}
    return {name: image for name, image in found.items() if criu_image.number(_message(image), _UNSENT)}


def _message(stream: bytes) -> Message:
    return criu_image.parse(next(criu_image.entries(stream, _MAGIC), b""))


def _with_message(stream: bytes, message: Message, less: int = 0) -> bytes:
    """With another message, and so many bytes less at the end."""
    encoded = criu_image.encode(message)
    queues = _HEAD + int.from_bytes(stream[_HEAD - 4 : _HEAD], "little")
    return stream[: _HEAD - 4] + struct.pack("<I", len(encoded)) + encoded + stream[queues : len(stream) - less]


def _called_sent(stream: bytes) -> bytes:
    return _with_message(stream, criu_image.with_field(_message(stream), _UNSENT, 0))


def _without_unsent(stream: bytes, ends: bool) -> bytes:
    message = _message(stream)
    unsent = criu_image.number(message, _UNSENT)
    sequence = criu_image.number(message, _OUT_SEQUENCE) - unsent - ends  # its end has a number of its own
    message = criu_image.with_field(message, _UNSENT, 0)
    message = criu_image.with_field(message, _OUT_LENGTH, criu_image.number(message, _OUT_LENGTH) - unsent)
    return _with_message(stream, criu_image.with_field(message, _OUT_SEQUENCE, sequence % (1 << 32)), unsent)


def _of_descriptors(images: Path) -> set[int]:
    """What processes have open, by CRIU's number. A socket that is on its way through another one is not among them."""
    found: set[int] = set()
    for path in images.glob("fdinfo-*.img"):
        entries = criu_image.entries(path.read_bytes(), _DESCRIPTORS_MAGIC)
        found.update(criu_image.number(criu_image.parse(entry), _ID) for entry in entries)
    return found


def _can_wait(found: Message, reachable: set[int]) -> bool:
    state = criu_image.number(found, _STATE)
    return state in (_ESTABLISHED, _CLOSE_WAIT, *_BEFORE_ITS_END) and criu_image.number(found, _ID) in reachable


def _reopened(found: Message) -> Message:
    """As it was before its end said that nothing more comes."""
    state = criu_image.number(found, _STATE)
    if state not in _BEFORE_ITS_END:
        return found
    found = criu_image.with_field(found, _STATE, _BEFORE_ITS_END[state])
    return criu_image.with_field(found, _SHUTDOWN, criu_image.number(found, _SHUTDOWN) & _SHUT_READ or None)


def _marked(found: Message, mark: int) -> Message:
    options = criu_image.with_field(criu_image.part(found, _OPTS) or [], _SO_MARK, mark)
    return criu_image.with_field(found, _OPTS, criu_image.encode(options))


def _held(images: Path, restored: Path) -> dict[int, _Held]:
    """By the mark that its socket came back with."""
    before, after = (dict(_by_inode((folder / FILES).read_bytes())) for folder in (images, restored))
    held = {}
    for inode, found in after.items():
        mark = _mark(found)
        if _HELD_MARK < mark <= _HELD_MARK + _MOST_HELD and inode in before:
            stream = (images / f"tcp-stream-{inode:x}.img").read_bytes()
            unsent = stream[len(stream) - criu_image.number(_message(stream), _UNSENT) :]
            ends = criu_image.number(before[inode], _STATE) in _BEFORE_ITS_END
            held[mark] = _Held(unsent, _mark(before[inode]), ends)
    return held


def _by_inode(files: bytes) -> Iterator[tuple[int, Message]]:
    for entry in criu_image.entries(files, FILES_MAGIC):
        if found := criu_image.part(criu_image.parse(entry), _SOCKET):
            yield criu_image.number(found, _INODE), found


def _mark(found: Message) -> int:
    return criu_image.number(criu_image.part(found, _OPTS) or [], _SO_MARK)


def _send(to: socket.socket, held: _Held) -> None:
    """All of it at once: the buffer is larger meanwhile, because the same bytes may take more room than before."""
    to.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, held.mark)
    locked = _lock_of_buffers(to)
    size = to.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2  # the kernel says twice what it is told
    to.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, min(size + 4 * len(held.unsent), _MOST_BUFFER))
    rest = memoryview(held.unsent)

    def taken() -> int:
        with contextlib.suppress(BlockingIOError):
            return to.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return 0

    while rest:
        rest = rest[until(taken, _PATIENCE, 0.01, "a TCP connection to take what it had to send") :]
    if held.ends:
        to.shutdown(socket.SHUT_WR)
    to.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
    if locked is not None:
        to.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, locked)


def _lock_of_buffers(found: socket.socket) -> int | None:
    """Which of its buffers the job has fixed; None where the kernel does not tell (before Linux 5.14)."""
    with contextlib.suppress(OSError):
        return found.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
    return None
