"""The demo's programs do the same work every time, whatever the clock does, and notice what is not as it was."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from localcloud.demo.inputs import PROGRAMS
from localcloud.demo.jobs import PYTHON
from localcloud.demo.references import tokens, without_token
from tests.patience import PATIENCE


def chain(folder: Path, *more: str, pause: float = 0.0, mebibytes: int = 4) -> tuple[bytes, bytes, bytes]:
    """Runs the chain for 20 steps; its stdout, log and file."""
    folder.mkdir()
    command = [PYTHON, "-W", "error", str(PROGRAMS / "chain.py"), "--steps", "20", "--pause", str(pause)]
    command += ["--memory-mib", str(mebibytes), "--board", str(folder / "board")]
    command += ["--log", str(folder / "log"), "--out", str(folder / "out"), *more]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    assert done.stderr == b""
    assert not (folder / "board").exists()
    return done.stdout, (folder / "log").read_bytes(), (folder / "out").read_bytes()


def test_the_chain_is_the_same_every_time_but_for_its_token(tmp_path: Path) -> None:
    once, slowly = chain(tmp_path / "a"), chain(tmp_path / "b", pause=0.01)
    assert once[1:] == slowly[1:]
    assert without_token(once[0]) == without_token(slowly[0])
    assert len(tokens(once[0])) == len(tokens(slowly[0])) == 1
    assert tokens(once[0]) != tokens(slowly[0])
    assert once[1].count(b"\n") == 20 and len(once[2]) == 21 * 32


def test_every_block_of_memory_is_in_the_chain(tmp_path: Path) -> None:
    assert chain(tmp_path / "a")[2] != chain(tmp_path / "b", mebibytes=6)[2]


def test_the_chain_does_not_rest_once_all_its_gates_are_open(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    (tmp_path / "2").touch()
    more = ("--gate", str(tmp_path / "1"), "--gate", str(tmp_path / "2"))
    assert chain(tmp_path / "a", *more, pause=100.0)[1:] == chain(tmp_path / "b")[1:]


@pytest.mark.parametrize("status", [0, 3])
def test_the_alignment_says_how_far_it_is_and_ends_as_bowtie2_does(tmp_path: Path, status: int) -> None:
    """It gives bowtie2 the reads of each leg, the last of them once a gate is open, and says progress by records."""
    one = "@read\nACGT\n+\nIIII\n"
    reads, sam = tmp_path / "reads.fq.gz", tmp_path / "sam"
    gates = [tmp_path / "gate-1", tmp_path / "gate-2"]
    reads.write_bytes(gzip.compress(one.encode() * 25))
    fake = tmp_path / "bowtie2"
    # In place of the real one, which takes seconds and is tried by the demo itself: a record for each read.
    fake.write_text(
        f"#!/bin/sh\nprintf '@HD\\n@PG\\tCL:%s\\n' \"$*\" > {sam}\n"
        f"while read -r name && read -r bases && read -r plus && read -r quality; do echo r >> {sam}; done\n"
        f"exit {status}\n"
    )
    fake.chmod(0o755)
    command = [PYTHON, "-W", "error", str(PROGRAMS / "align.py"), "--index", "i", "--reads", str(reads)]
    command += ["--sam", str(sam), "--copies", "2", "--piece", "10"]
    command += [word for gate in gates for word in ("--gate", str(gate))]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(3)]
        gates[0].touch()
        said += [process.stdout.readline() for _ in range(2)]
        gates[1].touch()
        said += process.stdout.readlines()
    assert process.returncode == status
    lines = without_token(b"".join(said)).decode().splitlines()
    assert lines == [
        "[token] started",
        *(f"[token] progress {records}/50" for records in range(10, 51, 10)),
        f"[token] bowtie2 ended with status {status}",
    ]
    assert sam.read_text().count("\nr") == 50
