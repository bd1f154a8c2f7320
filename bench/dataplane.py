"""What a checkpoint costs: `python -m bench.dataplane LOAD GIB CHANGED [--disk gp3] [--rounds N] …`, as root.

One call measures one job on one kind of disk, so that a machine need not be quiet for long; results are added to
build/bench/dataplane.jsonl, and `--report` writes the tables of all of them as Markdown. `make bench` runs the calls
that docs/performance.md shows.

Each round lets the job change the same part of its memory before each way, in turn, so that the ways of a round see the
same machine and ratios can be taken within it:

    ours      a checkpoint that shares pages with the one before, as the product takes it
    today     the product without the page sink: CRIU writes everything, then checksums of it
    criu      runc checkpoint and a syncfs: no files, no checksums, no manifest
    export    the same into a tar with zstd, which podman's `container checkpoint --export` makes; podman itself is not
              run
    dd        `dd oflag=direct` of as many bytes

Seconds: `frozen` until the job runs on, `durable` from the freeze until it may be restored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.slow_disk import NAME as SLOW_NAME
from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.image.disk import syncfs
from perdure.image.mounts import delete_tree
from perdure.image.pages.sink import NAME as PAGE_SINK
from tests.integration.engine_bed import Bed, Running
from tests.integration.engine_places import Volume, tool, wait_for
from worker_agent.engine import Identity, ensure_layout, prepare_fresh, runc, take_checkpoint
from worker_agent.engine.job_root import store

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build/bench/dataplane.jsonl"
SEEDS = {"text": 43, "float": 42, "sparse": 44, "fork": 45, "heap": 46}
GP3 = (125.0, 3000.0)
"""MiB and IOs a second, gp3's baseline."""
CALLS = (
    "text 1 5 --rounds 3 --ways ours today criu export dd",
    "text 1 5 --rounds 3 --final --ways ours today criu export dd",
    "text 1 5 --pattern scattered --rounds 3",
    "text 1 1 --rounds 3",
    "text 1 20 --rounds 3",
    "text 1 100 --rounds 2",
    "float 1 5 --rounds 2",
    "sparse 1 5 --rounds 2",
    "fork 1 5 --rounds 2",
    "heap 1 5 --rounds 2",
    "text 1 1 --pattern scattered --rounds 15 --ways ours --restore",
    "text 4 5 --rounds 1 --final --ways ours today export",
    "text 4 5 --disk gp3 --rounds 1 --ways ours today",
    "text 4 5 --disk gp3 --rounds 1 --final --ways ours today criu",
    "text 1 5 --disk gp3 --rounds 2 --final --ways ours today criu dd",
)
"""Each takes less than six minutes."""
WAYS = ("ours", "today", "criu", "export", "dd")


class SlowVolume(Volume):
    """A job volume on bench/slow_disk.py."""

    def __init__(self, image: Path, mount_point: Path, mebibytes: int, *, reflink: bool = True) -> None:
        backing, self.point = image.with_name("backing.img"), image.with_name("slow")
        self.point.mkdir()
        tool("truncate", "-s", f"{mebibytes}M", backing)
        argv = [sys.executable, "-m", "bench.slow_disk", str(self.point), str(backing), *map(str, GP3)]
        self.server = subprocess.Popen(argv, cwd=ROOT)
        slow = self.point / SLOW_NAME.decode()
        wait_for(slow.exists, "the slow disk", seconds=10)
        self.image, self.root, self.loop = slow, mount_point, ""
        mount_point.mkdir()
        self.loop = tool("losetup", "--find", "--show", "--direct-io=on", self.image)
        tool("mkfs.xfs", "-q", "-K", self.loop)

    def attach(self) -> None:
        if not self.loop:
            self.loop = tool("losetup", "--find", "--show", "--direct-io=on", self.image)
        tool("mount", "-o", "nouuid", self.loop, self.root)

    def detach(self) -> None:
        super().detach()
        # The loop device goes a moment after its file system, which another mount namespace may hold still.
        wait_for(lambda: subprocess.run(["umount", str(self.point)], capture_output=True).returncode == 0, "umount")
        self.server.kill()  # nothing of it is in use any more
        self.server.wait(30)


@contextlib.asynccontextmanager
async def a_bed(disk: str, mebibytes: int) -> AsyncIterator[Bed]:
    bed = Bed.make(mebibytes, volume=SlowVolume if disk == "gp3" else Volume)
    bed.launch_limit = 600.0
    bed.jobs = ROOT / "bench/loads"
    try:
        bed.new_node()
        yield bed
    finally:
        await bed.close()


