"""Rows about files and descriptors: pipes, fifos, locks, leases, deleted files, event descriptors, watches."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import mmap
import os
import select
import signal
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator

from row import Check, call, expect, last, libc, main, places, same  # type: ignore[import-not-found]

MIB = 1 << 20


class Stream:
    """Numbered 8-byte words that go into one end and must come out of the other, none lost, none twice; some are
    always on their way."""

    def __init__(self, into: int, out: int, on_the_way: int) -> None:
        self.into, self.out, self.sent, self.received = into, out, 0, 0
        self.send(on_the_way)

    def send(self, words: int) -> None:
        os.write(self.into, b"".join(struct.pack("Q", self.sent + number) for number in range(words)))
        self.sent += words

    def receive(self, words: int) -> None:
        data = b""
        while len(data) < words * 8:
            data += os.read(self.out, words * 8 - len(data))
        wanted = tuple(range(self.received, self.received + words))
        same(struct.unpack(f"{words}Q", data), wanted, "words of a stream")
        self.received += words

    def step(self, words: int = 5) -> None:
        self.receive(words)
        self.send(words)


def pipes() -> Check:
    """Pipes: with bytes on their way, full and resized, with the writer gone, with the reader gone."""
    usual = os.pipe()
    stream = Stream(usual[1], usual[0], 1000)
    large = os.pipe()
    fcntl.fcntl(large[1], 1031, MIB)  # F_SETPIPE_SZ
    os.set_blocking(large[1], False)
    pattern = hashlib.sha256(b"pipe").digest() * (MIB // 32)
    same(os.write(large[1], pattern), MIB, "bytes in the large pipe")
    closed = os.pipe()
    os.write(closed[1], b"last words")
    os.close(closed[1])
    broken = os.pipe()
    os.close(broken[0])
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def check() -> str:
        stream.step()
        same(fcntl.fcntl(large[1], 1032), MIB, "size of the large pipe")
        with contextlib.suppress(BlockingIOError):
            os.write(large[1], b"x")
            expect(False, "the full pipe has room")
        start = os.read(large[0], 4096)
        same(start, pattern[:4096], "bytes of the large pipe")
        os.write(large[1], start)
        same(available(closed[0]), 10, "bytes in the pipe without a writer")
        with contextlib.suppress(BrokenPipeError):
            os.write(broken[1], b"x")
            expect(False, "a pipe without reader takes bytes")
        if last():
            same((os.read(closed[0], 100), os.read(closed[0], 100)), (b"last words", b""), "pipe without a writer")
        return "pipes"

    return check


def packets() -> Check:
    """A pipe in packet mode (O_DIRECT)."""
    pipe = os.pipe2(os.O_DIRECT)
    for number in range(3):
        os.write(pipe[1], b"packet" * (number + 1))

    def check() -> None:
        for number in range(3):
            packet = os.read(pipe[0], 4096)
            same(packet, b"packet" * (number + 1), "packet")
            os.write(pipe[1], packet)

    return check


def available(descriptor: int) -> int:
    """Bytes that wait in a pipe (FIONREAD)."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, 0x541B, b"\0" * 4))[0])


def fifos() -> Check:
    """Named pipes on both file systems, with bytes on their way, between two processes."""
    streams = []
    for folder in places():
        there, back = f"{folder}/there", f"{folder}/back"
        os.mkfifo(there)
        os.mkfifo(back)
        if os.fork() == 0:
            source, target = os.open(there, os.O_RDONLY), os.open(back, os.O_WRONLY)
            while data := os.read(source, 160):
                os.write(target, data)
            os._exit(0)
        into = os.open(there, os.O_WRONLY)
        streams.append(Stream(into, os.open(back, os.O_RDONLY), 2000))

    def check() -> str:
        for stream in streams:
            stream.step(20)
        return str([stream.sent - stream.received for stream in streams])

    return check


def locks() -> Check:
    """flock, POSIX and OFD locks of several processes on both file systems, and a process that waits for one."""
    waiting = []
    for folder in places():
        for name, take in LOCKS.items():
            path = f"{folder}/{name}"
            holder = open(path, "w+")  # noqa: SIM115
            take(holder.fileno(), True)
            _HELD.append(holder)
            child = os.fork()
            if child == 0:
                with open(path, "w+") as waiter:
                    while not take(waiter.fileno(), True):
                        pass
                    os._exit(9)  # it got what another still holds
            waiting.append((child, path, take))
    time.sleep(0.3)  # most of them wait in the kernel by then; those that do not prove as much

    def check() -> None:
        for child, path, take in waiting:
            same(os.waitpid(child, os.WNOHANG), (0, 0), f"process that waits for {path}")
            if take is not _posix_lock:  # a process does not stand in its own way
                with open(path, "w+") as other:
                    expect(not take(other.fileno(), False), f"{path} is not locked")
            else:
                tester = os.fork()
                if tester == 0:
                    with open(path, "w+") as other:
                        os._exit(int(take(other.fileno(), False)))
                same(os.waitstatus_to_exitcode(os.waitpid(tester, 0)[1]), 0, f"{path} is locked")

    return check


