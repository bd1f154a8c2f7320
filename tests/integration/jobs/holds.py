"""Opens on request what a dump may refuse, and closes it again.

Each line of the fifo /data/requests names a thing to open, or is `close`; each is answered by a line on stdout.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
kept: list[object] = []
"""What is open now: descriptors, and objects that close by themselves."""


def checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def io_uring() -> object:
    parameters = ctypes.create_string_buffer(120)
    return checked(libc.syscall(425, 4, parameters), "io_uring_setup")


def userfaultfd() -> object:
    user_mode_only = 1
    return checked(libc.syscall(323, user_mode_only), "userfaultfd")


def perf_event() -> object:
    software, exclude = 1, (1 << 5) | (1 << 6)  # without the kernel and the hypervisor
    attributes = struct.pack("IIQQQQQ", software, 112, 1, 0, 0, 0, exclude) + bytes(64)
    return checked(libc.syscall(298, attributes, 0, -1, -1, 0), "perf_event_open")


def bpf_program() -> object:
    code = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # return 0
    place, text = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("IIQQIIQ", 1, 2, ctypes.addressof(place), ctypes.addressof(text), 0, 0, 0)
    return checked(libc.syscall(321, 5, attributes, len(attributes)), "BPF_PROG_LOAD")


def multipath_tcp() -> object:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def machine_socket() -> object:
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0)


def packet_pipe() -> object:
    reader, writer = os.pipe2(os.O_DIRECT)
    kept.append(writer)
    return reader


def secret_memory() -> object:
    descriptor = checked(libc.syscall(447, 0), "memfd_secret")
    os.ftruncate(descriptor, 4096)
    kept.append(mmap.mmap(descriptor, 4096))
    return descriptor


def outside_unix_socket() -> object:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/outside/socket")
    connection.sendall(b"stay")
    return connection


def from_outside() -> object:
    """A descriptor that the test hands over."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/outside/socket")
        connection.sendall(b"give")
        _, [(_, _, data)], _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
        return array.array("i", data)[0]


def deleted_file() -> object:
    with open("/var/lib/deleted", "wb") as file:
        file.write(os.urandom(3 << 20))
    descriptor = os.open("/var/lib/deleted", os.O_RDONLY)
    os.unlink("/var/lib/deleted")
    return descriptor


def sandbox() -> object:
    """A child in a host name space of its own."""
    gate = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            checked(libc.unshare(0x04000000), "unshare")
            os.write(gate[1], b"x")
            while True:
                os.read(gate[0], 0) or __import__("time").sleep(3600)
        finally:
            os._exit(1)
    assert os.read(gate[0], 1) == b"x"
    os.close(gate[0])
    os.close(gate[1])
    return Child(child)


class Child:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def counting_eventfd() -> object:
    return checked(libc.eventfd(3, 1), "eventfd")


class Queue:
    def __init__(self) -> None:
        self.descriptor = checked(libc.mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None), "mq_open")

    def close(self) -> None:
        os.close(self.descriptor)
        libc.mq_unlink(b"/queue")


def message_queue() -> object:
    return Queue()


def own_terminal() -> object:
    """Both ends of a terminal: nothing is outside."""
    master, slave = os.openpty()
    kept.append(slave)
    return master


def harmless() -> object:
    """Things that look unusual and are saved."""
    kept.append(checked(libc.inotify_init1(0), "inotify"))
    kept.append(checked(libc.eventfd(0, 0), "eventfd"))
    kept.append(checked(libc.timerfd_create(1, 0), "timerfd"))
    kept.append(os.memfd_create("scratch"))
    kept.append(os.open("/dev/null", os.O_RDONLY))
    kept.append(os.open("/dev/urandom", os.O_RDONLY))
    kept.append(os.pidfd_open(os.getpid()))
    kept.append(socket.socketpair())
    return os.open("/data", os.O_PATH)


def close() -> None:
    while kept:
        one = kept.pop()
        if isinstance(one, int):
            os.close(one)
        elif isinstance(one, tuple):
            for part in one:
                part.close()
        else:
            one.close()  # type: ignore[attr-defined]


os.mkfifo("/data/requests")
# Open for writing too: between an end of file and the next opening a request would be lost.
with open(os.open("/data/requests", os.O_RDWR), buffering=1) as requests:
    print("ready", flush=True)
    for line in requests:
        word = line.strip()
        try:
            if word == "close":
                close()
            else:
                kept.append(globals()[word]())
            print("done", word, flush=True)
        except OSError as problem:
            print("cannot", word, problem, flush=True)
