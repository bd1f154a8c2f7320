"""Rows after what people reported in public of CRIU and of those who use it: identity of processes, files of /proc,
timers of threads, epoll sets that are shared, names that are gone, programs without a file, odd trees."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from row import Check, call, expect, go, last, libc, main, places, same  # type: ignore[import-not-found]

SIGEV_THREAD_ID = 4


def start_times() -> Check:
    """A process is known by its id and its start time (psutil, supervisors): field 22 of its stat file."""
    child = subprocess.Popen(["sleep", "100000"])

    def started() -> list[str]:
        found = []
        for pid in (os.getpid(), child.pid):
            with open(f"/proc/{pid}/stat") as file:
                found.append(file.read().rpartition(")")[2].split()[19])
        return found

    first = started()

    def check() -> str:
        same(started(), first, "start times")
        if last():
            child.kill()
        return "the same"

    return check


def cpu_times() -> Check:
    """CPU clocks of the process, of a thread and of ended children, which never go back."""
    sum(range(3_000_000))
    subprocess.run(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True)

    def clocks() -> dict[str, float]:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "process": time.process_time(),
            "thread": time.thread_time(),
            "own usage": own.ru_utime,
            "children's usage": children.ru_utime,
        }

    before = clocks()

    def check() -> str:
        nonlocal before
        now = clocks()
        back = [name for name, value in now.items() if value < before[name]]
        expect(not back, f"clocks went back: {back}")
        before = now
        return "never back"

    return check


def _proc_files(paths: dict[str, str], ids: dict[str, int]) -> Check:
    files = {name: os.open(path, os.O_RDONLY) for name, path in paths.items()}

    def check() -> str:
        for name, descriptor in files.items():
            text = os.pread(descriptor, 4096, 0).decode()
            expect(text, f"{name} is empty")
            if name in ids:
                same(int(text.split()[0]), ids[name], f"whose file {name} is")
        return " ".join(files)

    return check


def proc_files() -> Check:
    """Files of /proc stay open: of the process itself, of a child, of the machine."""
    child = subprocess.Popen(["sleep", "100000"])
    paths = {
        "self": "/proc/self/stat",
        "child": f"/proc/{child.pid}/stat",
        "meminfo": "/proc/meminfo",
        "cgroup": "/proc/self/cgroup",
        "mounts": "/proc/self/mountinfo",
    }
    look = _proc_files(paths, {"self": os.getpid(), "child": child.pid})

    def check() -> object:
        found = look()
        if last():
            child.kill()
        return found

    return check


def proc_thread() -> Check:
    """A file of /proc that belongs to a thread stays open."""
    thread = _thread(lambda: time.sleep(100000))
    return _proc_files({"thread": f"/proc/self/task/{thread}/stat"}, {"thread": thread})


def _thread(work: Callable[[], object]) -> int:
    """The id of a new thread that does it."""
    ready, ids = threading.Event(), []

    def run() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        work()

    threading.Thread(target=run, daemon=True).start()
    ready.wait()
    return ids[0]


def first_thread_ends() -> None:
    """The first thread ends; another one goes on, and ends the process."""

    def work() -> None:
        go(lambda: "a thread alone")
        os._exit(0)

    threading.Thread(target=work).start()
    libc.syscall(60, 0)  # exit, of this thread alone


def _thread_timer(target: int) -> ctypes.c_void_p:
    """A timer that signals SIGRTMIN to that thread, ten times a second."""
    event = struct.pack("QiiI44x", 0, signal.SIGRTMIN, SIGEV_THREAD_ID, target)
    made = ctypes.c_void_p()
    call("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(made))
    call("timer_settime", made, 0, struct.pack("4q", 0, 100_000_000, 0, 100_000_000), None)
    return made


def _ticks(target: int) -> Check:
    counts = [0]
    signal.signal(signal.SIGRTMIN, lambda number, frame: counts.__setitem__(0, counts[0] + 1))
    timer = _thread_timer(target)

    def check() -> str:
        before, end = counts[0], time.monotonic() + 20
        while counts[0] == before:
            expect(time.monotonic() < end, "the timer stands still")
            time.sleep(0.01)
        call("timer_gettime", timer, ctypes.create_string_buffer(32))
        return "ticks"

    return check


def timer_of_thread() -> Check:
    """A POSIX timer that signals another thread than the first."""
    return _ticks(_thread(lambda: signal.sigwait([])))


def timer_of_first_thread() -> Check:
    """A POSIX timer that signals the first thread by its id."""
    return _ticks(os.getpid())


def timer_of_ended_thread() -> Check:
    """A POSIX timer whose thread has ended: the kernel keeps it, silent."""
    signal.signal(signal.SIGRTMIN, lambda number, frame: expect(False, "a signal for a thread that is gone"))
    gate = threading.Event()
    thread = _thread(gate.wait)
    timer = _thread_timer(thread)
    call("timer_settime", timer, 0, struct.pack("4q", 0, 100_000_000, 3600, 0), None)
    gate.set()
    while os.path.exists(f"/proc/self/task/{thread}"):
        time.sleep(0.01)
    call("timer_settime", timer, 0, struct.pack("4q", 0, 100_000_000, 0, 100_000_000), None)

    def check() -> str:
        call("timer_gettime", timer, ctypes.create_string_buffer(32))
        return "silent"

    return check


def epoll_copy() -> Check:
    """An epoll set holds a descriptor whose number was closed while a copy of it lives."""
    poll = select.epoll()
    kept, other = socket.socketpair()
    poll.register(kept.fileno(), select.EPOLLIN)
    number, copy = kept.fileno(), os.dup(kept.fileno())
    kept.close()
    return _polled(poll, number, lambda: other.send(b"x"), lambda: os.read(copy, 1))


def epoll_of_parent() -> Check:
    """A child has the epoll set, but not the socket in it."""
    poll = select.epoll()
    kept, other = socket.socketpair()
    poll.register(kept.fileno(), select.EPOLLIN)
    child = os.fork()
    if child == 0:
        kept.close()
        other.close()
        time.sleep(100000)
        os._exit(0)
    look = _polled(poll, kept.fileno(), lambda: other.send(b"x"), lambda: kept.recv(1))

    def check() -> object:
        found = look()
        if last():
            os.kill(child, signal.SIGKILL)
        return found

    return check


def epoll_of_child() -> Check:
    """A child puts a socket that it alone has into the epoll set of its parent."""
    poll = select.epoll()
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        kept, other = socket.socketpair()
        poll.register(kept.fileno(), select.EPOLLIN)
        os.write(answer[1], b"%d" % kept.fileno())
        while word := os.read(ask[0], 1):
            os.write(answer[1], b"%d" % (other.send(b"x") if word == b"w" else len(kept.recv(1))))
        os._exit(0)
    os.close(ask[0])
    number = int(os.read(answer[0], 10))

    def have(word: bytes) -> None:
        os.write(ask[1], word)
        os.read(answer[0], 1)

    return _polled(poll, number, lambda: have(b"w"), lambda: have(b"r"))


def _polled(poll: select.epoll, number: int, write: Callable[[], object], read: Callable[[], object]) -> Check:
    def check() -> str:
        same(poll.poll(0), [], "events of a quiet socket")
        write()
        same(poll.poll(20), [(number, select.EPOLLIN)], "events of a socket with a byte")
        read()
        return "seen"

    return check


def _renamed(name: str, prepare: Callable[[str], Check]) -> Check:
    """An open file that lost the name it was opened by, and has another one."""
    stage = f"{places()[1]}/stage"
    os.mkdir(stage)
    old, new = f"{stage}/{name}", f"{places()[1]}/kept"
    descriptor = os.open(old, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(4096))
    os.link(old, new)
    os.unlink(old)
    also = prepare(old)

    def check() -> str:
        os.write(descriptor, b"x")
        here, there = os.fstat(descriptor), os.stat(new)
        same((here.st_ino, here.st_size), (there.st_ino, there.st_size), "the file and its other name")
        same(there.st_nlink, 1, "names of the file")
        also()
        return "one file"

    return check


def name_gone() -> Check:
    """The old name only is gone."""
    return _renamed("part", lambda old: lambda: same(os.listdir(os.path.dirname(old)), [], "files of the stage"))


def name_folder_gone() -> Check:
    """The folder of the old name is gone too."""

    def prepare(old: str) -> Check:
        os.rmdir(os.path.dirname(old))
        return lambda: expect(not os.path.exists(os.path.dirname(old)), "the folder is back")

    return _renamed("part", prepare)


def name_long() -> Check:
    """The old name is as long as names can be."""
    return _renamed("n" * 255, lambda old: lambda: same(os.listdir(os.path.dirname(old)), [], "files of the stage"))


def name_taken() -> Check:
    """Another file has the old name now, and one is called as the kernel calls deleted ones."""

    def prepare(old: str) -> Check:
        descriptor = os.open(old, os.O_RDWR | os.O_CREAT)
        with open(f"{old} (deleted)", "w") as file:
            file.write("mine")

        def check() -> None:
            os.write(descriptor, b"y")
            same(os.fstat(descriptor).st_ino, os.stat(old).st_ino, "the file that has the old name")
            with open(f"{old} (deleted)") as file:
                same(file.read(), "mine", "the file with the odd name")

        return check

    return _renamed("part", prepare)


def name_mapped() -> Check:
    """Only a mapping of the file is left, and its other name."""
    old, new = f"{places()[1]}/part", f"{places()[1]}/kept"
    with open(old, "w+b") as file:
        file.write(bytes(65536))
        file.flush()
        view = mmap.mmap(file.fileno(), 65536)
    os.link(old, new)
    os.unlink(old)
    count = 0

    def check() -> str:
        nonlocal count
        count += 1
        view[count % 65536] = 65 + count % 26
        with open(new, "rb") as file:
            file.seek(count % 65536)
            same(file.read(1), bytes([65 + count % 26]), "what was written to the mapping")
        return "one file"

    return check


def _program(place: int, also: Callable[[], None]) -> Check:
    """A child runs from `place`, a descriptor of a copy of `sleep`, and can be read and started again from it."""
    source = shutil.which("sleep") or "/bin/sleep"
    with open(source, "rb") as file:
        program = file.read()
    os.write(place, program)
    path = f"/proc/self/fd/{os.open(f'/proc/self/fd/{place}', os.O_RDONLY)}"
    os.close(place)
    child = subprocess.Popen(["sleep", "100000"], executable=path, close_fds=False)
    also()
    os.close(int(path.rpartition("/")[2]))
    wanted = hashlib.sha256(program).digest()

    def check() -> str:
        with open(f"/proc/{child.pid}/exe", "rb") as file:
            same(hashlib.sha256(file.read()).digest(), wanted, "the child's program")
        same(subprocess.run(["sleep", "0"], executable=f"/proc/{child.pid}/exe").returncode, 0, "its exit code")
        if last():
            child.kill()
        return "runs"

    return check


def program_in_memory() -> Check:
    """A program that runs from a memfd."""
    return _program(os.memfd_create("program", os.MFD_CLOEXEC), lambda: None)


def program_gone() -> Check:
    """A program whose file was removed."""
    path = f"{places()[1]}/program"
    place = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    return _program(place, lambda: os.unlink(path))


def program_replaced() -> Check:
    """A program whose file was replaced by another one of the same name."""
    path = f"{places()[1]}/program"
    place = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)

    def replace() -> None:
        os.unlink(path)
        with open(path, "w") as file:
            file.write("#!/bin/sh\n")

    return _program(place, replace)


NAMES = [b"new\nline", b"no\xff\xfeutf8", b" before", b"after ", b"-rf", b"tab\tq\"'\\", b"*?[a]", b"n" * 255]
NAMES += ["a\u0308o".encode(), b".wh.file", b"name (deleted)"]


def odd_tree() -> Check:
    """A tree of odd things on the root layer comes back as it was at the checkpoint, whatever was done to it since."""
    return _tree(depth=3)


def deep_tree() -> Check:
    """The same with paths of more than 4,096 bytes."""
    return _tree(depth=40)


def _tree(depth: int) -> Check:
    top = os.fsencode(f"{places()[1]}/tree")
    _plant(top, depth)
    first = list(_inventory(top))

    def check() -> str:
        _stir()
        now = list(_inventory(top))
        expect(now == first, f"the tree changed: {sorted(set(now) ^ set(first))[:2]}")
        return f"{len(first)} entries"

    return check


def _stir() -> None:
    """Changes of every kind, taken back at once: a checkpoint may fall between any two."""
    os.rename(b"old", b"older")
    os.unlink(b"two")
    os.chmod(b"setuid", 0o600)
    os.setxattr(b"attributes", b"user.more", b"1")
    os.mkdir(b"more")
    _put(b"more/\n")
    os.unlink(b"more/\n")
    os.rmdir(b"more")
    os.removexattr(b"attributes", b"user.more")
    os.chmod(b"setuid", 0o6755)
    os.link(b"one", b"two")
    os.rename(b"older", b"old")


def _put(path: bytes, data: bytes = b"x") -> None:
    with open(path, "wb") as file:
        file.write(data)


def _plant(top: bytes, depth: int) -> None:
    os.mkdir(top)
    os.chdir(top)
    for name in NAMES:
        _put(name, name)
        os.mkdir(b"d" + name[:250])
        _put(b"d" + name[:250] + b"/" + name, name * 2)
    _put(b"one", b"h" * 5000)
    os.link(b"one", b"two")
    with open(b"sparse", "wb") as file:
        file.truncate(20 << 30)
        for place in (7 << 30, 15 << 30):
            file.seek(place)
            file.write(b"island")
    _put(b"setuid")
    os.chmod(b"setuid", 0o6755)
    os.mkdir(b"sticky")
    os.chmod(b"sticky", 0o3777)
    _put(b"attributes")
    os.setxattr(b"attributes", b"user.bytes", b"\0\xff" * 50)
    _put(b"old")
    os.utime(b"old", ns=(-86400 * 10**9 * 3000 + 7, -86400 * 10**9 * 4000 + 123456789))
    os.symlink(b"gone\nwhere", b"link")
    os.mkfifo(b"fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(b"socket")
    _dig(depth)


def _dig(depth: int) -> None:
    """Folders in folders, by descriptors: no path can name the last one."""
    here = os.open(b".", os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(b"D" * 200, dir_fd=here)
        below = os.open(b"D" * 200, os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    bottom = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(bottom, b"deep down")
    os.close(bottom)
    os.close(here)


def _inventory(top: bytes) -> Iterator[str]:
    root = os.open(top, os.O_DIRECTORY)
    yield from _entries(root, b"")
    os.close(root)


def _entries(folder: int, path: bytes) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind, content, attributes = stat.S_IFMT(found.st_mode), b"", {}
        where = path + b"/" + os.fsencode(name)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            entry = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            attributes = {key: os.getxattr(entry, key) for key in os.listxattr(entry)}
            if kind == stat.S_IFDIR:
                yield from _entries(entry, where)
            else:
                content = _digest(entry)
            os.close(entry)
        elif kind == stat.S_IFLNK:
            content = os.fsencode(os.readlink(name, dir_fd=folder))
        size = found.st_size if kind == stat.S_IFREG else 0
        links = found.st_nlink if kind != stat.S_IFDIR else 0
        changed = found.st_mtime_ns if kind != stat.S_IFDIR else 0
        numbers = (found.st_ino, found.st_mode, found.st_uid, found.st_gid, size, links, changed)
        yield repr((hashlib.sha256(where).hexdigest()[:12], os.fsencode(name)[:40], numbers, attributes, content))


def _digest(descriptor: int) -> bytes:
    """Of what is written in it; holes are skipped, wherever they lie."""
    found, place = hashlib.sha256(), 0
    while True:
        try:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:
            return found.digest()[:8]
        data = os.pread(descriptor, 4096, place)
        found.update(b"%d:" % place + data.rstrip(b"\0"))
        place += len(data)


if __name__ == "__main__":
    if sys.argv[1] == "first_thread_ends":
        first_thread_ends()
    else:
        main(globals())