_HELD: list[object] = []


def _flock(descriptor: int, wait: bool) -> bool:
    with contextlib.suppress(BlockingIOError, InterruptedError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def _posix_lock(descriptor: int, wait: bool) -> bool:
    with contextlib.suppress(BlockingIOError, InterruptedError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 10, 5)
        return True
    return False


def _ofd_lock(descriptor: int, wait: bool) -> bool:
    lock = struct.pack("hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 5, 10, 0)
    with contextlib.suppress(BlockingIOError, InterruptedError):
        fcntl.fcntl(descriptor, 38 if wait else 37, lock)  # F_OFD_SETLKW, F_OFD_SETLK
        return True
    return False


LOCKS: dict[str, Callable[[int, bool], bool]] = {"flock": _flock, "posix": _posix_lock, "ofd": _ofd_lock}


def leases() -> Check:
    """Leases on files: a read lease on each file system, and the signal when somebody wants to write."""
    held = []
    broken = [0]

    def asked(number: int, frame: object) -> None:
        broken[0] += 1

    signal.signal(signal.SIGIO, asked)
    for folder in places():
        path = f"{folder}/leased"
        open(path, "w").close()
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        held.append((path, descriptor))

    def check() -> None:
        for path, descriptor in held:
            same(fcntl.fcntl(descriptor, fcntl.F_GETLEASE), fcntl.F_RDLCK, f"lease on {path}")
            before = broken[0]
            with contextlib.suppress(BlockingIOError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                expect(False, f"{path} is opened in spite of its lease")
            end = time.monotonic() + 20
            while broken[0] == before:
                expect(time.monotonic() < end, f"no signal for {path}")
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)

    return check


def _words(seed: bytes) -> Iterator[bytes]:
    while True:
        seed = hashlib.sha256(seed).digest()
        yield seed * 2048  # 64 KiB


def deleted() -> Check:
    """Files that are open and deleted: 1 MB and 300 MB, mapped ones, nameless ones (O_TMPFILE), a deleted folder."""
    held = []
    for place, folder in enumerate(places()):
        for size in (1, 300) if place == 0 else (1,):
            path = f"{folder}/deleted-{size}"
            file = open(path, "w+b", buffering=0)  # noqa: SIM115
            digest = _fill(file.fileno(), size)
            os.unlink(path)
            held.append((file.fileno(), size, digest, [0]))
            _HELD.append(file)
        nameless = os.open(folder, os.O_TMPFILE | os.O_RDWR)
        held.append((nameless, 2, _fill(nameless, 2), [0]))
    folder = f"{places()[1]}/gone"
    os.mkdir(folder)
    gone = os.open(folder, os.O_RDONLY)
    mapped = open(f"{folder}/mapped", "w+b")  # noqa: SIM115
    mapped.truncate(MIB)
    window = mmap.mmap(mapped.fileno(), MIB)
    window[:5] = b"start"
    os.unlink(f"{folder}/mapped")
    os.rmdir(folder)
    _HELD.append(mapped)

    def check() -> str:
        digests = []
        end = last()
        for descriptor, size, digest, grown in held:
            same(os.fstat(descriptor).st_nlink, 0, "links of a deleted file")
            same(os.fstat(descriptor).st_size, size * MIB + grown[0], "size of a deleted file")
            os.pwrite(descriptor, b"x", size * MIB + grown[0])
            grown[0] += 1
            if end or grown[0] == 1:
                same(_digest(descriptor, size), digest, "content of a deleted file")
            digests.append(digest[:8])
        same(os.fstat(gone).st_nlink, 0, "links of a deleted folder")
        same(window[:5], b"start", "deleted file in memory")
        window[5:6] = b"!"
        same(os.pread(mapped.fileno(), 6, 0), b"start!", "deleted file")
        return " ".join(digests)

    return check


def _fill(descriptor: int, mebibytes: int) -> str:
    words = _words(b"%d" % mebibytes)
    for _ in range(mebibytes * 16):
        os.write(descriptor, next(words))
    return _digest(descriptor, mebibytes)


def _digest(descriptor: int, mebibytes: int) -> str:
    digest = hashlib.sha256()
    for number in range(mebibytes):
        digest.update(os.pread(descriptor, MIB, number * MIB))
    return digest.hexdigest()


def descriptors() -> Check:
    """What belongs to an open file: position, flags, sharing between descriptors and processes, the log that is only
    appended to, a folder that is being listed, a file that lost one of two names, a sparse file."""
    data, root = places()
    log = open(f"{root}/log", "ab", buffering=0)  # noqa: SIM115
    first = os.open(f"{data}/shared", os.O_RDWR | os.O_CREAT)
    os.write(first, b"0123456789" * 1000)
    second = os.dup(first)
    listed = os.scandir("/usr/bin")
    names = [entry.name for entry in os.scandir("/usr/bin")]
    seen = [next(listed).name for _ in range(3)]
    path_only = os.open(data, os.O_PATH | os.O_DIRECTORY)
    for folder in places():
        open(f"{folder}/one", "w").close()
        os.link(f"{folder}/one", f"{folder}/two")
        _HELD.append(open(f"{folder}/one"))  # noqa: SIM115
        os.unlink(f"{folder}/one")
    sparse = os.open(f"{data}/sparse", os.O_RDWR | os.O_CREAT)
    os.pwrite(sparse, b"far", 8 << 30)
    counts = [0]

    def check() -> str:
        log.write(b"%d\n" % counts[0])
        counts[0] += 1
        if counts[0] % 50 == 0 or last():
            lines = open(f"{root}/log", "rb").read().split()  # noqa: SIM115
            same(lines, [b"%d" % number for number in range(counts[0])], "lines of the log")
        position = (counts[0] * 10) % 9000
        os.lseek(first, position, os.SEEK_SET)
        same(os.read(second, 10), b"0123456789", "shared position")
        same(os.lseek(first, 0, os.SEEK_CUR), position + 10, "position")
        expect(os.stat("beat", dir_fd=path_only).st_size > 0 or counts[0] < 9, "folder opened for its path alone")
        same(os.pread(sparse, 3, 8 << 30), b"far", "sparse file")
        expect(os.fstat(sparse).st_blocks < 4096, "a sparse file was filled")
        for file in _HELD:
            same(os.fstat(file.fileno()).st_nlink, 1, "file with one name left")  # type: ignore[attr-defined]
        if last():
            same(sorted(seen + [entry.name for entry in listed]), sorted(names), "folder that was being listed")
        return "descriptors"

    return check


def events() -> Check:
    """eventfd, and timerfd: timers that repeat, that ran out, that have an hour left."""
    counter = os.eventfd(7)
    repeating, single, over = (libc.timerfd_create(1, 0) for _ in range(3))
    _set_timer(repeating, 0.05, 0.05)
    _set_timer(single, 0.0, 3600.0)
    _set_timer(over, 0.0, 0.001)
    select.select([over], [], [])
    earlier = [3600]

    def check() -> str:
        same(os.eventfd_read(counter), 7, "eventfd")
        os.eventfd_write(counter, 7)
        ready, _, _ = select.select([repeating], [], [], 20)
        expect(ready, "the repeating timer stands still")
        os.read(repeating, 8)
        same(select.select([single, over], [], [], 0)[0], [over], "timers that ran out")
        left = struct.unpack("4q", _timer(single))[2]
        expect(0 < left <= earlier[0], f"time left of a timer: {left} s after {earlier[0]} s")
        earlier[0] = left
        if last():
            same(struct.unpack("Q", os.read(over, 8)), (1,), "timer that ran out")
        return "events"

    return check


def semaphore() -> Check:
    """An eventfd that counts one by one."""
    gate = os.eventfd(3, os.EFD_SEMAPHORE)

    def check() -> None:
        same(os.eventfd_read(gate), 1, "eventfd that counts one by one")
        os.eventfd_write(gate, 1)

    return check


def _set_timer(timer: int, interval: float, first: float) -> None:
    value = struct.pack("4q", *divmod(int(interval * 1e9), 10**9), *divmod(int(first * 1e9), 10**9))
    call("timerfd_settime", timer, 0, value, None)


def _timer(timer: int) -> bytes:
    value = ctypes.create_string_buffer(32)
    call("timerfd_gettime", timer, value)
    return value.raw


def epolls() -> Check:
    """epoll: plain, edge-triggered, one-shot, one inside another, and for a descriptor that was duplicated."""
    pipe, edge, once, deep = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    poller, inner = select.epoll(), select.epoll()
    poller.register(pipe[0], select.EPOLLIN)
    poller.register(edge[0], select.EPOLLIN | select.EPOLLET)
    poller.register(once[0], select.EPOLLIN | select.EPOLLONESHOT)
    inner.register(deep[0], select.EPOLLIN)
    poller.register(inner.fileno(), select.EPOLLIN)
    copy = os.dup(pipe[0])

    def ready(seconds: float = 0) -> set[int]:
        return {number for number, _ in poller.poll(seconds)}

    def check() -> None:
        ready()  # a restore may show an edge once more: that is what programs with edges expect at any time
        os.write(pipe[1], b"x")
        expect(pipe[0] in ready(20), "epoll")
        expect(pipe[0] in ready(), "epoll tells once only")
        same(os.read(copy, 10), b"x", "pipe")
        os.write(edge[1], b"x")
        expect(edge[0] in ready(20), "edge")
        expect(edge[0] not in ready(), "edge told twice")
        os.read(edge[0], 10)
        poller.modify(once[0], select.EPOLLIN | select.EPOLLONESHOT)
        os.write(once[1], b"x")
        expect(once[0] in ready(20), "one-shot")
        expect(once[0] not in ready(), "one-shot told twice")
        os.read(once[0], 10)
        os.write(deep[1], b"x")
        expect(inner.fileno() in ready(20), "epoll inside another")
        same([number for number, _ in inner.poll(0)], [deep[0]], "inner epoll")
        os.read(deep[0], 10)
        expect(not ready() & {pipe[0], edge[0], once[0], inner.fileno()}, "something is ready for no reason")

    return check


def signal_descriptors() -> Check:
    """signalfd, with a signal waiting in it."""
    mask = (ctypes.c_ulong * 16)()
    libc.sigemptyset(mask)
    for number in (signal.SIGUSR1, signal.SIGCHLD):
        libc.sigaddset(mask, number)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})
    descriptor = libc.signalfd(-1, mask, 0)
    os.kill(os.getpid(), signal.SIGUSR1)

    def check() -> None:
        same(select.select([descriptor], [], [], 20)[0], [descriptor], "signal that waits")
        same(struct.unpack_from("I", os.read(descriptor, 128))[0], signal.SIGUSR1, "signal")
        child = os.fork()
        if child == 0:
            os._exit(0)
        told = os.read(descriptor, 128)
        same(struct.unpack_from("I", told)[0], signal.SIGCHLD, "signal of a child's end")
        os.waitpid(child, 0)
        os.kill(os.getpid(), signal.SIGUSR1)

    return check


