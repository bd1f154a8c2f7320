"""Ten kinds of job (`kinds.py KIND STEPS PAUSE [FINISH]`): each works in small steps, and prints what does not depend
on time. It pauses at each step until the file FINISH is there, and does not end before."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import multiprocessing
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

PLACE = "/srv"
"""Empty at the start, and on the root layer."""


def steps() -> Iterator[int]:
    for step in range(STEPS):
        if not over():
            time.sleep(PAUSE)
        yield step
        if step % 20 == 0:
            print("step", step, flush=True)
    while not over():
        time.sleep(0.05)


def over() -> bool:
    return not FINISH or os.path.exists(FINISH)


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def chain() -> object:
    """A large heap that each step changes."""
    heap, link = bytearray(32 << 20), ""
    for step in steps():
        link = digest(step, link)
        heap[int(link[:6], 16) % len(heap)] = step % 256
    return link, hashlib.sha256(heap).hexdigest()


def database() -> object:
    """SQLite: transactions that stay open over many steps, and a second connection of the same process."""
    first, second = (sqlite3.connect(f"{PLACE}/rows.db", isolation_level=None, timeout=0) for _ in range(2))
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("CREATE TABLE rows (step INTEGER PRIMARY KEY, word TEXT)")
    locked = 0
    for step in steps():
        if step % 10 == 0:
            first.execute("BEGIN IMMEDIATE")
        first.execute("INSERT INTO rows VALUES (?, ?)", (step, digest(step)))
        try:
            second.execute("BEGIN IMMEDIATE")
            second.execute("ROLLBACK")
        except sqlite3.OperationalError:
            locked += 1
        if step % 10 == 9:
            first.execute("COMMIT")
    if first.in_transaction:
        first.execute("COMMIT")
    rows = second.execute("SELECT count(*), max(word) FROM rows").fetchone()
    return locked, rows, second.execute("PRAGMA integrity_check").fetchall()


def threads() -> object:
    """Four threads that hand a number round."""
    places: list[queue.Queue[str]] = [queue.Queue() for _ in range(5)]

    def pass_on(place: int) -> None:
        while (word := places[place].get()) != "end":
            places[place + 1].put(digest(place, word))

    workers = [threading.Thread(target=pass_on, args=(place,), daemon=True) for place in range(4)]
    for worker in workers:
        worker.start()
    word = ""
    for step in steps():
        places[0].put(f"{step} {word}")
        word = places[4].get()
    return word


def pool() -> object:
    """Workers of their own, asked through pipes."""
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return digest([workers.apply(digest, (step,)) for step in steps()])


def pipeline() -> object:
    """A shell's pipeline, fed slowly."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "sort -r | gzip -n | gunzip | sha256sum"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdin and shell.stdout
        for step in steps():
            print(digest(step), file=shell.stdin, flush=True)
        shell.stdin.close()
        return shell.stdout.read().strip()


def tcp() -> object:
    """A writer much faster than its reader: the buffers are always full."""
    listener = socket.create_server(("127.0.0.1", 0))
    if (writer := os.fork()) == 0:
        with socket.create_connection(listener.getsockname()) as to:
            for number in range(STEPS):
                to.sendall(digest(number).encode() * 1024)
        os._exit(0)
    reader, _ = listener.accept()
    read = hashlib.sha256()
    for _ in steps():
        left = 65536
        while left:
            data = reader.recv(left)
            assert data, "the connection is gone"
            read.update(data)
            left -= len(data)
    return read.hexdigest(), reader.recv(1), os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])


def packets() -> object:
    """Packets of a unix socket, some of them on their way."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (child := os.fork()) == 0:
        ours.close()
        while packet := theirs.recv(4096):
            theirs.send(digest(packet).encode())
        os._exit(3)
    theirs.close()
    sent, answers = 0, []
    for step in steps():
        ours.send(b"%d" % step)
        sent += 1
        if sent > 5:
            answers.append(ours.recv(4096))
            sent -= 1
    answers += [ours.recv(4096) for _ in range(sent)]
    ours.close()
    return digest(answers), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def shared() -> object:
    """Memory that a child changes too, each under a lock; and a file in /dev/shm."""
    common = mmap.mmap(-1, 4096)
    in_memory = os.open("/dev/shm/numbers", os.O_RDWR | os.O_CREAT)
    lock = os.open(f"{PLACE}/lock", os.O_RDWR | os.O_CREAT)
    turn, answer = os.pipe(), os.pipe()

    def add(place: int) -> None:
        own = os.open(f"{PLACE}/lock", os.O_RDWR) if place else lock
        fcntl.flock(own, fcntl.LOCK_EX)
        common[place : place + 4] = (int.from_bytes(common[place : place + 4], "little") + 1).to_bytes(4, "little")
        os.pwrite(in_memory, common[:8], 0)
        fcntl.flock(own, fcntl.LOCK_UN)
        if place:
            os.close(own)

    if (child := os.fork()) == 0:
        while os.read(turn[0], 1) == b"x":
            add(4)
            os.write(answer[1], b"x")
        os._exit(0)
    for _ in steps():
        add(0)
        os.write(turn[1], b"x")
        os.read(answer[0], 1)
    os.write(turn[1], b"e")
    return common[:8].hex(), os.pread(in_memory, 8, 0).hex(), os.waitpid(child, 0)[1]


def files() -> object:
    """A log that grows, a file without a name, one that is replaced again and again, and a fifo."""
    log = os.open(f"{PLACE}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nameless = os.open(f"{PLACE}/gone", os.O_RDWR | os.O_CREAT)
    os.unlink(f"{PLACE}/gone")
    os.mkfifo(f"{PLACE}/fifo")
    fifo = os.open(f"{PLACE}/fifo", os.O_RDWR)
    for step in steps():
        os.write(log, f"{step} {digest(step)}\n".encode())
        os.write(nameless, digest(step).encode())
        with open(f"{PLACE}/new", "w") as new:
            new.write(str(step))
        os.replace(f"{PLACE}/new", f"{PLACE}/replaced")
        os.write(fifo, b"%6d" % step)
        if step >= 10:
            os.read(fifo, 6)
    with open(f"{PLACE}/log") as written, open(f"{PLACE}/replaced") as replaced:
        found = digest(written.read()), replaced.read()
    return found, digest(os.pread(nameless, 1 << 20, 0)), os.read(fifo, 600)


def signals() -> object:
    """Timers and children that end, each of them counted."""
    rung = 0

    def ring(*_: object) -> None:
        nonlocal rung
        rung += 1

    signal.signal(signal.SIGALRM, ring)
    codes = 0
    for step in steps():
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        while rung <= step:
            time.sleep(0.001)
        if step % 5 == 0:
            if (child := os.fork()) == 0:
                os._exit(step % 7)
            codes += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return rung, codes


KINDS: dict[str, Callable[[], object]] = {
    kind.__name__: kind for kind in (chain, database, threads, pool, pipeline, tcp, packets, shared, files, signals)
}

if __name__ == "__main__":
    STEPS, PAUSE = int(sys.argv[2]), float(sys.argv[3])
    FINISH = sys.argv[4] if len(sys.argv) > 4 else ""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("/dev/shm/numbers")
    print("result", KINDS[sys.argv[1]](), flush=True)
