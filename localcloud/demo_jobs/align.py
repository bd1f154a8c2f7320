"""Demo job: `bowtie2 -p 2 --reorder` on copies of the lambda-phage reads; prints how many records the SAM file has.

Standard library only. The first line names a random token that this process makes at its start and keeps in memory
alone; it stands in every later line. One token in a whole log means one process, never started anew.

The reads go to bowtie2 through a pipe, a piece at a time, with a rest after each: the job lasts as long as the demo
needs, whatever the machine, and leaves it time for other work. Lines depend on the input alone, the token and bowtie2's
own time stamps aside: progress is said once per `--piece` records, however often the file was looked at.
"""

from __future__ import annotations

import argparse
import gzip
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

LOOK_SECONDS = 0.25
"""Between two looks at the file; the progress lines do not depend on it."""
LINES_OF_A_READ = 4
CHUNK = 1 << 20


class Records:
    """Counts the records of a SAM file that grows. Its header lines are none."""

    def __init__(self, sam: Path) -> None:
        self._sam, self._read, self._count = sam, 0, 0
        self._line = b""

    def count(self) -> int:
        """How many whole ones there are by now."""
        try:
            with self._sam.open("rb") as file:
                file.seek(self._read)
                while data := file.read(CHUNK):
                    self._read += len(data)
                    *whole, self._line = (self._line + data).split(b"\n")
                    self._count += sum(not line.startswith(b"@") for line in whole)
        except FileNotFoundError:
            pass
        return self._count


def pieces(reads: Path, piece: int) -> list[bytes]:
    """The reads (FASTQ, gzipped), so many at a time."""
    with gzip.open(reads, "rb") as file:
        lines = file.readlines()
    size = piece * LINES_OF_A_READ
    return [b"".join(lines[start : start + size]) for start in range(0, len(lines), size)]


def feed(bowtie2: BinaryIO, given: list[bytes], pause: float, gates: list[Path]) -> None:
    """Give it all pieces, in as many legs as there are gates: the last piece of each leg waits until its gate, a file,
    exists. Once the last gate does, there is no rest."""
    last_of = {len(given) * leg // len(gates): gate for leg, gate in enumerate(gates, start=1)}
    try:
        for number, piece in enumerate(given, start=1):
            while number in last_of and not last_of[number].exists():
                time.sleep(LOOK_SECONDS)
            bowtie2.write(piece)
            bowtie2.flush()
            if not gates or not gates[-1].exists():
                time.sleep(pause)
        bowtie2.close()
    except BrokenPipeError:
        pass  # it has ended, and its status says why


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, help="bowtie2 index")
    parser.add_argument("--reads", required=True, type=Path, help="FASTQ file, gzipped")
    parser.add_argument("--copies", type=int, default=1, help="how often bowtie2 gets them")
    parser.add_argument("--piece", type=int, default=300, help="reads that it gets at a time")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of rest after each piece")
    parser.add_argument("--gate", type=Path, action="append", default=[], help="see feed(); may be repeated")
    parser.add_argument("--sam", required=True, type=Path, help="output")
    parsed = parser.parse_args()
    token = secrets.token_hex(8)
    print(f"[{token}] started", flush=True)
    given = pieces(parsed.reads, parsed.piece) * parsed.copies
    expected = sum(piece.count(b"\n") for piece in given) // LINES_OF_A_READ
    command = ["bowtie2", "-p", "2", "--reorder", "-x", parsed.index, "-U", "-", "-S", str(parsed.sam)]
    bowtie2 = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert bowtie2.stdin is not None
    threading.Thread(target=feed, args=(bowtie2.stdin, given, parsed.pause, parsed.gate), daemon=True).start()
    records, said = Records(parsed.sam), 0
    while True:
        try:
            status = bowtie2.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        reached = records.count() // parsed.piece
        for step in range(said + 1, reached + 1):
            print(f"[{token}] progress {step * parsed.piece}/{expected}", flush=True)
        said = reached
        if status is not None:
            print(f"[{token}] bowtie2 ended with status {status}", flush=True)
            return status


if __name__ == "__main__":
    sys.exit(main())