def databases() -> Check:
    """SQLite with an open transaction, and a second connection of the same process: it must find the lock of the first.
    SQLite knows a file that it has open twice by its device and inode number, and takes POSIX locks for the process. In
    each folder of the command line, which may name more than the two."""
    held, numbers = [], []
    for folder in sys.argv[2:]:
        path = f"{folder}/rows.db"
        first = sqlite3.connect(path, isolation_level=None)
        first.execute("CREATE TABLE rows (name TEXT)")
        first.execute("BEGIN IMMEDIATE")
        first.execute("INSERT INTO rows VALUES ('first')")
        held.append((path, first))
        numbers.append((os.stat(path).st_dev, os.stat(path).st_ino))

    def check() -> object:
        for (path, first), number in zip(held, numbers, strict=True):
            same((os.stat(path).st_dev, os.stat(path).st_ino), number, f"device and inode number of {path}")
            second = sqlite3.connect(path, isolation_level=None, timeout=0)
            with contextlib.suppress(sqlite3.OperationalError):
                second.execute("INSERT INTO rows VALUES ('second')")
                expect(False, f"{path} could be written while a transaction of this process held its lock")
            if last():
                first.execute("COMMIT")
                second.execute("INSERT INTO rows VALUES ('third')")
                found = [name for (name,) in second.execute("SELECT name FROM rows")]
                same(found, ["first", "third"], f"rows of {path}")
            second.close()
        return "committed" if last() else None

    return check


