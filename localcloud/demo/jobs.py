"""The two jobs of the demo: what runs, what it must leave behind, and when its nodes are taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath, PurePosixPath

from localcloud.demo.verdict import Kind, PlannedReclaim

PYTHON = "/usr/bin/python3"
INTERVAL = "15s"
VCPUS = 3
"""Of a node's 4: the two jobs never share a node."""
MEMORY_MIB = 2048
MOST_RECLAIMS = 3
"""Of each job. Its work is as long as its reclaims are many."""
CHAIN_STEPS, CHAIN_PAUSE_SECONDS, CHAIN_MEMORY_MIB = 750, 0.1, 256
IMAGE, IMAGE_PACKAGES = "perdure-demo", ["python3", "bowtie2", "bowtie2-examples"]
"""What the jobs run in under Docker; without it they run over the machine's own root."""
ENVIRONMENT = {"LC_ALL": "C"}


@dataclass(frozen=True)
class Places:
    """Where a program finds its input and leaves its output: the same program runs in a job and as a reference."""

    inputs: PurePath
    volume: PurePath
    root_files: PurePath
    board: PurePath


IN_A_JOB = Places(
    inputs=PurePosixPath("/opt/demo"),
    volume=PurePosixPath("/mnt/perdure"),
    root_files=PurePosixPath("/srv"),
    board=PurePosixPath("/dev/shm/perdure-demo-chain"),
)


@dataclass(frozen=True)
class DemoJob:
    """`outputs`: its files, which must equal the reference's; `command` for given places."""

    name: str
    title: str
    command: Callable[[Places], list[str]]
    outputs: Callable[[Places], list[PurePath]]
    plan: tuple[PlannedReclaim, ...]


def demo_jobs(expected_sam_bytes: int, reclaims: int = MOST_RECLAIMS) -> list[DemoJob]:
    """Both jobs, with the first `reclaims` of their plans. `expected_sam_bytes`: of SAM records, for the progress that
    the alignment prints."""
    steps = CHAIN_STEPS * reclaims // MOST_RECLAIMS

    def align(at: Places) -> list[str]:
        return [
            *(PYTHON, str(at.inputs / "align.py"), "--index", str(at.inputs / "lambda")),
            *("--reads", str(at.inputs / "reads.fq.gz"), "--sam", str(at.volume / "lambda.sam")),
            *("--expected", str(expected_sam_bytes)),
        ]

    def chain(at: Places) -> list[str]:
        return [
            *(PYTHON, str(at.inputs / "chain.py"), "--log", str(at.root_files / "chain.log")),
            *("--out", str(at.volume / "chain.bin"), "--board", str(at.board)),
            *("--steps", str(steps), "--pause", str(CHAIN_PAUSE_SECONDS)),
            *("--memory-mib", str(CHAIN_MEMORY_MIB)),
        ]

    jobs = [
        DemoJob(
            name="bowtie2",
            title="bowtie2 -p 2 --reorder on lambda-phage reads",
            command=align,
            outputs=lambda at: [at.volume / "lambda.sam"],
            plan=(
                PlannedReclaim(Kind.NO_NOTICE, 0.15),
                PlannedReclaim(Kind.SAME_ZONE, 0.35),
                PlannedReclaim(Kind.OTHER_ZONE, 0.55),
            ),
        ),
        DemoJob(
            name="chain",
            title=f"a hash chain through {CHAIN_MEMORY_MIB} MiB of memory, pipes, threads, TCP and /dev/shm",
            command=chain,
            outputs=lambda at: [at.volume / "chain.bin", at.root_files / "chain.log"],
            plan=(
                PlannedReclaim(Kind.OTHER_ZONE, 0.15),
                PlannedReclaim(Kind.NO_NOTICE, 0.35),
                PlannedReclaim(Kind.SAME_ZONE, 0.55),
            ),
        ),
    ]
    return [replace(job, plan=job.plan[:reclaims]) for job in jobs]
