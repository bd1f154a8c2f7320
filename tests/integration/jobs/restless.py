"""A job that a predump never finds at rest: restless.py ROUNDS MEBIBYTES

Each round maps and unmaps memory, lets a child of a fork change its copy and memory that both share, and runs another
program, beside a hash chain over memory that is rewritten. What it prints depends on ROUNDS and MEBIBYTES only. With 0
ROUNDS it goes on until SIGTERM, a little slower.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import signal
import sys
import time


def child(memory: mmap.mmap, shared: mmap.mmap, digest: bytes) -> bytes:
    """What a forked copy makes of the memory."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        memory[: 1 << 20] = digest * (2**20 // len(digest))
        at = digest[0] * 4096
        shared[at : at + 4096] = digest * (4096 // len(digest))
        os.write(writer, hashlib.sha256(memory[: 1 << 20]).digest())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 64)
    os.close(reader)
    os.wait()
    return said


def program(digest: bytes) -> None:
    if os.fork() == 0:
        os.execv("/bin/true", ["true", digest.hex()])
    os.wait()


def main(rounds: int, mebibytes: int) -> None:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    memory = mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    shared = mmap.mmap(-1, 8 << 20)
    digest = hashlib.sha256(b"start").digest()
    for place in range(0, len(memory), 4096):
        memory[place : place + 8] = place.to_bytes(8, "big")
    for number in range(1, rounds + 1) if rounds else itertools.count(1):
        if asked:
            break
        passing = mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        passing[:] = digest * (len(passing) // len(digest))
        at = number * 7919 * 4096 % (len(memory) - (1 << 20))
        memory[at : at + (1 << 18)] = passing[: 1 << 18]
        digest = hashlib.sha256(child(memory, shared, digest) + memory[at : at + (1 << 19)]).digest()
        program(digest)
        passing.close()
        print(number, digest.hex(), flush=True)
        time.sleep(0 if rounds else 0.1)
    print("end", hashlib.sha256(memory[:] + shared[:]).hexdigest(), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
