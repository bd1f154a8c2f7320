"""Demo job: `bowtie2 -p 2 --reorder` on many copies of the lambda-phage reads; prints how far the SAM file has grown.

Standard library only. The first line names a random token that this process makes at its start and keeps in memory
alone; it stands in every later line. One token in a whole log means one process, never started anew.

Lines depend on the input alone, the token and bowtie2's own time stamps aside: progress is said once per step of
`--every` bytes of records passed, however often the file was looked at.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
from pathlib import Path

LOOK_SECONDS = 0.25
"""Between two looks at the file; the progress lines do not depend on it."""


def records_bytes(sam: Path) -> int:
    """Bytes of SAM records written so far: the file's size without its header, whose @PG line holds paths."""
    try:
        size = sam.stat().st_size
        with sam.open("rb") as lines:
            header = 0
            for line in lines:
                if not line.startswith(b"@"):
                    return size - header
                header += len(line)
    except FileNotFoundError:
        pass
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True, help="bowtie2 index")
    parser.add_argument("--reads", required=True, help="FASTQ file")
    parser.add_argument("--sam", required=True, type=Path, help="output")
    parser.add_argument("--every", type=int, default=4_000_000, help="bytes of records between two progress lines")
    parser.add_argument("--expected", type=int, required=True, help="bytes of records to come, for the progress lines")
    parsed = parser.parse_args()
    token = secrets.token_hex(8)
    print(f"[{token}] started", flush=True)
    command = ["bowtie2", "-p", "2", "--reorder", "-x", parsed.index, "-U", parsed.reads, "-S", str(parsed.sam)]
    bowtie2 = subprocess.Popen(command)
    said = 0
    while True:
        try:
            status = bowtie2.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        reached = records_bytes(parsed.sam) // parsed.every
        for step in range(said + 1, reached + 1):
            print(f"[{token}] progress {step * parsed.every}/{parsed.expected}", flush=True)
        said = reached
        if status is not None:
            print(f"[{token}] bowtie2 ended with status {status}", flush=True)
            return status


if __name__ == "__main__":
    sys.exit(main())
