"""One checkpoint in each of the ways."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.dataplane.bed import Job, Peak
from bench.dataplane.podman import PodmanJob
from perdure.domain.checkpoints import CheckpointKind
from perdure.image.disk import syncfs
from perdure.image.mounts import delete_tree
from worker_agent.engine import runc
from worker_agent.engine.job_root import store

OURS = ("first", "ours", "whole")
WAYS = (*OURS, "criu", "export", "podman", "dd")


async def measured(job: Job, podman: PodmanJob | None, way: str, kind: CheckpointKind) -> dict[str, Any]:
    """Seconds, bytes, MiB."""
    if way in OURS:
        return await _by_the_product(job, way, kind)
    if way == "podman":
        assert podman is not None
        return await asyncio.to_thread(podman.checkpoint)
    root = job.bed.volume.root
    folder = root / "bench"
    folder.mkdir()
    size = store(root).head(store(root).numbers()[-1]).image_bytes
    await asyncio.to_thread(syncfs, root)
    try:
        return await (_dd(folder, size) if way == "dd" else _by_criu(job, folder, way))
    finally:
        await asyncio.to_thread(delete_tree, folder)


async def _by_the_product(job: Job, way: str, kind: CheckpointKind) -> dict[str, Any]:
    if way == "first":
        await asyncio.to_thread(job.forget_checkpoints)
    peak = Peak()
    manifest, frozen, durable = await job.checkpoint(whole=way == "whole", kind=kind)
    return {
        "frozen": frozen,
        "durable": durable,
        "written": manifest.written_bytes or 0,
        "image": manifest.image_bytes,
        "helper_mib": peak.end(),
        "phases": manifest.phases,
        "number": manifest.number,
    }


async def _dd(folder: Path, size: int) -> dict[str, Any]:
    begun = time.monotonic()
    argv = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=4M", f"count={size >> 22}", "oflag=direct"]
    await asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)
    return {"durable": time.monotonic() - begun, "written": size}


async def _by_criu(job: Job, folder: Path, way: str) -> dict[str, Any]:
    assert job.running is not None
    root, container = job.bed.volume.root, job.running.container
    assert container.freezer is not None
    images, archive = folder / "images", folder / "bench.tar.zst"
    images.mkdir()
    begun = time.monotonic()
    await runc.pause(container)
    await runc.checkpoint(container, images, limit_seconds=600, give_up=lambda: None, grace_seconds=60)
    container.freezer.thaw()
    frozen = time.monotonic() - begun
    if way == "export":
        line = f"tar -C {images} -cf - . | zstd -3 -T1 -q -o {archive}"
        await asyncio.to_thread(subprocess.run, ["sh", "-c", line], check=True)
    await asyncio.to_thread(syncfs, root)
    durable = time.monotonic() - begun
    made = [archive] if way == "export" else images.rglob("*")
    return {"frozen": frozen, "durable": durable, "written": sum(one.stat().st_size for one in made)}
