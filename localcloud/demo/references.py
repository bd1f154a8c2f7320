"""The uninterrupted runs: the same programs as plain processes, and the comparison of what both left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localcloud.demo.inputs import environment
from localcloud.demo.jobs import DemoJob, Places
from perdure.domain.errors import StackError

TOKEN = re.compile(rb"^\[([0-9a-f]{16})\]", re.MULTILINE)
LIMIT_SECONDS = 900.0
CHUNK = 1 << 20


@dataclass(frozen=True)
class Evidence:
    """What a run left behind: its output as a log reader gets it, and its files in the order of `DemoJob.outputs`."""

    stdout: bytes
    stderr: bytes
    files: list[Path]


def tokens(stdout: bytes) -> frozenset[str]:
    """The tokens that stand in the lines; one means that one process wrote them all."""
    return frozenset(found.decode() for found in TOKEN.findall(stdout))


def run_reference(job: DemoJob, inputs: Path, folder: Path, stop: threading.Event) -> Evidence:
    """Run the job's program to its end, at the lowest priority. StackError when it fails, or when `stop` is set."""
    folder.mkdir(parents=True)
    board = Path(f"/dev/shm/perdure-demo-{os.getpid()}-{job.name}")
    places = Places(inputs=inputs, volume=folder, root_files=folder, board=board)
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            ["nice", "-n", "19", *job.command(places)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(),
            cwd=folder,
            start_new_session=True,
        )
        try:
            status = _wait(process, stop)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            board.unlink(missing_ok=True)
    if status != 0:
        words = err.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise StackError(f"the uninterrupted run of {job.name} ended with status {status}: {words[0]}; try again")
    return Evidence(out.read_bytes(), err.read_bytes(), [Path(path) for path in job.outputs(places)])


def _wait(process: subprocess.Popen[bytes], stop: threading.Event) -> int:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    raise StackError("the uninterrupted run was stopped" if stop.is_set() else "the uninterrupted run takes too long")


def differences(name: str, job: Evidence, reference: Evidence) -> list[str]:
    """A sentence for each output of the job that is not byte for byte the reference's.

    Two things may differ: the random token, and SAM's @PG line, which holds the command line and so its paths.
    """
    found: list[str] = []
    streams = (("stdout", job.stdout, reference.stdout), ("stderr", job.stderr, reference.stderr))
    for stream, said, expected in streams:
        line = first_difference(without_token(said), without_token(expected))
        if line is not None:
            found.append(f"{stream} of {name} differs from the uninterrupted run's in line {line}")
    for ours, theirs in zip(job.files, reference.files, strict=True):
        if not same_file(ours, theirs):
            found.append(f"{theirs.name} of {name} differs from the uninterrupted run's")
    return found


def without_token(stdout: bytes) -> bytes:
    """Every token that starts a line replaced by one word."""
    return TOKEN.sub(b"[token]", stdout)


def first_difference(ours: bytes, theirs: bytes) -> int | None:
    """Number of the first line that differs, from 1; None when all are equal."""
    if ours == theirs:
        return None
    mine, other = ours.split(b"\n"), theirs.split(b"\n")
    pairs = enumerate(zip(mine, other, strict=False), start=1)
    return next((number for number, (a, b) in pairs if a != b), min(len(mine), len(other)) + 1)


def same_file(ours: Path, theirs: Path) -> bool:
    """Equal bytes, but for the @PG lines in the header of a SAM file."""
    try:
        with ours.open("rb") as mine, theirs.open("rb") as other:
            if theirs.suffix == ".sam" and _sam_header(mine) != _sam_header(other):
                return False
            while chunk := other.read(CHUNK):
                if mine.read(len(chunk)) != chunk:
                    return False
            return not mine.read(1)
    except FileNotFoundError:
        return False


def _sam_header(file: BinaryIO) -> list[bytes]:
    """The header lines but @PG; leaves `file` at the first record."""
    header: list[bytes] = []
    while (line := file.readline()).startswith(b"@"):
        if not line.startswith(b"@PG\t"):
            header.append(line)
    file.seek(-len(line), os.SEEK_CUR)
    return header
