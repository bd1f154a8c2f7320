"""Rows about sockets: unix sockets of every kind, TCP and UDP inside the machine, connections to the outside."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from row import Check, expect, last, main, places, same  # type: ignore[import-not-found]

SERVER = (os.environ.get("PERDURE_ROW_SERVER", "198.18.77.1"), 7777)
"""An echo server outside the container's network."""
CREDENTIALS = struct.Struct("3i")


class Messages:
    """Numbered messages from one socket to another; some are always on their way."""

    def __init__(self, one: socket.socket, other: socket.socket, on_the_way: int, size: int = 8) -> None:
        self.one, self.other, self.size, self.sent, self.received = one, other, size, 0, 0
        for _ in range(on_the_way):
            self.send()

    def send(self) -> None:
        self.one.sendall(struct.pack("Q", self.sent).ljust(self.size, b"."))
        self.sent += 1

    def step(self) -> None:
        expect(select.select([self.other], [], [], 20)[0], f"message {self.received} is missing")
        data = self.other.recv(self.size, socket.MSG_WAITALL)
        same((len(data), struct.unpack("Q", data[:8])[0]), (self.size, self.received), "message")
        self.received += 1
        self.send()


def _both_ways(one: socket.socket, other: socket.socket, on_the_way: int, size: int = 8) -> Callable[[], None]:
    there, back = Messages(one, other, on_the_way, size), Messages(other, one, on_the_way, size)

    def step() -> None:
        there.step()
        back.step()

    return step


def _connected(kind: int, path: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen()
    client = socket.socket(socket.AF_UNIX, kind)
    client.connect(path)
    return listener, client, listener.accept()[0]


def unix_sockets() -> Check:
    """Stream, datagram and sequenced-packet sockets: pairs, by path on both file systems, abstract; with messages on
    their way, half closed, with a client that waits to be accepted."""
    data, root = places()
    steps = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        steps.append(_both_ways(*socket.socketpair(socket.AF_UNIX, kind), 8))
    listeners = []
    for number, kind in enumerate((socket.SOCK_STREAM, socket.SOCK_SEQPACKET)):
        for path in (f"{data}/socket{number}", f"{root}/socket{number}", f"\0abstract{number}"):
            listener, client, server = _connected(kind, path)
            steps.append(_both_ways(client, server, 5))
            listeners.append((listener, kind, path))
    receiver, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(f"{root}/datagrams")
    sender.connect(f"{root}/datagrams")
    datagrams = Messages(sender, receiver, 6)
    half, rest = socket.socketpair()
    half.sendall(b"the rest")
    half.shutdown(socket.SHUT_WR)

    def check() -> str:
        for step in steps:
            step()
        datagrams.step()
        same(rest.recv(8, socket.MSG_PEEK), b"the rest", "bytes of a half-closed socket")
        for listener, kind, path in listeners:
            late = socket.socket(socket.AF_UNIX, kind)
            late.connect(path)
            accepted = listener.accept()[0]
            late.sendall(b"late")
            same(accepted.recv(10), b"late", f"new client of {path!r}")
            late.close()
            accepted.close()
        if last():
            same((rest.recv(100), rest.recv(100)), (b"the rest", b""), "end of a half-closed socket")
        return "unix"

    return check


def passed() -> Check:
    """Descriptors on their way through a unix socket (SCM_RIGHTS): a pipe's end, a file, a socket."""
    data, _ = places()
    one, other = socket.socketpair()
    pipe = os.pipe()
    file = os.open(f"{data}/passed", os.O_RDWR | os.O_CREAT)
    os.write(file, b"passed on")
    left, right = socket.socketpair()

    def send() -> None:
        numbers = array.array("i", [pipe[0], file, right.fileno()])
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])

    send()

    def check() -> None:
        _, ancillary, _, _ = other.recvmsg(1, socket.CMSG_SPACE(12))
        expect(ancillary, "the descriptors are missing")
        numbers = array.array("i", ancillary[0][2])
        os.write(pipe[1], b"through")
        same(os.read(numbers[0], 10), b"through", "passed pipe")
        same(os.pread(numbers[1], 20, 0), b"passed on", "passed file")
        left.sendall(b"socket")
        same(os.read(numbers[2], 10), b"socket", "passed socket")
        for number in numbers:
            os.close(number)
        send()

    return check


