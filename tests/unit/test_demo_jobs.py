"""The demo's programs do the same work every time, whatever the clock does, and notice what is not as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from localcloud.demo.inputs import PROGRAMS
from localcloud.demo.jobs import PYTHON
from localcloud.demo.references import tokens, without_token
from tests.patience import PATIENCE


def chain(folder: Path, pause: float = 0.0, mebibytes: int = 4) -> tuple[bytes, bytes, bytes]:
    """Runs the chain for 20 steps; its stdout, log and file."""
    folder.mkdir()
    command = [PYTHON, "-W", "error", str(PROGRAMS / "chain.py"), "--steps", "20", "--pause", str(pause)]
    command += ["--memory-mib", str(mebibytes), "--board", str(folder / "board")]
    command += ["--log", str(folder / "log"), "--out", str(folder / "out")]
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


@pytest.mark.parametrize("status", [0, 3])
def test_the_alignment_says_how_far_it_is_and_ends_as_bowtie2_does(tmp_path: Path, status: int) -> None:
    records = "".join(f"read{number}\t{'x' * 90}\n" for number in range(100))
    fake = tmp_path / "bowtie2"
    # In place of the real one, which takes seconds and is tried by the demo itself: writes a SAM file and ends.
    sam = tmp_path / "sam"
    header = f"printf '@HD\\n@PG\\tCL:%s\\n' \"$*\" > {sam}"
    fake.write_text(f"#!/bin/sh\n{header}\ncat {tmp_path}/records >> {sam}\nexit {status}\n")
    fake.chmod(0o755)
    (tmp_path / "records").write_text(records)
    command = [PYTHON, str(PROGRAMS / "align.py"), "--index", "i", "--reads", "r", "--sam", str(sam)]
    command += ["--every", "4000", "--expected", str(len(records))]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.returncode == status
    lines = without_token(done.stdout).decode().splitlines()
    assert lines == [
        "[token] started",
        *(f"[token] progress {step}/{len(records)}" for step in range(4000, len(records) + 1, 4000)),
        f"[token] bowtie2 ended with status {status}",
    ]
