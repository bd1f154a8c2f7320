"""What the jobs read: a bowtie2 index, and so many copies of the reads that one pass takes about a minute here."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from localcloud.demo.jobs import ENVIRONMENT, PYTHON
from perdure.domain.errors import StackError

EXAMPLES = Path("/usr/share/doc/bowtie2/examples")
"""Where Debian's bowtie2-examples puts the lambda phage and its reads (Langmead's own example data)."""
PROGRAMS = Path(__file__).parents[1] / "demo_jobs"
PASS_SECONDS = 60.0
CORES = 2
FEWEST, MOST = 10, 100
LIMIT_SECONDS = 600.0


def check_programs() -> None:
    """Raises StackError, saying what to install, when a program or its data is missing."""
    missing = [name for name in ("bowtie2", "bowtie2-build") if shutil.which(name) is None]
    missing += [str(path) for path in (Path(PYTHON), EXAMPLES) if not path.exists()]
    if missing:
        raise StackError(
            f"the demo needs {', '.join(missing)}: run `make setup`, or "
            "`apt-get install bowtie2 bowtie2-examples python3`, and try again"
        )


def prepare_inputs(folder: Path, tell: Callable[[str], None], share: float = 1.0) -> int:
    """Fill `folder` with programs, index and reads; returns how many bytes of SAM records the reads will give.

    The reads are one pass of PASS_SECONDS, or this share of it, on CORES cores of this machine, by the CPU time that
    one copy takes.
    """
    folder.mkdir(parents=True)
    for name in ("align.py", "chain.py"):
        shutil.copy(PROGRAMS / name, folder / name)
    unpacked = _unpacked(EXAMPLES / "reference" / "lambda_virus.fa", folder / "lambda.fa")
    _run(["bowtie2-build", "--quiet", str(unpacked), str(folder / "lambda")])
    copy = EXAMPLES / "reads" / "longreads.fq"
    one = folder / "one.fq.gz"
    one.write_bytes(_packed(copy))
    seconds, records = _measure(folder, one)
    copies = min(MOST, max(FEWEST, math.ceil(share * PASS_SECONDS * CORES / max(seconds, 0.01))))
    with (folder / "reads.fq.gz").open("wb") as reads:
        for _ in range(copies):  # gzip files laid end to end are one gzip file
            reads.write(one.read_bytes())
    one.unlink()
    tell(f"{copies} copies of the reads: {copies * seconds / CORES:.0f} s for one pass on {CORES} cores")
    return copies * records


def _measure(folder: Path, reads: Path) -> tuple[float, int]:
    """CPU seconds and bytes of SAM records of one copy."""
    sam = folder / "one.sam"
    before = os.times()
    _run(["bowtie2", "-p", str(CORES), "--reorder", "-x", str(folder / "lambda"), "-U", str(reads), "-S", str(sam)])
    after = os.times()
    with sam.open("rb") as lines:
        size = sum(len(line) for line in lines if not line.startswith(b"@"))
    sam.unlink()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent, size


def _unpacked(source: Path, target: Path) -> Path:
    """Debian compresses large example files, and which are large changes: take either."""
    if source.exists():
        shutil.copy(source, target)
    else:
        target.write_bytes(_output(["gzip", "-dc", f"{source}.gz"]))
    return target


def _packed(source: Path) -> bytes:
    packed = Path(f"{source}.gz")
    return packed.read_bytes() if packed.exists() else _output(["gzip", "-c", str(source)])


def _run(command: list[str]) -> None:
    _output(command)


def _output(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_SECONDS, check=True, env=environment())
    except (subprocess.SubprocessError, OSError) as problem:
        words = getattr(problem, "stderr", None) or b""
        last = words.decode(errors="replace").strip().splitlines()[-1:] or [str(problem)]
        raise StackError(f"`{command[0]}` failed while the demo's input was made: {last[0]}; try again") from problem
    return done.stdout


def environment() -> dict[str, str]:
    """For programs that must do the same in a job and outside."""
    return {"PATH": os.environ.get("PATH", os.defpath), **ENVIRONMENT}
