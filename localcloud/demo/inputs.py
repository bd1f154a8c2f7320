"""What the jobs read: their programs, a bowtie2 index and the reads."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from localcloud.demo.jobs import ENVIRONMENT, PYTHON
from perdure.domain.errors import StackError

EXAMPLES = Path("/usr/share/doc/bowtie2/examples")
"""Where Debian's bowtie2-examples puts the lambda phage and its reads (Langmead's own example data)."""
PROGRAMS = Path(__file__).parents[1] / "demo_jobs"
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


def prepare_inputs(folder: Path) -> None:
    """Fill `folder` with programs, index and reads. Raises StackError."""
    folder.mkdir(parents=True)
    for name in ("align.py", "chain.py"):
        shutil.copy(PROGRAMS / name, folder / name)
    unpacked = _unpacked(EXAMPLES / "reference" / "lambda_virus.fa", folder / "lambda.fa")
    _output(["bowtie2-build", "--quiet", str(unpacked), str(folder / "lambda")])
    (folder / "reads.fq.gz").write_bytes(_packed(EXAMPLES / "reads" / "longreads.fq"))


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
