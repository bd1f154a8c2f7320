"""TCP connections inside the job that CRIU alone would not bring back as they were.

* Bytes that had not been sent when the job was frozen, of a writer faster than its reader. CRIU restores them by really
  sending them, before the other end of the connection exists again: the answer is a reset, and the whole restore fails
  ("Can't restore not-sent send queue data … Broken pipe", CRIU 4.2.1, tried).
* One end has said that nothing more comes. CRIU sends the other a packet that says so, in the first one's name. The
  kernel acknowledges it, 40 ms later, and where the first end does not exist yet, on a busy machine, the answer is a
  reset, too (tried: what was on its way is lost).

* Bytes that had been sent and not acknowledged. A second after they are restored the kernel sends them again. On a busy
  machine the other end does not exist by then, and the answer is a reset (CRIU's own test socket-tcpbuf-local). The
  image of the other end tells what it has received: that is acknowledged.

So the images to restore from have none of that: `hold_back` makes them connections that are still open. Once all of
them exist, and before the job goes on, `send_held` ends and fills them again. Then bytes move when the reader reads.

Where that cannot be done (CLOSING: both ends have said it at the same time), the images call unsent bytes sent but not
acknowledged, and the kernel sends them anew by its timers (tcp_timers.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perdure.waiting import until
from worker_agent.engine import criu_image
from worker_agent.engine.connections import FILES, FILES_MAGIC, Endpoint, ends_in
from worker_agent.engine.criu_image import Message
from worker_agent.engine.tcp_timers import tcp_sockets

_MAGIC = 0x51465506
"""CRIU, criu/include/magic.h: TCP_STREAM_MAGIC."""
_IN_SEQUENCE, _OUT_LENGTH, _OUT_SEQUENCE, _UNSENT, _ROOM, _WINDOW, _WINDOW_FROM = 2, 3, 4, 12, 14, 16, 17
"""tcp_stream_entry (images/tcp-stream.proto): the number after the last byte received; bytes of the send queue, the
number after its last, how many bytes at its end were not sent; how many the other end takes, from the first of them
(snd_wnd); the window offered (rcv_wnd), and from where (rcv_wup). Outside the entry follow the bytes of both queues,
those to send at the end."""
_HEAD = 12
"""Bytes before the message: two magic numbers and its size."""
_SOCKET, _ID, _INODE, _STATE, _OPTS, _SHUTDOWN, _SO_MARK = 4, 1, 2, 6, 14, 19, 10
"""images/fdinfo.proto, sk-inet.proto and sk-opts.proto: file_entry.isk, its fields (the first is fdinfo_entry's, too),
and a field of its options."""
_DESCRIPTORS_MAGIC = 0x56213732
"""FDINFO_MAGIC."""
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK = 1, 4, 5, 8, 9
"""Linux, include/net/tcp_states.h."""
_HAS_ENDED = {_FIN_WAIT1, _FIN_WAIT2, _LAST_ACK}
"""This end has said that nothing more comes."""
_IS_ENDED = {_CLOSE_WAIT, _LAST_ACK}
"""The other end has said so."""
_END_ARRIVES = 0.5
"""Seconds to wait for that before this end says it, too. It does not come before the reader has read, if its buffer is
full."""
_SHUT_READ = 1
_HELD_MARK = 0x5046_0000
"""On sockets whose bytes are held back, with a number of their own in the lower half: how they are found again."""
_MOST_HELD = 0xFFFF
_SO_BUF_LOCK, _SO_SNDBUFFORCE = 72, 32
_MOST_BUFFER = 1 << 30
_PATIENCE = 5.0


@dataclass(frozen=True)
class _Held:
    """What a connection gets back. `mark` is the job's own; `ends`: nothing comes after the bytes; `ended`: the other
    end has said that before."""

    unsent: bytes
    mark: int
    ends: bool
    ended: bool


@dataclass(frozen=True)
class _Connection:
    """One in the images: the place of its entry in `files.img`, and its stream."""

    place: int
    found: Message
    stream: bytes
    received: int | None = None
    """How many bytes of its send queue the other end has; None where that is not known."""

    @property
    def name(self) -> str:
        return _stream_name(self.found)

    @property
    def state(self) -> int:
        return criu_image.number(self.found, _STATE)

    @property
    def unsent(self) -> int:
        return criu_image.number(_message(self.stream), _UNSENT)

    @property
    def queued(self) -> int:
        return criu_image.number(_message(self.stream), _OUT_LENGTH)

    @property
    def waiting(self) -> int:
        """How many bytes at the end of the send queue it must send itself, once both ends exist."""
        return self.unsent if self.received is None else self.queued - self.received


def hold_back(images: Path, files: bytes | None) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name, so that nothing is sent before its time; mostly none.
    `files` is the `files.img` that is to be restored, None if it is that of `images`.

    ImageInvalid if one cannot be read. Blocks.
    """
    streams = {path.name: path.read_bytes() for path in sorted(images.glob("tcp-stream-*.img"))}
    if not streams:
        return {}
    unsent = {name for name, image in streams.items() if criu_image.number(_message(image), _UNSENT)}
    changed = {name: _called_sent(streams[name]) for name in unsent}
    image = (images / FILES).read_bytes() if files is None else files
    entries = [criu_image.parse(entry) for entry in criu_image.entries(image, FILES_MAGIC)]
    found = _connections(entries, streams)
    for one in found.values():
        if one.received and not one.waiting:
            changed[one.name] = _still_open(one)
    if any(_to_hold(found)):  # only then: a job may have hundreds of thousands of descriptors
        reachable = _of_descriptors(images)
        found = {ends: one for ends, one in found.items() if criu_image.number(one.found, _ID) in reachable}
    held = list(_to_hold(found))[:_MOST_HELD]
    for count, one in enumerate(held, 1):
        changed[one.name] = _still_open(one)
        message = criu_image.encode(_marked(_without_ends(one.found), _HELD_MARK + count))
        entries[one.place] = criu_image.with_field(entries[one.place], _SOCKET, message)
    if held:
        changed[FILES] = criu_image.image(FILES_MAGIC, map(criu_image.encode, entries))
    return changed


def _connections(entries: list[Message], streams: dict[str, bytes]) -> dict[tuple[Endpoint, Endpoint], _Connection]:
    found = {}
    for place, entry in enumerate(entries):
        message = criu_image.part(entry, _SOCKET)
        ends = ends_in(message) if message else None
        if message and ends and _stream_name(message) in streams:
            found[ends] = _Connection(place, message, streams[_stream_name(message)])
    return {
        (source, peer): replace(one, received=_received(one, found.get((peer, source))))
        for (source, peer), one in found.items()
    }


def _received(one: _Connection, other: _Connection | None) -> int | None:
    """How many bytes of its send queue the other end has; None where that is not sure."""
    if other is None or not one.state == other.state == _ESTABLISHED:
        return None
    ours, theirs = _message(one.stream), _message(other.stream)
    waiting = (criu_image.number(ours, _OUT_SEQUENCE) - criu_image.number(theirs, _IN_SEQUENCE)) % (1 << 32)
    return one.queued - waiting if one.unsent <= waiting <= one.queued else None


def _to_hold(found: dict[tuple[Endpoint, Endpoint], _Connection]) -> Iterator[_Connection]:
    for (source, peer), one in found.items():
        if one.state == _FIN_WAIT2 or one.state in _IS_ENDED:  # only together with the other end
            other = found.get((peer, source))
            if other and {one.state, other.state} in ({_FIN_WAIT2, _CLOSE_WAIT}, {_FIN_WAIT2, _LAST_ACK}):
                yield one
        elif one.state in (_ESTABLISHED, _FIN_WAIT1) and one.waiting:
            yield one


def send_held(images: Path, restored: Path, pids: Iterable[int]) -> int:
    """Bring the connections of restored processes, which came back from the images in `restored` and still stand, to
    where they were in `images`. How many there were.

    ImageInvalid, OSError (also TimeoutError): not all could be. Blocks shortly.
    """
    held = _held(images, restored) if (restored / FILES).exists() else {}
    if not held:
        return 0
    with contextlib.ExitStack() as copies:
        found = {}
        for copy in tcp_sockets(pids):
            mark = copy.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
            if mark in held:
                # Not socket.dup(): it would make the job's own descriptor a blocking one.
                found[mark] = copies.enter_context(socket.socket(fileno=os.dup(copy.fileno())))
        if missing := held.keys() - found:
            raise OSError(f"{len(missing)} TCP connections inside the job did not come back")
        for mark in sorted(held, key=lambda mark: held[mark].ended):  # first those that have ended the others
            _send(found[mark], held[mark])
    return len(held)


def _stream_name(found: Message) -> str:
    return f"tcp-stream-{criu_image.number(found, _INODE):x}.img"


def _message(stream: bytes) -> Message:
    return criu_image.parse(next(criu_image.entries(stream, _MAGIC), b""))


def _with_message(stream: bytes, message: Message, less: int = 0) -> bytes:
    """With another message, and so many bytes less at the end."""
    encoded = criu_image.encode(message)
    queues = _HEAD + int.from_bytes(stream[_HEAD - 4 : _HEAD], "little")
    return stream[: _HEAD - 4] + struct.pack("<I", len(encoded)) + encoded + stream[queues : len(stream) - less]


def _called_sent(stream: bytes) -> bytes:
    return _with_message(stream, criu_image.with_field(_message(stream), _UNSENT, 0))


def _still_open(one: _Connection) -> bytes:
    """Its stream without what it must send, without what the other end has, and without the ends that were said: each
    has a number of its own."""
    message = _message(one.stream)
    received = one.received or 0
    gone = one.waiting + received
    less = {_OUT_LENGTH: gone, _OUT_SEQUENCE: one.waiting + (one.state in _HAS_ENDED), _UNSENT: one.unsent}
    less[_ROOM] = min(received, criu_image.number(message, _ROOM))
    if one.state in _IS_ENDED:
        less |= {_IN_SEQUENCE: 1, _WINDOW_FROM: 1, _WINDOW: -1}
    present = {field.number for field in message}
    for field, count in less.items():
        if field in present:
            message = criu_image.with_field(message, field, (criu_image.number(message, field) - count) % (1 << 32))
    return _with_message(one.stream, message, gone)


def _of_descriptors(images: Path) -> set[int]:
    """What processes have open, by CRIU's number. A socket that is on its way through another one is not among them."""
    found: set[int] = set()
    for path in images.glob("fdinfo-*.img"):
        entries = criu_image.entries(path.read_bytes(), _DESCRIPTORS_MAGIC)
        found.update(criu_image.number(criu_image.parse(entry), _ID) for entry in entries)
    return found


def _without_ends(found: Message) -> Message:
    """That it reads no more (SHUT_RD) stays, where it was the job that said so."""
    own = 0 if criu_image.number(found, _STATE) in _IS_ENDED else criu_image.number(found, _SHUTDOWN) & _SHUT_READ
    return criu_image.with_field(criu_image.with_field(found, _STATE, _ESTABLISHED), _SHUTDOWN, own or None)


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
            stream, cut = ((folder / _stream_name(found)).read_bytes() for folder in (images, restored))
            state = criu_image.number(before[inode], _STATE)
            last, first = (criu_image.number(_message(one), _OUT_SEQUENCE) for one in (stream, cut))
            unsent = stream[len(stream) - (last - (state in _HAS_ENDED) - first) % (1 << 32) :]
            held[mark] = _Held(unsent, _mark(before[inode]), state in _HAS_ENDED, state in _IS_ENDED)
    return held


def _by_inode(files: bytes) -> Iterator[tuple[int, Message]]:
    for entry in criu_image.entries(files, FILES_MAGIC):
        if found := criu_image.part(criu_image.parse(entry), _SOCKET):
            yield criu_image.number(found, _INODE), found


def _mark(found: Message) -> int:
    return criu_image.number(criu_image.part(found, _OPTS) or [], _SO_MARK)


def _send(to: socket.socket, held: _Held) -> None:
    """All of it at once: the buffer is larger meanwhile, because the same bytes may take more room than before."""
    if held.ended:
        with contextlib.suppress(TimeoutError):
            until(lambda: _state(to) != _ESTABLISHED, _END_ARRIVES, 0.005)
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


def _state(of: socket.socket) -> int:
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _lock_of_buffers(found: socket.socket) -> int | None:
    """Which of its buffers the job has fixed; None where the kernel does not tell (before Linux 5.14)."""
    with contextlib.suppress(OSError):
        return found.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
    return None
