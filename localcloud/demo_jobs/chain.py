"""Demo job: a hash chain computed by several processes; every link depends on all that a checkpoint must bring back.

Standard library only, any plain python3. The cast, all forked from the clerk, which the job starts:

    clerk     asks the others in turn, appends each link to a log on the root file system and to a file on the volume
    keepers   two processes with half of the memory each; each reads a block of it into the link, over pipes, and a
              second thread of theirs fills that block anew from the link
    notary    a server on a loopback TCP connection that stays open for the whole run; counts what it has signed
    board     a file in /dev/shm, mapped by all: the keepers write there what they answer, the clerk compares

A byte that is lost, repeated or changed anywhere alters every link after it. Nothing depends on time or place. The
first line names a random token that the clerk keeps in memory alone; it stands in every later line of its output.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import queue
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

BLOCK = 1024 * 1024
LINK = hashlib.sha256().digest_size
REQUEST = struct.Struct(f">q{LINK}s")
SEAL = -1
"""The step number that asks a keeper for the checksum of its whole memory."""
BOARD_BYTES = 8 * BLOCK
LOOK_SECONDS = 0.1


class Keeper:
    """Holds `blocks` blocks of memory, in a process of its own; see `serve`."""

    def __init__(self, name: str, blocks: int, board: mmap.mmap, place: int) -> None:
        self._name, self._blocks, self._board, self._place = name, blocks, board, place
        self._work: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self._memory = bytearray()

    def serve(self, inward: int, outward: int) -> None:
        """Answer requests from the pipe until it is closed."""
        for number in range(self._blocks):
            self._memory += _filling(f"{self._name} {number}".encode())
        threading.Thread(target=self._refill, daemon=True).start()
        while request := _read(inward, REQUEST.size):
            step, link = REQUEST.unpack(request)
            self._work.join()
            answer = self._seal(link) if step == SEAL else self._answer(step, link)
            _write(outward, answer)

    def _answer(self, step: int, link: bytes) -> bytes:
        number = step % self._blocks
        start = number * BLOCK
        answer = hashlib.sha256(link + memoryview(self._memory)[start : start + BLOCK]).digest()
        slot = (step * 2 + self._place) * LINK % BOARD_BYTES
        self._board[slot : slot + LINK] = answer
        self._work.put((number, answer))
        return answer

    def _seal(self, link: bytes) -> bytes:
        return hashlib.sha256(link + self._memory).digest()

    def _refill(self) -> None:
        while True:
            number, answer = self._work.get()
            self._memory[number * BLOCK : (number + 1) * BLOCK] = _filling(answer)
            self._work.task_done()


class Notary:
    """Signs links on a loopback TCP connection; one thread per connection."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def serve(self) -> None:
        """Serve the one client until it closes."""
        connection, _ = self._listener.accept()
        signer = threading.Thread(target=self._sign, args=(connection,))
        signer.start()
        signer.join()

    def _sign(self, connection: socket.socket) -> None:
        signed = 0
        with connection:
            while link := _read(connection.fileno(), LINK):
                signed += 1
                connection.sendall(hashlib.sha256(link + struct.pack(">q", signed)).digest())


def _filling(seed: bytes) -> bytes:
    return hashlib.shake_128(seed).digest(BLOCK)


def _read(descriptor: int, size: int) -> bytes:
    """Exactly `size` bytes, or none at the end of the stream."""
    data = b""
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            if data:
                sys.exit("a message was cut short")
            return b""
        data += piece
    return data


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _fork(serve: Callable[[], None], close: list[int]) -> int:
    """A child that closes the clerk's ends, serves and exits."""
    child = os.fork()
    if child:
        return child
    for descriptor in close:
        os.close(descriptor)
    _serve_and_leave(serve)


def _serve_and_leave(serve: Callable[[], None]) -> NoReturn:
    try:
        serve()
    except BaseException as problem:
        sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
        os._exit(1)
    os._exit(0)


