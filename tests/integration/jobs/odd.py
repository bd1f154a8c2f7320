"""Holds unusual things open and checks, ten times a second, that each still works; one `ok` line a second.

Until SIGTERM: odd.py DATA_FOLDER ROOT_LAYER_FOLDER THING...
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

Check = Callable[[], None]
SERVER = ("198.18.77.1", 7777)

libc = ctypes.CDLL(None, use_errno=True)


def expect(truth: bool, what: str) -> None:
    if not truth:
        print("wrong:", what, flush=True)
        os._exit(3)


def lost_name(data: str, root: str) -> Check:
    """An open file that lost the name it was opened by but has another; and one that is only mapped."""
    checks = []
    for folder in (data, root, "/dev/shm"):
        file = open(f"{folder}/first", "w+b", buffering=0)  # noqa: SIM115
        os.link(f"{folder}/first", f"{folder}/second")
        os.unlink(f"{folder}/first")
        checks.append((file, f"{folder}/second"))
    mapped = only_mapped(f"{root}/third", f"{root}/fourth")

    def check() -> None:
        mapped[0] = (mapped[0] + 1) % 200
        with open(f"{root}/fourth", "rb") as fourth:
            expect(fourth.read(1) == bytes(mapped[:1]), "what is written to a mapped file")
        for file, second in checks:
            file.write(b"x")
            expect(os.path.getsize(second) == os.fstat(file.fileno()).st_size, f"{second} is another file")
            expect(os.fstat(file.fileno()).st_nlink == 1, f"links of {second}")

    return check


def only_mapped(name: str, other: str) -> ctypes.Array[ctypes.c_ubyte]:
    """A file's bytes in memory. It was closed (Python's own mmap keeps it open), and has lost its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.truncate(file, 4096)
    place = libc.mmap(None, 4096, 3, 1, file, 0)  # to read and write, shared
    os.link(name, other)
    os.unlink(name)
    os.close(file)
    return (ctypes.c_ubyte * 4096).from_address(place)


def nameless(data: str, root: str) -> Check:
    """Files that never had a name (O_TMPFILE) or have none any more."""
    files = [open(os.open(folder, os.O_TMPFILE | os.O_RDWR), "w+b", buffering=0) for folder in (data, root)]  # noqa: SIM115
    written = [0]

    def check() -> None:
        for file in files:
            file.seek(0, os.SEEK_END)
            file.write(b"y")
            expect(file.tell() == written[0] + 1, "size of a nameless file")
        written[0] += 1

    return check


def locks(data: str, root: str) -> Check:
    """flock and POSIX locks on both file systems."""
    files = [open(f"{folder}/locked", "w") for folder in (data, root)]  # noqa: SIM115
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX, 10)

    def check() -> None:
        for file in files:
            with open(file.name, "w") as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    expect(False, f"lock of {file.name} is gone")
                except BlockingIOError:
                    pass

    return check


def fifo(data: str, root: str) -> Check:
    """A named pipe with a byte pending in it."""
    os.mkfifo(f"{root}/fifo")
    end = os.open(f"{root}/fifo", os.O_RDWR)
    os.write(end, b"a")

    def check() -> None:
        byte = os.read(end, 1)
        expect(byte == b"a", "byte of the fifo")
        os.write(end, byte)

    return check


def unix_socket(data: str, root: str) -> Check:
    """A listening socket by path, a connected pair of its clients."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{root}/socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{root}/socket")
    server, _ = listener.accept()

    def check() -> None:
        client.send(b"ping")
        expect(server.recv(8) == b"ping", "unix socket")
        late = socket.socket(socket.AF_UNIX)
        late.connect(f"{root}/socket")
        listener.accept()[0].close()
        late.close()

    return check


def events(data: str, root: str) -> Check:
    """epoll, eventfd, timerfd."""
    poller, event = select.epoll(), libc.eventfd(0, 0)
    timer = libc.timerfd_create(1, 0)
    libc.timerfd_settime(timer, 0, struct.pack("4q", 0, 50_000_000, 0, 50_000_000), None)
    poller.register(timer, select.EPOLLIN)
    poller.register(event, select.EPOLLIN)

    def check() -> None:
        os.write(event, struct.pack("Q", 1))
        expect(event in dict(poller.poll(5)), "eventfd")
        os.read(event, 8)
        expect(timer in dict(poller.poll(5)), "timerfd")
        os.read(timer, 8)

    return check


def watch(data: str, root: str) -> Check:
    """inotify on the data folder."""
    return watcher(data)


def watch_root(data: str, root: str) -> Check:
    """inotify on a folder of the root layer."""
    os.mkdir(f"{root}/watched")
    return watcher(f"{root}/watched")


def watch_file(data: str, root: str) -> Check:
    """inotify on a file of the root layer, as `tail -f` does."""
    open(f"{root}/tailed", "w").close()

    def touch() -> None:
        with open(f"{root}/tailed", "a") as file:
            file.write("x")

    return watcher(f"{root}/tailed", touch)


def watcher(path: str, touch: Check | None = None) -> Check:
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(descriptor, path.encode(), 0x100 | 0x2)

    def check() -> None:
        if touch:
            touch()
        else:
            open(f"{path}/made", "w").close()
            os.unlink(f"{path}/made")
        expect(bool(select.select([descriptor], [], [], 5)[0]), f"inotify on {path}")
        os.read(descriptor, 65536)

    return check


def zombie(data: str, root: str) -> Check:
    """A child that ended and was not waited for."""
    child = os.fork()
    if child == 0:
        os._exit(5)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    def check() -> None:
        with open(f"/proc/{child}/stat") as stat:
            expect(stat.read().split()[2] == "Z", "zombie")

    return check


def private(data: str, root: str) -> Check:
    """A process that may not be dumped by its own kind."""
    libc.prctl(4, 0, 0, 0, 0)
    return lambda: expect(libc.prctl(3, 0, 0, 0, 0) == 0, "dumpable")


def threads(data: str, root: str) -> Check:
    """Two hundred threads that wait."""
    gate = threading.Event()
    for _ in range(200):
        threading.Thread(target=gate.wait, daemon=True).start()
    return lambda: expect(threading.active_count() >= 201, "threads")


def outside(data: str, root: str) -> Check:
    """A connection to an echo server outside (SERVER); when it breaks, another one. And a socket for datagrams."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect(SERVER)
    connections = [socket.create_connection(SERVER, timeout=300)]

    def check() -> None:
        expect(datagrams.getsockname()[1] > 0 or len(connections) > 1, "datagrams")
        try:
            connections[-1].send(b"z")
            expect(connections[-1].recv(1) == b"z", "outside echo")
        except ConnectionError:
            connections.append(socket.create_connection(SERVER, timeout=300))
            expect(len(connections) < 4, "outside connection")

    return check


def main(data: str, root: str, things: list[str]) -> None:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    checks = [globals()[name](data, root) for name in things]
    for number in itertools.count():
        if asked:
            break
        for check in checks:
            check()
        if number % 10 == 0:
            print("ok", number, flush=True)
        time.sleep(0.1)


main(sys.argv[1], sys.argv[2], sys.argv[3:])
