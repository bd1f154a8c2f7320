"""What a checkpoint costs: `python -m bench.dataplane LOAD GIB CHANGED [--disk gp3] [--rounds N] …`, as root.

One call measures one job on one kind of disk, so that a machine need not be quiet for long; results are added to
build/bench/dataplane.jsonl, and `--report` writes the tables of all of them as Markdown. `make bench` runs the calls
that docs/performance.md shows.

Each round lets the job change the same part of its memory before each way, in turn, so that the ways of a round see the
same machine and ratios can be taken within it:

    first     a checkpoint that has nothing to share pages with, as the product takes it
    ours      one that shares pages with the one before
    whole     the product without the page sink: CRIU writes everything, then checksums of it
    criu      runc checkpoint and a syncfs: no files, no checksums, no manifest
    export    the same into a tar with zstd
    podman    `podman container checkpoint --export` of the same load in a container of podman, where that is installed
    dd        `dd oflag=direct` of as many bytes

Seconds: `frozen` until the job runs on, `durable` from the freeze until it may be restored. `--restore` measures how
long it takes until the job runs again (restores.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.dataplane.bed import ROOT, SEEDS, Job, a_bed
from bench.dataplane.plot import svg
from bench.dataplane.podman import PodmanJob
from bench.dataplane.report import read, report
from bench.dataplane.restores import RESTORES, restores
from bench.dataplane.ways import OURS, WAYS, measured
from perdure.domain.checkpoints import CheckpointKind
from tests.integration.engine_places import tool

RESULTS = ROOT / "build/bench/dataplane.jsonl"
CALLS = (
    "text 4 5 --disk gp3 --rounds 1 --final --ways first ours whole criu",
    "text 4 5 --disk gp3 --rounds 1 --ways ours whole",
    "text 1 5 --disk gp3 --rounds 2 --final --ways first ours whole criu dd",
    "text 1 5 --rounds 3 --ways first ours whole criu export podman dd",
    "text 1 5 --rounds 3 --final --ways first ours whole criu export podman dd",
    "text 4 5 --rounds 1 --final --ways first ours whole criu podman",
    "text 1 1 --pattern scattered --rounds 15 --ways ours --restore 1",
    "text 1 5 --pattern scattered --rounds 3 --restore 2",
    "text 1 5 --rounds 0 --ways first --restore 3 --restore-ways tmpfs lazy warm",
    "text 1 1 --rounds 3",
    "text 1 20 --rounds 3",
    "text 1 100 --rounds 2",
    "float 1 5 --rounds 2 --ways first ours whole",
    "sparse 1 5 --rounds 2 --ways first ours whole",
    "fork 1 5 --rounds 2 --ways first ours whole",
    "heap 1 5 --rounds 2 --ways first ours whole",
)
"""Each takes less than eight minutes."""


async def rounds(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All that one call measures."""
    found: list[dict[str, Any]] = []
    mebibytes = round(arguments.gib * 1024 * (6 if arguments.load == "fork" else 4)) + 2048
    kind = CheckpointKind.FINAL if arguments.final else CheckpointKind.PERIODIC
    async with a_bed(arguments.disk, mebibytes) as bed:
        job = Job(bed, arguments)
        await job.start()
        async with _podman(job) as podman:
            if arguments.ways[0] != "first":
                await job.checkpoint(whole=False, kind=kind)
            for number in range(1, arguments.rounds + 1):
                for way in arguments.ways:
                    if way == "ours" and number > 1 and "whole" in arguments.ways and "first" not in arguments.ways:
                        job.change()
                        await job.checkpoint(whole=False, kind=kind)  # something to share with, after a whole one
                    (podman if way == "podman" and podman else job).change()
                    print(f"round {number}: {way}", file=sys.stderr, flush=True)
                    found.append({"way": way, "round": number, **await measured(job, podman, way, kind)})
                    print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        found += await restores(job, arguments.restore)
    return found


@contextlib.asynccontextmanager
async def _podman(job: Job) -> AsyncIterator[PodmanJob | None]:
    if "podman" not in job.arguments.ways:
        yield None
        return
    podman = PodmanJob(job)
    try:
        yield podman
    finally:
        podman.close()


def machine() -> dict[str, str]:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "cpu": f"{os.cpu_count()} x {model.split(':')[1].strip()}",
        "memory": f"{psutil.virtual_memory().total >> 30} GiB",
        "kernel": platform.release(),
        "criu": subprocess.run(["/opt/perdure/criu/bin/criu", "-V"], capture_output=True, text=True).stdout.split()[1],
        "runc": tool("runc", "--version").split()[2],
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("load", nargs="?", choices=SEEDS)
    parser.add_argument("gib", nargs="?", type=float)
    parser.add_argument("changed", nargs="?", type=float, help="percent of its pages")
    parser.add_argument("--pattern", choices=("pieces", "scattered"), default="pieces")
    parser.add_argument("--disk", choices=("free", "gp3"), default="free")
    parser.add_argument("--final", action="store_true", help="as on a notice: no predump, the total counts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["ours", "whole"])
    parser.add_argument("--without", nargs="+", choices=set(WAYS) - set(OURS), default=[], help="leave ways out")
    parser.add_argument("--restore", type=int, default=0, help="rounds of restores afterwards")
    parser.add_argument("--restore-ways", nargs="+", choices=RESTORES, default=RESTORES)
    parser.add_argument("--report", action="store_true", help="print the tables of all results, and draw")
    parser.add_argument("--all", action="store_true", help="all calls that docs/performance.md shows")
    arguments = parser.parse_args()
    if shutil.which("podman") is None:
        arguments.without = [*arguments.without, "podman"]
    arguments.ways = [way for way in arguments.ways if way not in arguments.without]
    if arguments.report:
        report(RESULTS, print)
        (ROOT / "docs" / "performance.svg").write_text(svg(read(RESULTS)[0]))
        return 0
    if arguments.all:
        without = ["--without", *arguments.without] if arguments.without else []
        for call in CALLS:
            subprocess.run([sys.executable, "-m", "bench.dataplane", *call.split(), *without], cwd=ROOT, check=True)
        return 0
    run: dict[str, Any] = {"name": _name(arguments), "machine": machine()}
    run["results"] = asyncio.run(rounds(arguments))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(run) + "\n")
    return 0


def _name(arguments: argparse.Namespace) -> str:
    job = f"{arguments.load} {arguments.gib:g} GiB, {arguments.changed:g} % {arguments.pattern}"
    return f"{job}, {arguments.disk}, {'final' if arguments.final else 'periodic'}"


if __name__ == "__main__":
    sys.exit(main())