def watches() -> Check:
    """inotify: folders and a file on the data folder, the root layer and /dev/shm; as `tail -f` has it."""
    watched = []
    for folder in (*places(), "/dev/shm"):
        os.mkdir(f"{folder}/watched")
        open(f"{folder}/tailed", "w").close()
        descriptor = libc.inotify_init1(os.O_NONBLOCK)
        wanted = {
            call("inotify_add_watch", descriptor, f"{folder}/watched".encode(), 0x100): "watched",
            call("inotify_add_watch", descriptor, f"{folder}/tailed".encode(), 0x2): "tailed",
        }
        watched.append((folder, descriptor, wanted))

    def check() -> None:
        for folder, descriptor, wanted in watched:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 65536)
            open(f"{folder}/watched/new", "w").close()
            os.unlink(f"{folder}/watched/new")
            with open(f"{folder}/tailed", "a") as tailed:
                tailed.write("x")
            found: set[str] = set()
            while len(found) < 2:
                expect(select.select([descriptor], [], [], 20)[0], f"events of {folder}: only {found}")
                data, at = os.read(descriptor, 65536), 0
                while at < len(data):
                    number, _, _, size = struct.unpack_from("iIII", data, at)
                    found.add(wanted[number])
                    at += 16 + size

    return check


if __name__ == "__main__":
    main(globals())
