"""A job that would notice any mix of two instants: several processes, threads and stores in one hash chain.

    chain.py ROUNDS MEBIBYTES PAUSE_SECONDS DATA_FOLDER ROOT_LAYER_FOLDER [alone]

With `alone` the children do not share the memory: they are born before it.

Each round passes the digest through live memory, a child over pipes, a child over loopback TCP, a thread, shared
memory, a log that is only appended to, an unlinked file, and two SQLite databases (write-ahead on the data folder,
rollback journal on the root layer). What it prints depends on ROUNDS and MEBIBYTES only. It pauses after each round
until SIGTERM, and does not begin the last one before: whoever looks at it has all the time that it takes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import queue
import signal
import socket
import sqlite3
import sys
import threading
import time
from typing import IO


def digest_of(*parts: bytes) -> bytes:
    return hashlib.sha256(b"|".join(parts)).hexdigest().encode()


def pipe_child(reader: IO[bytes], writer: IO[bytes]) -> None:
    state = b"pipe"
    for line in reader:
        state = digest_of(state, line.strip())
        writer.write(state + b"\n")
        writer.flush()


def start_pipe_child() -> tuple[IO[bytes], IO[bytes]]:
    down, up = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(down[1])
        os.close(up[0])
        pipe_child(os.fdopen(down[0], "rb"), os.fdopen(up[1], "wb"))
        os._exit(0)
    os.close(down[0])
    os.close(up[1])
    return os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")


def start_tcp_child() -> tuple[IO[bytes], IO[bytes]]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if os.fork() == 0:
        listener.close()
        peer = socket.create_connection(("127.0.0.1", port))
        pipe_child(peer.makefile("rb"), peer.makefile("wb"))
        os._exit(0)
    connection, _ = listener.accept()
    return connection.makefile("wb"), connection.makefile("rb")


def start_thread() -> tuple[queue.Queue[bytes], queue.Queue[bytes]]:
    asked: queue.Queue[bytes] = queue.Queue()
    answered: queue.Queue[bytes] = queue.Queue()

    def work() -> None:
        state = b"thread"
        while True:
            state = digest_of(state, asked.get())
            answered.put(state)

    threading.Thread(target=work, daemon=True).start()
    return asked, answered


def database(path: str, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"pragma journal_mode={mode}")
    connection.execute("create table chain (round integer primary key, digest text)")
    return connection


def through(stream_out: IO[bytes], stream_in: IO[bytes], digest: bytes) -> bytes:
    stream_out.write(digest + b"\n")
    stream_out.flush()
    return stream_in.readline().strip()


def main(rounds: int, mebibytes: int, pause: float, data: str, root: str, alone: str = "") -> None:
    hurry = [pause == 0]
    signal.signal(signal.SIGTERM, lambda *_: hurry.append(True))
    memory = bytearray(bytes(range(256)) * (0 if alone else mebibytes * 4096))
    shared = open(f"/dev/shm/chain-{os.getpid()}", "w+b")  # noqa: SIM115
    shared.truncate(1 << 20)
    window = mmap.mmap(shared.fileno(), 1 << 20)
    unlinked = open(f"{root}/chain.gone", "w+b")  # noqa: SIM115
    os.unlink(f"{root}/chain.gone")
    to_pipe, from_pipe = start_pipe_child()
    to_tcp, from_tcp = start_tcp_child()
    asked, answered = start_thread()
    memory = memory or bytearray(bytes(range(256)) * (mebibytes * 4096))
    log = open(f"{root}/chain.log", "ab", buffering=0)  # noqa: SIM115
    wal, journal = database(f"{data}/chain-wal.db", "wal"), database(f"{root}/chain.db", "delete")
    digest = b"start"
    for number in range(1, rounds + 1):
        while number == rounds and not hurry[-1]:
            time.sleep(pause)
        at = (number * 65537) % (len(memory) - 64)
        memory[at : at + 64] = digest_of(bytes(memory[at : at + 64]), digest)
        digest = digest_of(bytes(memory[at : at + 64]), digest)
        digest = through(to_pipe, from_pipe, digest)
        digest = through(to_tcp, from_tcp, digest)
        asked.put(digest)
        digest = answered.get()
        place = (number * 64) % (1 << 20)
        window[place : place + 64] = digest
        unlinked.write(digest)
        unlinked.flush()
        log.write(b"%d %s\n" % (number, digest))
        for store in (wal, journal):
            store.execute("insert into chain values (?, ?)", (number, digest.decode()))
        print(number, digest.decode(), flush=True)
        if number % 10 == 0:
            print("tenth", number, digest[:16].decode(), file=sys.stderr, flush=True)
        if not hurry[-1]:
            time.sleep(pause)
    os.unlink(shared.name)
    unlinked.seek(0)
    rows = [repr(store.execute("select * from chain order by round").fetchall()).encode() for store in (wal, journal)]
    ok = [store.execute("pragma integrity_check").fetchone()[0] for store in (wal, journal)]
    print("end", ok, digest_of(bytes(memory), bytes(window), unlinked.read(), *rows).decode(), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