class Clerk:
    """Starts the others and asks them in turn."""

    def __init__(self, memory_mib: int, board: Path) -> None:
        self._board_file = board
        with board.open("wb+") as shared:
            shared.truncate(BOARD_BYTES)
            self._board = mmap.mmap(shared.fileno(), BOARD_BYTES)
        self._ends: list[tuple[int, int]] = []
        self._children: list[int] = []
        for place in range(2):
            self._start_keeper(place, memory_mib // 2)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            mine = [descriptor for pair in self._ends for descriptor in pair]
            self._children.append(_fork(Notary(listener).serve, mine))
            self._notary = socket.create_connection(listener.getsockname())

    def _start_keeper(self, place: int, blocks: int) -> None:
        inward, asking = os.pipe()
        answering, outward = os.pipe()
        keeper = Keeper(f"keeper {place}", blocks, self._board, place)
        mine = [asking, answering, *(descriptor for pair in self._ends for descriptor in pair)]
        self._children.append(_fork(lambda: keeper.serve(inward, outward), mine))
        os.close(inward)
        os.close(outward)
        self._ends.append((asking, answering))

    def next_link(self, step: int, link: bytes) -> bytes:
        """One round: both keepers, then the notary. SystemExit when the board disagrees."""
        for place, (asking, answering) in enumerate(self._ends):
            _write(asking, REQUEST.pack(step, link))
            link = _read(answering, LINK)
            slot = (step * 2 + place) * LINK % BOARD_BYTES
            if not link or self._board[slot : slot + LINK] != link:
                sys.exit(f"keeper {place} and the board in /dev/shm disagree at step {step}")
        self._notary.sendall(link)
        return _read(self._notary.fileno(), LINK)

    def seal(self, link: bytes) -> bytes:
        """The chain's last link: over the whole memory and the board as its file reads. Ends the other processes."""
        for asking, answering in self._ends:
            _write(asking, REQUEST.pack(SEAL, link))
            link = _read(answering, LINK)
        link = hashlib.sha256(link + self._board_file.read_bytes()).digest()
        self._board_file.unlink()
        for asking, answering in self._ends:
            os.close(asking)
            os.close(answering)
        self._notary.close()
        for child in self._children:
            _, status = os.waitpid(child, 0)
            if status != 0:
                sys.exit(f"a process of the chain ended with status {os.waitstatus_to_exitcode(status)}")
        return link


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, help="append-only log, on the root file system")
    parser.add_argument("--out", required=True, help="every link as 32 bytes, on the volume")
    parser.add_argument("--board", type=Path, default=Path("/dev/shm/perdure-demo-chain"), help="shared memory file")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds of rest per step")
    parser.add_argument("--gate", type=Path, action="append", default=[], help="a file; may be repeated, see below")
    parser.add_argument("--memory-mib", type=int, default=256)
    parsed = parser.parse_args()
    token = secrets.token_hex(8)
    print(f"[{token}] started", flush=True)
    clerk = Clerk(parsed.memory_mib, parsed.board)
    log = os.open(parsed.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    link = hashlib.sha256(b"perdure demo").digest()
    # As many legs as there are gates: the last step of each waits for its gate. Once the last one exists, no rest.
    last_of = {parsed.steps * leg // len(parsed.gate): gate for leg, gate in enumerate(parsed.gate, start=1)}
    with open(parsed.out, "wb") as out:
        for step in range(1, parsed.steps + 1):
            while step in last_of and not last_of[step].exists():
                time.sleep(LOOK_SECONDS)
            link = clerk.next_link(step, link)
            _write(log, f"{step} {link.hex()}\n".encode())
            out.write(link)
            if step % 5 == 0:
                out.flush()
                print(f"[{token}] progress {step}/{parsed.steps} {link.hex()[:16]}", flush=True)
            if not parsed.gate or not parsed.gate[-1].exists():
                time.sleep(parsed.pause)
        link = clerk.seal(link)
        out.write(link)
    print(f"[{token}] sealed {link.hex()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
