"""A job whose output depends on every page of its memory: stale pages after a restore change what it prints.

pages.py MEBIBYTES ROUNDS PAGES_A_ROUND [GATE [MORE_MEBIBYTES]]

With GATE, a file, it waits before each round until that file holds at least the round's number. At the end it takes
MORE_MEBIBYTES of memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import time

PAGE = 4096


def allowed(gate: str) -> int:
    try:
        with open(gate) as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


def main(mebibytes: int, rounds: int, touched: int, gate: str = "", more: int = 0) -> None:
    count = (mebibytes << 20) // PAGE
    memory = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(count):
        memory[page * PAGE : page * PAGE + 8] = page.to_bytes(8, "big")
    digest, place = b"start", 1
    print("ready", os.getuid(), os.getgid(), sorted(os.getgroups()), flush=True)
    for number in range(1, rounds + 1):
        while gate and allowed(gate) < number:
            time.sleep(0.05)
        for _ in range(touched):
            place = (place * 1103515245 + 12345) % (1 << 31)
            at = (place >> 8) % count * PAGE
            digest = hashlib.sha256(memory[at : at + 64] + digest).digest()
            memory[at : at + 32] = digest
        print(number, digest.hex(), flush=True)
    print("end", hashlib.sha256(memory).hexdigest(), flush=True)
    bytearray(b"x" * (more << 20))


if __name__ == "__main__":
    words = sys.argv[1:]
    main(int(words[0]), int(words[1]), int(words[2]), "".join(words[3:4]), int("".join(words[4:5]) or 0))
