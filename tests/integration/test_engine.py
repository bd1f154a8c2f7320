"""The engine on real processes: frozen, dumped, killed, rolled back, restored; and every way in which that can fail."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed
from tests.integration.engine_bed import Bed, Running, freezer_of, tool
from worker_agent.engine import (
    Identity,
    continue_restored,
    end_frozen,
    ensure_layout,
    finish_restore,
    prepare_fresh,
    prepare_restore,
    release,
    take_checkpoint,
)

pytestmark = [pytest.mark.criu, pytest.mark.timeout(300)]

JOB_ID = "11111111-2222-3333-4444-555555555555"
RESERVE = 32 << 20


def chain(rounds: int, mebibytes: int = 32, pause: float = 0.01) -> list[str]:
    return ["/usr/bin/python3", "/jobs/chain.py", str(rounds), str(mebibytes), str(pause), "/data", "/var/lib"]


def identity(epoch: int) -> Identity:
    return Identity(JOB_ID, epoch=epoch, attempt=epoch, instance_id=f"i-{epoch:017x}", zone="us-east-1a")


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed.make(tmp_path)
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def fresh(bed: Bed, epoch: int) -> Running:
    """A clean start."""
    ensure_layout(bed.volume.root)
    container = bed.container()
    await prepare_fresh(container, epoch=epoch)
    return bed.start(bed.launch(container, ["create"]))


async def restored(bed: Bed, epoch: int, number: int) -> Running:
    """The job from a checkpoint, going on."""
    container = bed.container()
    prepared = await prepare_restore(container, number, epoch=epoch, job_id=JOB_ID)
    running = bed.launch(container, ["restore", *prepared.argv])
    await finish_restore(running.container, prepared.manifest)
    await continue_restored(running.container)
    return running


async def checkpoint(running: Running, epoch: int, kind: CheckpointKind = CheckpointKind.PERIODIC) -> Manifest:
    return await take_checkpoint(
        running.container, identity(epoch), kind=kind, limit_seconds=60, keep=2, reserve_bytes=RESERVE
    )


async def die(bed: Bed, running: Running) -> None:
    """No notice: the disk loses what was not synced, the processes die; the volume is attached elsewhere."""
    bed.volume.lose_power()
    bed.kill(running)
    tool("umount", running.container.rootfs)
    bed.change_node()


async def hand_over(bed: Bed, running: Running) -> None:
    """After a final checkpoint: the container is ended, the volume moves to another zone."""
    await end_frozen(running.container)
    await release(running.container)
    bed.change_node(move=True)


def outputs(bed: Bed, running: Running) -> dict[str, bytes]:
    root = bed.volume.root
    return {
        "stdout": running.log(),
        "stderr": running.log("stderr"),
        "append log": (root / "layer/upper/var/lib/chain.log").read_bytes(),
    }


async def test_cycles(bed: Bed) -> None:
    """Deaths without notice and notices in turn, and the output is that of an uninterrupted run."""
    bed.command = chain(300)
    running = await fresh(bed, 1)
    for epoch in (1, 2, 3):
        running.more_lines(15)
        manifest = await checkpoint(running, epoch)
        running.more_lines(15)
        print(epoch, manifest.phases)
        if epoch % 2:
            await die(bed, running)
        else:
            manifest = await checkpoint(running, epoch, CheckpointKind.FINAL)
            await hand_over(bed, running)
        running = await restored(bed, epoch + 1, manifest.number)
    assert running.exit_code() == 0
    seen = outputs(bed, running)
    bed.command = chain(300, pause=0)
    running = await fresh(bed, 5)
    assert running.exit_code() == 0
    assert seen == outputs(bed, running)


async def test_a_dump_that_takes_too_long_is_given_up_and_the_job_goes_on(bed: Bed) -> None:
    """At whatever instant the limit falls: nothing of the checkpoint is left, and the job is none the worse."""
    bed.command = chain(400, mebibytes=300)
    running = await fresh(bed, 1)
    running.more_lines(3)
    for limit in (0.02, 0.08, 0.14, 0.2, 0.3):
        with pytest.raises(CheckpointFailed, match="it was thawed"):
            await take_checkpoint(
                running.container,
                identity(1),
                kind=CheckpointKind.FINAL,
                limit_seconds=limit,
                keep=2,
                reserve_bytes=RESERVE,
            )
        assert not freezer_of(running).frozen()
        assert os.listdir(bed.volume.root / "checkpoints") == ["last"]
        running.more_lines(3)
    assert (await checkpoint(running, 1)).number == 6
