"""Demo job: fills its volume once, then works in memory until it is told to stop, and reads its volume at the end.

Standard library only. Every line names a random token that this process keeps in memory alone: one token in a whole log
means one process, never started anew. The last line is a digest of what it worked out and of every sixteenth MiB of its
data, which depends on the arguments alone.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import secrets
import sys
import time
from pathlib import Path

MIB = 1 << 20
EVERY = 16
"""One MiB of so many is read at the end."""


def piece(number: int) -> bytes:
    """The data's MiB of that number."""
    return random.Random(number).randbytes(MIB)


def digest(chain: bytes, pieces: list[bytes]) -> str:
    """Of the work and the data."""
    state = hashlib.blake2b(chain, digest_size=16)
    for one in pieces:
        state.update(one)
    return state.hexdigest()


def expected(mib: int, steps: int) -> str:
    """What the last line of an undisturbed run says."""
    chain = b""
    for step in range(steps):
        chain = hashlib.blake2b(chain + step.to_bytes(8)).digest()
    return digest(chain, [piece(number) for number in range(0, mib, EVERY)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--mib", required=True, type=int)
    parser.add_argument("--steps", required=True, type=int, help="at least; then it waits to be told")
    parser.add_argument("--pause", required=True, type=float, help="seconds between steps")
    parser.add_argument("--until", required=True, type=Path, help="it ends once this file exists")
    at = parser.parse_args()
    token = secrets.token_hex(8)
    with at.data.open("wb") as file:
        for number in range(at.mib):
            file.write(piece(number))
    print(f"[{token}] filled {at.mib} MiB", flush=True)
    chain, step = b"", 0
    while step < at.steps or not at.until.exists():
        if step < at.steps:
            chain = hashlib.blake2b(chain + step.to_bytes(8)).digest()
            step += 1
            print(f"[{token}] progress {step}/{at.steps + 1}", flush=True)
        time.sleep(at.pause)
    with at.data.open("rb") as file:
        pieces = []
        for number in range(0, at.mib, EVERY):
            file.seek(number * MIB)
            pieces.append(file.read(MIB))
    print(f"[{token}] digest {digest(chain, pieces)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