class Peak:
    """The most memory that this process and its page sinks had together, in MiB: ours, as the agent's would be."""

    def __init__(self) -> None:
        self.helper = 0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            for process in psutil.process_iter(["name", "ppid"]):
                if process.info["name"] == PAGE_SINK and process.info["ppid"] == os.getpid():
                    with contextlib.suppress(psutil.Error):
                        self.helper = max(self.helper, process.memory_info().rss >> 20)
            await asyncio.sleep(0.1)

    def end(self) -> int:
        self._task.cancel()
        return self.helper


class Job:
    """One load on one volume."""

    def __init__(self, bed: Bed, arguments: argparse.Namespace) -> None:
        self.bed, self.arguments, self.orders = bed, arguments, 0
        self.running: Running | None = None

    async def start(self) -> Running:
        load, mebibytes = self.arguments.load, round(self.arguments.gib * 1024)
        words = [load, str(mebibytes), str(SEEDS[load]), "/data/order"]
        self.bed.command = ["/usr/bin/python3", "/jobs/memory.py", *words]
        ensure_layout(self.bed.volume.root)
        container = self.bed.container()
        await prepare_fresh(container, epoch=1)
        self.running = self.bed.start(self.bed.launch(container, ["create"]))
        wait_for(lambda: self.lines() > 0, "the load", seconds=400)
        return self.running

    def lines(self) -> int:
        return self.running.lines() if self.running else 0

    def change(self) -> None:
        self.orders += 1
        path = self.bed.volume.root / "seen/data/order"
        fresh = path.with_name("order.new")
        fresh.write_text(f"{self.orders} {self.arguments.changed} {self.arguments.pattern}")
        fresh.rename(path)
        wait_for(lambda: self.lines() > self.orders, "the change", seconds=400)

    async def checkpoint(self, *, whole: bool, kind: CheckpointKind) -> tuple[Manifest, float, float]:
        """The manifest; seconds from the freeze until the job runs on, and until it is committed."""
        assert self.running is not None
        doubts = self.running.container.doubts
        doubts.clear()
        if whole:
            doubts.add("the bench wants it whole")
        began: dict[str, float] = {}
        manifest = await take_checkpoint(
            self.running.container,
            Identity("bench", 1, 1, "i-bench"),
            kind=kind,
            limit_seconds=600,
            keep=1,
            reserve_bytes=0,
            full_every=64,
            predump=kind is not CheckpointKind.FINAL,
            on_step=lambda step: began.update({step: time.monotonic()}),
        )
        if kind is CheckpointKind.FINAL and self.running.container.freezer:
            self.running.container.freezer.thaw()
        frozen = began["resume GPU"] - began["pause"]
        return manifest, frozen, began["prune"] - began["pause"]


async def measured(job: Job, way: str, kind: CheckpointKind) -> dict[str, Any]:
    running, root = job.running, job.bed.volume.root
    assert running is not None
    if way in ("ours", "today"):
        peak = Peak()
        manifest, frozen, durable = await job.checkpoint(whole=way == "today", kind=kind)
        written = manifest.written_bytes or 0
        found = {"frozen": frozen, "durable": durable, "written": written, "image": manifest.image_bytes}
        return found | {"helper_mib": peak.end(), "phases": manifest.phases, "number": manifest.number}
    folder = root / "bench"
    folder.mkdir()
    container = running.container
    size = store(root).head(store(root).numbers()[-1]).image_bytes
    await asyncio.to_thread(syncfs, root)
    begun = time.monotonic()
    try:
        if way == "dd":
            argv = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=4M", f"count={size >> 22}", "oflag=direct"]
            await asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)
            return {"durable": time.monotonic() - begun, "written": size}
        await runc.pause(container)
        await runc.checkpoint(container, folder, limit_seconds=600, give_up=lambda: None, grace_seconds=60)
        assert container.freezer is not None
        container.freezer.thaw()
        frozen = time.monotonic() - begun
        if way == "export":
            line = f"tar -C {folder} -cf - . | zstd -3 -T1 -q -o {root}/bench.tar.zst"
            await asyncio.to_thread(subprocess.run, ["sh", "-c", line], check=True)
            size = (root / "bench.tar.zst").stat().st_size
        await asyncio.to_thread(syncfs, root)
        return {"frozen": frozen, "durable": time.monotonic() - begun, "written": size}
    finally:
        await asyncio.to_thread(delete_tree, folder)
        (root / "bench.tar.zst").unlink(missing_ok=True)


