"""Checkpoints that share pages: each is complete by itself, small, and never wrong, whatever goes wrong with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, ImageInvalid, JobRootFull
from perdure.image.pages.sink import NAME
from tests.integration.engine_bed import JOBS, Bed, Running, freezer_of
from tests.integration.test_engine import RESERVE, chain, die, fresh, identity, restored, uninterrupted, written
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import committed, offered, take_checkpoint, tasks
from worker_agent.engine.job_root import store
from worker_agent.engine.writable_layer import unmount_layer

pytestmark = [pytest.mark.criu]

MEBIBYTES = 24
"""Three of the job's processes have this memory, and each of them is in the image with it: enough for a predump."""
ROUNDS, PAUSE = 240, 0.8
"""Three minutes until the job waits for its end. What it does meanwhile costs processor time."""


@pytest.fixture
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    made = Bed.make(reflink=getattr(request, "param", True))
    made.command = chain(ROUNDS, MEBIBYTES, pause=PAUSE)
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def taken(
    running: Running,
    epoch: int = 1,
    *,
    kind: CheckpointKind = CheckpointKind.PERIODIC,
    keep: int = 20,
    full_every: int = 64,
    predump: bool = True,
    victim_at: str = "",
) -> Manifest:
    """A checkpoint; `victim_at`: the page sink is killed when this step begins."""

    def at(step: str) -> None:
        if step == victim_at:
            asyncio.get_running_loop().call_soon(end_sinks, running)

    running.more_lines(1)
    return await take_checkpoint(
        running.container,
        identity(epoch),
        kind=kind,
        limit_seconds=PATIENCE,
        keep=keep,
        reserve_bytes=RESERVE,
        full_every=full_every,
        predump=predump,
        on_step=at,
    )


def end_sinks(running: Running) -> None:
    root = running.container.job_root
    sinks = [pid for pid in tasks.users_of(store(root).root) if proc.command(pid) == NAME]
    assert sinks, "there is no page sink"
    for pid in sinks:
        os.kill(pid, signal.SIGKILL)


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def pages_file(bed: Bed, manifest: Manifest) -> Path:
    largest = max((image for image in manifest.images if image.index), key=lambda image: image.size)
    return bed.volume.root / "checkpoints" / str(manifest.number) / largest.path


async def test_the_first_the_fifth_and_the_tenth_of_a_series_restore_to_the_byte(bed: Bed) -> None:
    running = await fresh(bed)
    series = [await taken(running) for _ in range(10)]
    assert [manifest.full for manifest in series] == [1] * 10
    assert [manifest.after_full for manifest in series] == list(range(10))
    first, *others = [manifest.written_bytes or 0 for manifest in series]
    whole = [sum(image.size for image in manifest.images) for manifest in series]
    assert first > 0.9 * MEBIBYTES * 2**20 and max(others) < 0.3 * min(whole), (first, others)
    assert all(manifest.phases["frozen"] > 0 for manifest in series)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)
    for epoch, number in ((2, 10), (3, 5), (4, 1)):  # the newest first: a restore cuts the job's output
        for gone in (2, 3, 4, 6, 9, 10):  # what is deleted is deleted: the rest loses nothing
            if epoch > 2:
                store(bed.volume.root).delete(gone)
        await die(bed, running)
        running = await restored(bed, epoch, number)
        assert running.end() == 0
        assert written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES), number


async def test_after_a_restore_by_another_agent_pages_are_shared_on(bed: Bed) -> None:
    """They are found by their content, in an index that the manifest covers."""
    running = await fresh(bed)
    before = await taken(running)
    await die(bed, running)
    running = await restored(bed, 2, before.number)
    after = await taken(running, 2)
    assert after.full == before.full and after.after_full == 1
    assert (after.written_bytes or 0) < 0.3 * after.image_bytes
    await die(bed, running)
    running = await restored(bed, 3, after.number)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


@pytest.mark.parametrize("step", ["predump", "measure", "dump", "drain", "assemble"])
async def test_a_page_sink_that_dies_costs_a_whole_checkpoint_or_none(bed: Bed, step: str) -> None:
    running = await fresh(bed)
    await taken(running)
    try:
        manifest = await taken(running, victim_at=step)
    except CheckpointFailed as error:
        assert step in ("drain", "assemble") and "the page sink failed" in str(error)
        assert offered(bed.volume.root) == [1]
    else:
        assert step != "drain"
        if step == "assemble":  # the sink had done its work before it was killed
            assert offered(bed.volume.root) == [2, 1]
        else:
            assert not any(image.index for image in manifest.images), "CRIU wrote it whole"
    assert not freezer_of(running).frozen()
    for _ in range(2):  # the first one shares nothing, because nobody knows what was wrong
        manifest = await taken(running)
        store(bed.volume.root).verify(manifest.number)
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