def credentials() -> Check:
    """Who is at the other end of a unix socket (SO_PEERCRED), and messages with credentials."""
    one, other = socket.socketpair()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    wanted = (os.getpid(), os.getuid(), os.getgid())

    def check() -> None:
        found = CREDENTIALS.unpack(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        same(found, wanted, "peer")
        one.sendall(b"x")
        _, ancillary, _, _ = other.recvmsg(1, socket.CMSG_SPACE(12))
        same(CREDENTIALS.unpack(ancillary[0][2]), wanted, "credentials of a message")

    return check


def tcp() -> Check:
    """TCP inside the machine, IPv4 and IPv6: between processes, with bytes on their way in both directions, half
    closed; options; a listener that goes on listening."""
    steps, listeners = [], []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        listener = socket.create_server((host, 0), family=family, backlog=16)
        client, server = _tcp(listener)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
        steps.append(_both_ways(client, server, 200, 100))
        listeners.append((listener, client))
    half, rest = _tcp(listeners[0][0])
    half.sendall(b"the rest")
    half.shutdown(socket.SHUT_WR)
    partner = _partner(listeners[0][0])
    count = [0]

    def check() -> str:
        for step in steps:
            step()
        partner.sendall(struct.pack("Q", count[0]))
        same(struct.unpack("Q", partner.recv(8, socket.MSG_WAITALL))[0], count[0] + 1, "answer of another process")
        count[0] += 1
        for listener, client in listeners:
            same(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1, "TCP_NODELAY")
            same(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 77, "TCP_KEEPIDLE")
            late, accepted = _tcp(listener)
            late.sendall(b"late")
            same(accepted.recv(4), b"late", "new connection")
            late.close()
            accepted.close()
        if last():
            same((rest.recv(100), rest.recv(100)), (b"the rest", b""), "end of a half-closed connection")
        return "tcp"

    return check


def tcp_full() -> Check:
    """TCP connections inside the machine whose buffers are full, in either order of their descriptors, also such whose
    writer, or both ends, said that nothing more comes. Nothing is read before the end, when all of it must come out."""
    pattern = bytes(range(256)) * 256
    listener = socket.create_server(("127.0.0.1", 0))
    client, server = _tcp(listener)
    other, another = _tcp(listener)
    finished, its_reader = _tcp(listener)
    last_word, first_word = _tcp(listener)
    first_word.shutdown(socket.SHUT_WR)
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    first_word4 = socket.create_connection(("127.0.0.1", both.getsockname()[1]))
    last_word6 = both.accept()[0]
    first_word4.shutdown(socket.SHUT_WR)
    writers = [(client, server), (another, other), (finished, its_reader)]
    writers += [(last_word, first_word), (last_word6, first_word4)]
    pairs = [(one, reader, _fill(one, pattern)) for one, reader in writers]
    for one in (finished, last_word, last_word6):
        one.shutdown(socket.SHUT_WR)
    small = socket.SO_SNDBUF, client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    states = [_state(one) for one, _ in writers]

    def check() -> str:
        same([_state(one) for one, _ in writers], states, "states of the connections")
        expect(all(_not_sent(one) > 0 for one, _ in writers), "bytes that were not sent are called sent")
        same(client.getsockopt(socket.SOL_SOCKET, small[0]), small[1], "the size of a buffer")
        if last():
            for one, reader, sent in pairs:
                one.shutdown(socket.SHUT_WR)
                same(_read_all(reader, pattern), sent, "bytes of a full connection")
        return "full"

    return check


def _state(one: socket.socket) -> int:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _not_sent(one: socket.socket) -> int:
    """tcp_info.tcpi_notsent_bytes (linux/tcp.h). The kernel moves such bytes as soon as the reader has room; those that
    it takes for sent wait for a timer that becomes slower and slower."""
    return int.from_bytes(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)[144:], "little")


def _fill(one: socket.socket, pattern: bytes) -> int:
    """Send until nothing more is taken; how many bytes that were."""
    sent = 0
    one.setblocking(False)
    while select.select([], [one], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += one.send(pattern[sent % 65536 :])
    return sent


def _read_all(reader: socket.socket, pattern: bytes) -> int:
    read = 0
    while data := reader.recv(65536 - read % 65536):
        expect(pattern[read % 65536 :].startswith(data), f"bytes at {read} have changed")
        read += len(data)
    return read


def _tcp(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname()[:2])
    return client, listener.accept()[0]


def _partner(listener: socket.socket) -> socket.socket:
    if os.fork() == 0:
        connection = socket.create_connection(listener.getsockname()[:2])
        while data := connection.recv(8, socket.MSG_WAITALL):
            connection.sendall(struct.pack("Q", struct.unpack("Q", data)[0] + 1))
        os._exit(0)
    return listener.accept()[0]


def backlog() -> Check:
    """A client that is connected, has sent its question, and was not accepted yet."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    held: list[Any] = []

    def check() -> None:
        if not held:
            held.append(socket.create_connection(listener.getsockname()))
            held[0].sendall(b"question")
            return
        if last():
            accepted = listener.accept()[0]
            same(accepted.recv(100), b"question", "question")

    return check


def busy_server() -> Check:
    """A server that lets its clients wait for some milliseconds, again and again."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)

    def check() -> None:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        time.sleep(0.005)
        for client in clients:
            accepted = listener.accept()[0]
            client.sendall(b"question")
            same(accepted.recv(8, socket.MSG_WAITALL), b"question", "question")
            accepted.close()
            client.close()

    return check


def udp() -> Check:
    """UDP inside the machine: bound, connected, IPv4 and IPv6."""
    pairs = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        receiver, sender = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        receiver.bind((host, 0))
        sender.connect(receiver.getsockname())
        pairs.append((sender, receiver))

    def check() -> None:
        for sender, receiver in pairs:
            sender.send(b"datagram")
            expect(select.select([receiver], [], [], 20)[0], "datagram")
            data, address = receiver.recvfrom(100)
            same((data, address), (b"datagram", sender.getsockname()), "datagram")

    return check


def outside() -> Check:
    """A client of a server outside that connects anew when it must, a listener on every address, and TCP inside the
    machine, which must not notice anything."""
    everywhere = socket.create_server(("0.0.0.0", 8123))
    inside = _both_ways(*_tcp(everywhere), 50)
    connections = [socket.create_connection(SERVER, timeout=300)]
    idle = socket.create_connection(SERVER, timeout=300)

    def echo() -> None:
        connections[-1].sendall(b"question")
        same(connections[-1].recv(8, socket.MSG_WAITALL), b"question", "echo")

    def check() -> str:
        inside()
        try:
            echo()
        except ConnectionError:
            connections.append(socket.create_connection(SERVER, timeout=300))
            echo()
        if last():
            started = time.monotonic()
            try:
                idle.sendall(b"anybody there?")
                idle.recv(100)
            except ConnectionError:
                pass
            expect(time.monotonic() - started < 10, "a connection that is no more was not closed")
        return "outside"

    return check


if __name__ == "__main__":
    main(globals())
