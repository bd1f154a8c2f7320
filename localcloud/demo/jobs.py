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
COPIES, PIECE, PIECE_PAUSE_SECONDS = 2, 300, 0.6
"""Copies of the 6,000 reads for each reclaim (3 to 4 s of CPU time each), how many reads bowtie2 gets at a time, and
its rest after them: both jobs last for about half a minute for each reclaim."""
CHAIN_STEPS, CHAIN_PAUSE_SECONDS, CHAIN_MEMORY_MIB = 250, 0.1, 256
IMAGE, IMAGE_PACKAGES = "perdure-demo", ["python3", "bowtie2", "bowtie2-examples"]
"""What the jobs run in under Docker; without it they run over the machine's own root."""
ENVIRONMENT = {"LC_ALL": "C"}


@dataclass(frozen=True)
class Places:
    """Where a program finds its input and leaves its output: the same program runs in a job and as a reference.
    `gates`: the folder in which files tell a job that it may go on. Without it, a program neither rests nor waits."""

    inputs: PurePath
    volume: PurePath
    root_files: PurePath
    board: PurePath
    gates: PurePath | None = None


IN_A_JOB = Places(
    inputs=PurePosixPath("/opt/demo"),
    volume=PurePosixPath("/mnt/perdure"),
    root_files=PurePosixPath("/srv"),
    board=PurePosixPath("/dev/shm/perdure-demo-chain"),
    gates=PurePosixPath("/opt/demo"),
)


@dataclass(frozen=True)
class DemoJob:
    """`outputs`: its files, which must equal the reference's; `command` for given places."""

    name: str
    title: str
    command: Callable[[Places], list[str]]
    outputs: Callable[[Places], list[PurePath]]
    plan: tuple[PlannedReclaim, ...]


def gate(name: str, leg: int) -> str:
    """The file whose coming lets the job of that name go on from this leg of its work, counted from 1."""
    return f"gate-{name}-{leg}"


def demo_jobs(reclaims: int = MOST_RECLAIMS) -> list[DemoJob]:
    """Both jobs, with the first `reclaims` of their plans, and as much work. In the leg before each reclaim a job does
    not end, however late that comes, and after it there is work to be seen."""

    def pace(at: Places, name: str, pause: float) -> list[str]:
        if at.gates is None:
            return ["--pause", "0"]
        gates = [str(at.gates / gate(name, leg)) for leg in range(1, reclaims + 2)]
        return ["--pause", str(pause), *(word for path in gates for word in ("--gate", path))]

    def align(at: Places) -> list[str]:
        return [
            *(PYTHON, str(at.inputs / "align.py"), "--index", str(at.inputs / "lambda")),
            *("--reads", str(at.inputs / "reads.fq.gz"), "--sam", str(at.volume / "lambda.sam")),
            *("--copies", str(COPIES * reclaims), "--piece", str(PIECE)),
            *pace(at, "bowtie2", PIECE_PAUSE_SECONDS),
        ]

    def chain(at: Places) -> list[str]:
        return [
            *(PYTHON, str(at.inputs / "chain.py"), "--log", str(at.root_files / "chain.log")),
            *("--out", str(at.volume / "chain.bin"), "--board", str(at.board)),
            *("--steps", str(CHAIN_STEPS * reclaims), "--memory-mib", str(CHAIN_MEMORY_MIB)),
            *pace(at, "chain", CHAIN_PAUSE_SECONDS),
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
