"""A job whose memory is of one kind and changes on request: memory.py KIND MEBIBYTES SEED ORDER_FILE

KIND: text, float, sparse (85 % zero pages), fork (4 processes that share most of it after a fork), heap (grows before
everything else). ORDER_FILE: a line `NUMBER PERCENT PATTERN`; PATTERN is `pieces` (256 KiB) or `scattered` (single
pages). It prints NUMBER and a digest of what it holds once an order is carried out.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import sys
import time

PAGE = 4096
PIECE = 64
WORDS = [b"gene", b"chromosome", b"position", b"quality", b"exon", b"intron", b"reference", b"alternative", b"depth"]


def fill(kind: str, chance: random.Random, pages: int) -> mmap.mmap:
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(pages):
        if kind == "sparse" and chance.random() < 0.85:
            memory[page * PAGE] = 0
        else:
            memory[page * PAGE : (page + 1) * PAGE] = one(kind, chance)
    return memory


def one(kind: str, chance: random.Random) -> bytes:
    """A page: text that compresses well, or numbers whose exponents alone repeat."""
    if kind == "float":
        whole = bytearray(chance.randbytes(PAGE))
        whole[7::8] = b"\x3f" * (PAGE // 8)
        return bytes(whole)
    line = b" ".join(chance.choices(WORDS, k=12)) + b" %d\n" % chance.randrange(10**9)
    return (line * (PAGE // len(line) + 1))[:PAGE]


def change(kind: str, memory: mmap.mmap, chance: random.Random, percent: float, pattern: str) -> None:
    pages = len(memory) // PAGE
    if pattern == "pieces":
        pieces = pages // PIECE
        for piece in chance.sample(range(pieces), max(1, round(pieces * percent / 100))):
            for page in range(piece * PIECE, (piece + 1) * PIECE):
                memory[page * PAGE + 8 : page * PAGE + 24] = chance.randbytes(16)
    else:
        for page in chance.sample(range(pages), round(pages * percent / 100)):
            memory[page * PAGE + 8 : page * PAGE + 24] = chance.randbytes(16)


def main(kind: str, mebibytes: int, seed: int, order_file: str) -> None:
    chance = random.Random(seed)
    pages = mebibytes * 256
    share = pages // 2 if kind == "fork" else pages
    memory = fill("text" if kind in ("fork", "heap") else kind, chance, share)
    if kind == "fork":  # each child changes a part of it, and so does the parent by its orders
        for child in range(3):
            if os.fork() == 0:
                change(kind, memory, random.Random(seed + child + 1), 17, "pieces")
                time.sleep(10**6)
    grown: list[mmap.mmap] = []
    print("ready", flush=True)
    done = 0
    while True:
        try:
            with open(order_file) as file:
                number, percent, pattern = file.read().split()
        except (FileNotFoundError, ValueError):
            number, percent, pattern = "0", "0", ""
        if int(number) <= done:
            time.sleep(0.01)
            continue
        if kind == "heap":
            grown.append(fill("text", chance, round(pages * float(percent) / 100)))
        else:
            change(kind, memory, chance, float(percent), pattern)
        done = int(number)
        print(done, hashlib.sha256(memory[: 64 * PAGE]).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