async def test_one_bad_block_spoils_those_that_share_it_and_one_that_does_not_is_kept(bed: Bed) -> None:
    running = await fresh(bed)
    series = [await taken(running, keep=2, full_every=3) for _ in range(5)]
    assert [manifest.full for manifest in series] == [1, 1, 1, 4, 4]
    assert offered(bed.volume.root) == [5, 4, 3], "the newest two, and the newest that shares nothing with them"
    await die(bed, running)
    damaged = pages_file(bed, series[3])
    # In place on the disk: below the file system, which would copy the block.
    at = damaged.stat().st_size // 2
    flip(damaged, at)
    flip(pages_file(bed, series[4]), at)
    for number in (5, 4):
        with pytest.raises(ImageInvalid, match=r"wrong checksum at byte"):
            await restored(bed, 2, number)
    running = await restored(bed, 2, 3)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


async def test_a_damaged_index_ends_in_a_full_checkpoint(bed: Bed) -> None:
    running = await fresh(bed)
    first = await taken(running)
    for image in first.images:
        if image.index:
            flip(bed.volume.root / "checkpoints/1" / image.index, 40)
            break
    second = await taken(running)
    assert second.full == 2 and (second.written_bytes or 0) > 0.9 * MEBIBYTES * 2**20
    third = await taken(running)
    assert third.full == 2 and third.after_full == 1
    await die(bed, running)
    running = await restored(bed, 2, 3)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


async def test_on_a_nearly_full_volume_what_shares_still_fits_and_what_does_not_is_given_up(bed: Bed) -> None:
    running = await fresh(bed)
    await taken(running)
    root = bed.volume.root
    with open(root / "ballast", "wb") as ballast:
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        os.posix_fallocate(ballast.fileno(), 0, free - RESERVE - (60 << 20))  # not enough for a whole one
        second = await taken(running, predump=False)
        assert second.after_full == 1 and offered(root) == [2, 1]
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        ballast.seek(0, os.SEEK_END)
        os.posix_fallocate(ballast.fileno(), ballast.tell(), free - RESERVE - (10 << 20))
        with pytest.raises(JobRootFull):
            await taken(running, predump=False)
    assert not freezer_of(running).frozen() and len(committed(root)) >= 1
    os.unlink(root / "ballast")
    third = await taken(running)
    store(root).verify(third.number)
    await die(bed, running)
    running = await restored(bed, 2, third.number)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


async def test_power_lost_before_the_commit_leaves_the_checkpoint_before(bed: Bed) -> None:
    """Between the assembly and the syncfs nothing of the new one is durable, and nothing of the old one is lost."""
    running = await fresh(bed)
    await taken(running)
    lost = asyncio.Event()

    def at(step: str) -> None:
        if step == "sync":
            bed.volume.lose_power()
            lost.set()

    running.more_lines(1)
    with pytest.raises((CheckpointFailed, OSError)):
        await take_checkpoint(
            running.container,
            identity(1),
            kind=CheckpointKind.PERIODIC,
            limit_seconds=PATIENCE,
            keep=2,
            reserve_bytes=RESERVE,
            on_step=at,
        )
    assert lost.is_set()
    bed.kill(running)
    unmount_layer(running.container.job_root)
    bed.change_node()
    running = await restored(bed, 2, offered(bed.volume.root)[-1])
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


@pytest.mark.parametrize("bed", [False], indirect=True)
async def test_where_files_cannot_share_each_checkpoint_is_written_whole(bed: Bed) -> None:
    running = await fresh(bed)
    for number in (1, 2):
        manifest = await taken(running)
        assert manifest.full == number and not any(image.index for image in manifest.images)
        assert manifest.written_bytes == manifest.image_bytes
    await die(bed, running)
    running = await restored(bed, 2, 2)
    assert running.end() == 0 and written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


async def test_a_predump_is_not_confused_by_forks_programs_and_new_memory(bed: Bed) -> None:
    mebibytes = str(64)  # it forks only for moments: less is not worth a predump
    bed.command = ["/usr/bin/python3", "/jobs/restless.py", "0", mebibytes]
    running = await fresh(bed)
    series = [await taken(running) for _ in range(4)]
    assert all("predump" in manifest.phases and manifest.full == 1 for manifest in series)
    await die(bed, running)
    running = await restored(bed, 2, series[-1].number)
    running.more_lines(3)
    assert running.end() == 0
    rounds = str(running.lines() - 1)
    argv = ["/usr/bin/python3", str(JOBS / "restless.py"), rounds, mebibytes]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True, timeout=PATIENCE)
    assert running.log() == done.stdout
