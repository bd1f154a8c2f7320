"""One thing that a checkpoint refuses (`refused.py NAME`), made by the job itself; then it counts."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
GETTID, TIMER_CREATE, CLONE, EXIT = 186, 222, 56, 60
CLONE_FS, CLONE_VM, CLONE_SIGHAND = 0x200, 0x100, 0x800


def another_thread() -> int:
    thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


def thread_file() -> object:
    return open(f"/proc/self/task/{another_thread()}/stat")


def thread_folder() -> object:
    return os.open(f"/proc/self/task/{another_thread()}", os.O_PATH)


def thread_cwd() -> object:
    os.chdir(f"/proc/self/task/{another_thread()}")
    return None


def own_thread_file() -> object:
    return open(f"/proc/self/task/{os.getpid()}/stat")


def _timer(tid: int) -> object:
    number = ctypes.c_int()
    event = struct.pack("Qiii", 0, signal.SIGALRM, 4, tid) + bytes(44)  # SIGEV_THREAD_ID
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert libc.syscall(TIMER_CREATE, time.CLOCK_MONOTONIC, event, ctypes.byref(number)) == 0
    return number


def timer_of_the_first_thread() -> object:
    return _timer(os.getpid())


def timer_of_another_thread() -> object:
    return _timer(another_thread())


def timer_of_an_ended_thread() -> object:
    made, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: [made.set(), go.wait()])  # type: ignore[func-returns-value]
    thread.start()
    made.wait()
    timer = _timer(thread.native_id or 0)
    go.set()
    thread.join()
    return timer


def program_in_memory() -> object:
    if os.readlink("/proc/self/exe").startswith("/memfd:"):
        return None
    program = os.memfd_create("program")
    with open("/bin/busybox" if os.path.exists("/bin/busybox") else "/bin/sh", "rb") as file:
        os.write(program, file.read())
    os.execv(f"/proc/self/fd/{program}", ["sh", "-c", "while true; do echo tick; sleep .05; done"])


def lost_session() -> object:
    """A grandchild in a session whose leader is gone, taken in by a process of another session."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        leader = os.fork()
        if leader == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(3600)
            os._exit(0)
        os.waitpid(leader, 0)
        os.write(say, b"x")
        time.sleep(3600)
    os.read(ready, 1)
    return pid


def shared_folder() -> object:
    pid = libc.syscall(CLONE, CLONE_FS | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        libc.pause()
    return pid


def foreign_epoll() -> object:
    poll = select.epoll()
    ready, say = os.pipe()
    if os.fork() == 0:
        left, _other = socket.socketpair()
        poll.register(left.fileno(), select.EPOLLIN)
        os.write(say, b"x")
        time.sleep(3600)
    os.read(ready, 1)
    return poll


def own_epoll() -> object:
    poll = select.epoll()
    left, right = socket.socketpair()
    poll.register(left.fileno(), select.EPOLLIN)
    copy = os.dup(left.fileno())
    left.close()
    if os.fork() == 0:
        os.close(copy)
        right.close()
        time.sleep(3600)
    return poll, copy, right


def ended_first_thread() -> object:
    threading.Thread(target=count, daemon=True).start()
    time.sleep(0.2)
    return libc.syscall(EXIT, 0)


def _unlinked(name: str) -> object:
    """A file that was opened by that name, which is gone; it has another."""
    kept = os.open(f"/data/{name}", os.O_WRONLY | os.O_CREAT)
    os.link(f"/data/{name}", "/data/other")
    os.unlink(f"/data/{name}")
    return kept


def long_name() -> object:
    return _unlinked("n" * 255)


def taken_name() -> object:
    open("/data/file (deleted)", "w").close()
    return _unlinked("file")


def lost_name() -> object:
    return _unlinked("file")


def count() -> None:
    while True:
        print("tick", flush=True)
        time.sleep(0.05)


kept = globals()[sys.argv[1]]()
count()