async def rounds(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All that one call measures."""
    found: list[dict[str, Any]] = []
    mebibytes = round(arguments.gib * 1024 * (6 if arguments.load == "fork" else 4)) + 2048
    kind = CheckpointKind.FINAL if arguments.final else CheckpointKind.PERIODIC
    async with a_bed(arguments.disk, mebibytes) as bed:
        job = Job(bed, arguments)
        await job.start()
        first = await measured(job, "ours", kind)
        found.append({"way": "first", "round": 0, **first})
        for number in range(1, arguments.rounds + 1):
            for way in arguments.ways:
                job.change()
                if way == "ours" and number > 1 and "today" in arguments.ways:
                    await job.checkpoint(whole=False, kind=kind)  # something to share with, after a whole one
                    job.change()
                print(f"round {number}: {way}", file=sys.stderr, flush=True)
                found.append({"way": way, "round": number, **await measured(job, way, kind)})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        if arguments.restore:
            found += await restores(job, arguments)
    return found


async def restores(job: Job, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Verification with a cold cache: all that a restore reads of an image."""
    root, found = job.bed.volume.root, []
    for way in ("ours", "today"):
        job.change()
        manifest, _, _ = await job.checkpoint(whole=way == "today", kind=CheckpointKind.PERIODIC)
        await asyncio.to_thread(syncfs, root)
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        begun = time.monotonic()
        await asyncio.to_thread(store(root).verify, manifest.number)
        found.append(
            {"way": f"cold {way}", "round": 0, "durable": time.monotonic() - begun, "image": manifest.image_bytes}
        )
        if way == "ours" and arguments.load != "heap":
            job.change()
    return found


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


def report(out: Callable[[str], None]) -> None:
    """Medians, and ratios within the rounds, of all results."""
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        call = json.loads(line)
        calls[call["name"]].append(call)
    out("| job | way | n | frozen s | durable s | written MiB | helper MiB | ours is faster: durable, frozen |")
    out("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, runs in calls.items():
        results = [{**result, "run": number} for number, run in enumerate(runs) for result in run["results"]]
        ours = {(one["run"], one["round"]): one for one in results if one["way"] == "ours"}
        for way in dict.fromkeys(one["way"] for one in results):
            those = [one for one in results if one["way"] == way]
            ratios = {
                key: [
                    one[key] / ours[one["run"], one["round"]][key]
                    for one in those
                    if key in one and (one["run"], one["round"]) in ours
                ]
                for key in ("durable", "frozen")
            }
            fields = [_median(those, "frozen"), _median(those, "durable"), _median(those, "written", 1 << 20, 0)]
            said = ", ".join(f"{statistics.median(ratios[key]):.2f}" for key in ratios if ratios[key] and way != "ours")
            helper = _median(those, "helper_mib", 1, 0)
            out(f"| {name} | {way} | {len(those)} | {' | '.join(fields)} | {helper} | {said} |")


def _median(those: list[dict[str, Any]], key: str, unit: float = 1, digits: int = 2) -> str:
    values = [one[key] / unit for one in those if one.get(key) is not None]
    return f"{statistics.median(values):.{digits}f}" if values else ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("load", nargs="?", choices=SEEDS)
    parser.add_argument("gib", nargs="?", type=float)
    parser.add_argument("changed", nargs="?", type=float, help="percent of its pages")
    parser.add_argument("--pattern", choices=("pieces", "scattered"), default="pieces")
    parser.add_argument("--disk", choices=("free", "gp3"), default="free")
    parser.add_argument("--final", action="store_true", help="as on a notice: no predump, the total counts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["ours", "today"])
    parser.add_argument("--restore", action="store_true", help="verify one of each with a cold cache")
    parser.add_argument("--report", action="store_true", help="print the tables of all results")
    parser.add_argument("--all", action="store_true", help="all calls that docs/performance.md shows")
    arguments = parser.parse_args()
    if arguments.report:
        report(print)
        return 0
    if arguments.all:
        for call in CALLS:
            subprocess.run([sys.executable, "-m", "bench.dataplane", *call.split()], cwd=ROOT, check=True)
        return 0
    results = asyncio.run(rounds(arguments))
    kind = "final" if arguments.final else "periodic"
    name = (
        f"{arguments.load} {arguments.gib:g} GiB, {arguments.changed:g} % {arguments.pattern}, {arguments.disk}, {kind}"
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({"name": name, "machine": machine(), "results": results}) + "\n")
    for result in results:
        print(
            json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
