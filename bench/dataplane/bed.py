"""Jobs of one kind of memory on one kind of disk, and what the product does with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from bench.slow_disk import NAME as SLOW_NAME
from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.image.pages.sink import NAME as PAGE_SINK
from tests.integration.engine_bed import Bed, Running
from tests.integration.engine_places import Volume, tool, wait_for
from worker_agent.engine import Identity, ensure_layout, prepare_fresh, take_checkpoint
from worker_agent.engine.job_root import store

ROOT = Path(__file__).parents[2]
SEEDS = {"text": 43, "float": 42, "sparse": 44, "fork": 45, "heap": 46}
GP3 = (125.0, 3000.0)
"""MiB and IOs a second, gp3's baseline."""
JOB_ID = "bench"


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
    """The most memory that one of our page sinks had, in MiB."""

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


def order(folder: Path, number: int, arguments: Namespace) -> None:
    """Have memory.py change what it holds."""
    fresh = folder / "order.new"
    fresh.write_text(f"{number} {arguments.changed} {arguments.pattern}")
    fresh.rename(folder / "order")


class Job:
    """One load on one volume."""

    def __init__(self, bed: Bed, arguments: Namespace) -> None:
        self.bed, self.arguments, self.orders, self.epoch = bed, arguments, 0, 1
        self.running: Running | None = None

    @property
    def mebibytes(self) -> int:
        return int(self.arguments.gib * 1024)

    @property
    def words(self) -> list[str]:
        """What memory.py is told."""
        load = self.arguments.load
        return [load, str(self.mebibytes), str(SEEDS[load]), "/data/order"]

    async def start(self) -> Running:
        self.bed.command = ["/usr/bin/python3", "/jobs/memory.py", *self.words]
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
        order(self.bed.volume.root / "seen/data", self.orders, self.arguments)
        wait_for(lambda: self.lines() > self.orders, "the change", seconds=400)

    def forget_checkpoints(self) -> None:
        """The next one is a first one: it has nothing to share pages with."""
        found = store(self.bed.volume.root)
        for number in found.numbers():
            found.delete(number)

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
            Identity(JOB_ID, self.epoch, 1, "i-bench"),
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
