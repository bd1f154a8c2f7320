"""How long until a job runs again: out of a checkpoint on its volume, and by CRIU alone out of warm tmpfs."""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.dataplane.bed import JOB_ID, Job
from perdure.domain.checkpoints import CheckpointKind
from perdure.image.disk import syncfs
from perdure.image.layout import IMAGES
from perdure.image.mounts import delete_tree
from tests.integration.engine_places import tool
from worker_agent.engine import continue_restored, finish_restore, prepare_restore, verify_pages
from worker_agent.engine.job_root import store
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.engine.writable_layer import unmount_layer

RESTORES = ("cold", "cold apart", "cold whole", "cold lazy", "warm", "lazy", "tmpfs", "disk")
"""`cold`: nothing of the checkpoint is in the page cache. `apart`: its pages are verified first, and not while CRIU
reads them. `whole`: one that shares no pages. `lazy`: the job goes on before its memory is there, each
page verified when it comes; `whole` is when all is there. `tmpfs`: `runc restore` alone, its images in memory, nothing
verified, no files rolled back. `disk`: no restore, only what the disk itself takes to give the images: read past the
page cache, many requests at once."""

_AT_ONCE, _PIECE = 16, 1 << 20
"""Requests, and their bytes, that are on their way at once to learn what the disk gives."""
_LARGEST = 4
"""GiB of a job of which there is room for one more copy in memory; of a larger one only the first is measured."""


async def restores(job: Job, rounds: int) -> list[dict[str, Any]]:
    """Each way in turn."""
    found = []
    for number in range(1, rounds + 1):
        for way in job.arguments.restore_ways if job.arguments.gib <= _LARGEST else RESTORES[:1]:
            job.change()
            await job.checkpoint(whole=way == "cold whole", kind=CheckpointKind.PERIODIC)
            if way != "cold whole":
                job.change()
                await job.checkpoint(whole=False, kind=CheckpointKind.PERIODIC)
            print(f"restore {number}: {way}", file=sys.stderr, flush=True)
            measured = await (_from_disk(job) if way == "disk" else _restored(job, way))
            found.append({"way": f"restore {way}", "round": number, **measured})
    return found


async def _restored(job: Job, way: str) -> dict[str, Any]:
    bed, root = job.bed, job.bed.volume.root
    assert job.running is not None
    checkpoint = store(root).head(store(root).numbers()[-1])
    await asyncio.to_thread(bed.kill, job.running)
    await asyncio.to_thread(unmount_layer, root)
    await asyncio.to_thread(syncfs, root)
    images = store(root).folder(checkpoint.number) / IMAGES
    memory = bed.folder / "images"
    if way == "tmpfs":
        memory.mkdir()
        tool("mount", "-t", "tmpfs", "none", memory)
        await asyncio.to_thread(shutil.copytree, images, memory, dirs_exist_ok=True)
    elif way.startswith("cold"):
        await asyncio.to_thread(_forget, job, images)
    else:
        await asyncio.to_thread(_read, images)
    job.epoch += 1
    later = way not in ("tmpfs", "cold apart")
    begun = time.monotonic()
    container = bed.container()
    lazily = way.endswith("lazy")
    prepared = await prepare_restore(
        container, checkpoint.number, epoch=job.epoch, job_id=JOB_ID, pages_later=later, lazily=lazily
    )
    assert prepared.lazily == lazily, prepared.not_lazy
    argv = prepared.argv
    beside = later and not lazily
    verifying = asyncio.create_task(asyncio.to_thread(verify_pages, root, checkpoint.number, lambda: not beside))
    await asyncio.sleep(0)
    if way == "tmpfs":
        argv = [str(memory) if word == str(images) else word for word in argv]
        assert str(memory) in argv, argv
        begun = time.monotonic()
    launched = time.monotonic()
    running = bed.launch(container, ["restore", *argv])
    by_criu = time.monotonic() - launched
    await verifying
    assert await lazy.is_sound(container) == lazily
    await finish_restore(running.container, prepared.manifest)
    await continue_restored(running.container, prepared.manifest)
    seconds = time.monotonic() - begun
    await lazy.whole(running.container, limit_seconds=600, number=checkpoint.number)
    whole = time.monotonic() - begun
    job.running = running
    if way == "tmpfs":
        tool("umount", memory)
        delete_tree(memory)
    found = {"durable": seconds, "criu": by_criu, "image": checkpoint.image_bytes, "phases": prepared.phases}
    return found | ({"whole": whole} if lazily else {})


async def _from_disk(job: Job) -> dict[str, Any]:
    root = job.bed.volume.root
    checkpoint = store(root).head(store(root).numbers()[-1])
    await asyncio.to_thread(syncfs, root)
    images = store(root).folder(checkpoint.number) / IMAGES
    await asyncio.to_thread(_forget, job, images)
    begun = time.monotonic()
    await asyncio.to_thread(_read_directly, images)
    return {"durable": time.monotonic() - begun, "image": checkpoint.image_bytes}


def _forget(job: Job, images: Path) -> None:
    """Nothing of the checkpoint is in the page cache, nor in that of the file that plays its disk. Programs stay there,
    as on a node that has restored before: they would share the disk with the checkpoint."""
    disk = job.bed.volume.image.parent
    for path in [*images.parent.rglob("*"), *disk.glob("*.img*")]:
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _read_directly(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    pieces = [(path, at) for path in files for at in range(0, path.stat().st_size, _PIECE)]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(_read_piece, pieces))


def _read_piece(piece: tuple[Path, int]) -> None:
    path, at = piece
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(descriptor, [mmap.mmap(-1, _PIECE)], at)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(8 << 20):
                    pass
