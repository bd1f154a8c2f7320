"""What a notice changes for a checkpoint: the one that runs becomes the final one, and none comes too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import TooLate
from tests.integration.engine_bed import Bed, Running, freezer_of
from tests.integration.test_engine import (
    RESERVE,
    chain,
    checkpoint,
    fresh,
    hand_over,
    identity,
    restored,
    uninterrupted,
    written,
)
from tests.patience import PATIENCE
from worker_agent.engine import Taking, committed, offered, thaw

pytestmark = [pytest.mark.criu]


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def noticed_at(
    running: Running, step: str, seconds: float = PATIENCE, predump: bool = True
) -> tuple[Manifest, bool]:
    """A periodic checkpoint, during which a notice comes when `step` begins; whether it became the final one."""
    promoted: list[bool] = []

    def at(name: str) -> None:
        if name == step:
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: promoted.append(taking.promote(time.monotonic() + seconds)))

    taking = Taking(PATIENCE, on_step=at)
    manifest = await taking.take(
        running.container,
        identity(1),
        kind=CheckpointKind.PERIODIC,
        keep=2,
        reserve_bytes=RESERVE,
        full_every=4,
        predump=predump,
    )
    return manifest, promoted[0]


@pytest.mark.parametrize("step", ["look", "presync", "predump", "pause", "dump", "clone"])
async def test_a_notice_makes_the_final_checkpoint_of_the_one_that_runs(bed: Bed, step: str) -> None:
    """Fault: a notice waited for the dump that ran, with its checksums, and then dumped again."""
    bed.command = chain(mebibytes=100)
    running = await fresh(bed)
    running.more_lines(3)
    manifest, promoted = await noticed_at(running, step)
    assert promoted and manifest.kind is CheckpointKind.FINAL
    assert freezer_of(running).frozen(), "the job ran on after its final checkpoint"
    assert offered(bed.volume.root) == [1]
    await hand_over(bed, running)
    again = await restored(bed, 2, 1)
    assert again.end() == 0
    assert written(bed, again) == uninterrupted(mebibytes=100)


@pytest.mark.parametrize("step", ["sync", "checksums", "commit", "prune"])
async def test_one_that_let_the_job_go_on_stays_a_periodic_one(bed: Bed, step: str) -> None:
    bed.command = chain(mebibytes=4)
    running = await fresh(bed)
    running.more_lines(3)
    manifest, promoted = await noticed_at(running, step)
    assert not promoted and manifest.kind is CheckpointKind.PERIODIC
    running.more_lines(3)
    assert (await checkpoint(running, kind=CheckpointKind.FINAL)).number == 2
    assert freezer_of(running).frozen() and running.container.frozen_by_us.exists()
    await thaw(running.container)
    assert not running.container.frozen_by_us.exists(), "a later `docker pause` would be taken for ours, and undone"


@pytest.mark.parametrize("step", ["dump", "sync", "checksums"])
async def test_what_is_not_committed_in_time_is_given_up(bed: Bed, step: str) -> None:
    """Fault: the deadline covered the frozen steps alone; sync, checksums and commit had 5 s whatever the size."""
    bed.command = chain(mebibytes=100)
    running = await fresh(bed)
    running.more_lines(3)
    kept = await checkpoint(running)

    def at(name: str) -> None:
        if name == step:  # the time is over in the middle of this step
            loop = asyncio.get_running_loop()
            loop.call_soon(taking.promote, time.monotonic())

    taking = Taking(PATIENCE, time.monotonic() + PATIENCE, at)
    with pytest.raises(TooLate, match=f"given up at `{step}`"):
        await taking.take(running.container, identity(1), kind=CheckpointKind.FINAL, keep=2, reserve_bytes=RESERVE)
    assert not freezer_of(running).frozen()
    assert [head.number for head in committed(bed.volume.root)] == [kept.number], "the last restorable point"
    running.more_lines(3)


async def test_what_would_come_too_late_is_not_begun(bed: Bed) -> None:
    bed.command = chain(mebibytes=100)
    running = await fresh(bed)
    running.more_lines(3)
    await checkpoint(running)
    running.container.doubts.add("it is to be a whole one")  # how much another would write, nobody knows
    seen: list[str] = []

    def at(name: str) -> None:
        seen.append(name)
        if name == "room":
            asyncio.get_running_loop().call_soon(taking.promote, time.monotonic() + 0.1)

    taking = Taking(PATIENCE, time.monotonic() + PATIENCE, at)
    with pytest.raises(TooLate, match=r"no checkpoint was begun: [0-9]+ MiB take at least"):
        await taking.take(running.container, identity(1), kind=CheckpointKind.FINAL, keep=2, reserve_bytes=RESERVE)
    assert seen == ["look", "room"], "nothing was frozen"
    assert (await checkpoint(running, kind=CheckpointKind.FINAL)).number == 2
