"""The agent serves all jobs of a node on one event loop: what the engine does for one never stops the others."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind
from tests.integration.engine_bed import Bed
from tests.integration.test_engine import JOB_ID, RESERVE, chain, fresh, identity
from tests.patience import PATIENCE
from worker_agent.engine import (
    end_frozen,
    finish_restore,
    prepare_restore,
    release,
    take_checkpoint,
    thaw,
    thaw_and_clean,
)

pytestmark = [pytest.mark.criu]


_EVENTS = {"open", *(f"os.{name}" for name in ("listdir", "mkdir", "remove", "rename", "rmdir", "scandir", "truncate"))}


class _Loop:
    """What the thread of the event loop opens or lists."""

    def __init__(self) -> None:
        self.root = ""
        self.thread = 0
        self.found: list[str] = []

    def hear(self, event: str, said: tuple[object, ...]) -> None:
        if self.thread != threading.get_ident() or event not in _EVENTS:
            return
        path = os.fsdecode(said[0]) if isinstance(said[0], (str, bytes)) else ""
        if (path.startswith("/proc/") and not path.startswith("/proc/self/")) or path.startswith(self.root):
            self.found.append(f"{event} {path}")


_loop = _Loop()
sys.addaudithook(_loop.hear)


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        _loop.thread = 0
        await made.close()


def _listen(root: Path) -> None:
    _loop.root, _loop.found, _loop.thread = str(root), [], threading.get_ident()


async def test_no_step_looks_into_proc_or_at_the_job_volume_on_the_event_loop(bed: Bed) -> None:
    """Fault: scans of /proc and of shared memory (`smaps_rollup`) ran on the loop, one of them inside the freeze."""
    bed.command = chain(mebibytes=80)
    running = await fresh(bed)
    running.more_lines(3)
    container = running.container
    _listen(bed.volume.root)
    for kind in (CheckpointKind.PERIODIC, CheckpointKind.FINAL):
        await take_checkpoint(
            container,
            identity(1),
            kind=kind,
            limit_seconds=PATIENCE,
            keep=1,
            reserve_bytes=RESERVE,
            predump=True,
            full_every=4,
        )
    await thaw(container)
    await thaw_and_clean(container)
    await end_frozen(container)
    await release(container)
    _loop.thread = 0
    assert _loop.found == []
    bed.change_node()
    again = bed.container()
    _listen(bed.volume.root)
    prepared = await prepare_restore(again, 2, epoch=2, job_id=JOB_ID)
    _loop.thread = 0
    restored = bed.launch(again, ["restore", *prepared.argv])
    _listen(bed.volume.root)
    await finish_restore(restored.container, prepared.manifest)
    assert _loop.found == []


async def test_a_freeze_ends_although_all_other_threads_are_busy(bed: Bed) -> None:
    """Fault: a job stood frozen until other jobs' hashing left a thread for its thaw."""
    bed.command = chain(mebibytes=4)
    running = await fresh(bed)
    running.more_lines(3)
    over, resumed = threading.Event(), asyncio.Event()
    busy: list[asyncio.Task[bool]] = []

    def at(step: str) -> None:
        if step == "pause":
            busy.extend(asyncio.create_task(asyncio.to_thread(over.wait)) for _ in range(40))
        if step == "resume GPU":
            resumed.set()

    taking = asyncio.create_task(
        take_checkpoint(
            running.container,
            identity(1),
            kind=CheckpointKind.PERIODIC,
            limit_seconds=PATIENCE,
            keep=2,
            reserve_bytes=RESERVE,
            on_step=at,
        )
    )
    try:
        await asyncio.wait_for(resumed.wait(), PATIENCE)
        running.more_lines(3)
        assert not taking.done(), "checksums wait with everybody else"
    finally:
        over.set()
        await asyncio.gather(*busy)
    assert (await taking).number == 1


async def test_a_last_checkpoint_is_committed_although_all_other_threads_are_busy(bed: Bed) -> None:
    """Promise 2: nothing stands between a notice and the checkpoint, not even other work of the agent."""
    bed.command = chain(mebibytes=4)
    running = await fresh(bed)
    running.more_lines(3)
    over = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(over.wait)) for _ in range(40)]
    await asyncio.sleep(0)
    try:
        taking = take_checkpoint(
            running.container,
            identity(1),
            kind=CheckpointKind.FINAL,
            limit_seconds=PATIENCE,
            keep=2,
            reserve_bytes=RESERVE,
        )
        assert (await asyncio.wait_for(taking, PATIENCE)).number == 1
        await asyncio.wait_for(end_frozen(running.container), PATIENCE)
    finally:
        over.set()
        await asyncio.gather(*busy)
