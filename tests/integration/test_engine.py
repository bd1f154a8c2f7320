"""The engine on real processes: frozen, dumped, killed, rolled back, restored; and the ways in which that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import (
    CheckpointFailed,
    Fenced,
    ImageInvalid,
    JobEnded,
    JobRootBusy,
    JobRootFull,
    NotCheckpointable,
)
from perdure.image.checksums import digest_images
from perdure.image.manifest import read_manifest, write_manifest
from tests.integration import engine_agent
from tests.integration.engine_bed import JOBS, Bed, LaunchFailed, Running, alive, cgroups_seen, freezer_of
from tests.integration.engine_faults import end_criu, traced
from tests.integration.engine_places import wait_for
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import (
    Identity,
    claim_lease,
    committed,
    continue_restored,
    descriptors,
    end_frozen,
    ensure_layout,
    finish_restore,
    locked,
    offered,
    prepare_fresh,
    prepare_restore,
    release,
    take_checkpoint,
    tasks,
    thaw_and_clean,
)
from worker_agent.engine.writable_layer import unmount_layer

pytestmark = [pytest.mark.criu]

JOB_ID = "11111111-2222-3333-4444-555555555555"
RESERVE = 32 << 20
ROUNDS = 400
"""With its pauses the chain writes lines for half a minute at least; it ends when it is asked to."""


def chain(rounds: int = ROUNDS, mebibytes: int = 32, pause: float = 0.05) -> list[str]:
    return ["/usr/bin/python3", "/jobs/chain.py", str(rounds), str(mebibytes), str(pause), "/data", "/var/lib"]


@functools.cache
def uninterrupted(rounds: int = ROUNDS, mebibytes: int = 32) -> dict[str, bytes]:
    """What the job writes when nothing happens to it."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["/usr/bin/python3", str(JOBS / "chain.py"), str(rounds), str(mebibytes), "0", folder, folder]
        done = subprocess.run(argv, capture_output=True, check=True, timeout=PATIENCE)
        return {"stdout": done.stdout, "stderr": done.stderr, "log": Path(folder, "chain.log").read_bytes()}


def written(bed: Bed, running: Running) -> dict[str, bytes]:
    log = bed.volume.root / "layer/upper/var/lib/chain.log"
    return {"stdout": running.log(), "stderr": running.log("stderr"), "log": log.read_bytes()}


def identity(epoch: int) -> Identity:
    return Identity(JOB_ID, epoch=epoch, attempt=epoch, instance_id=f"i-{epoch:017x}", zone="us-east-1a")


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def fresh(bed: Bed, epoch: int = 1) -> Running:
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
    await continue_restored(running.container, prepared.manifest)
    return running


async def checkpoint(
    running: Running,
    epoch: int = 1,
    kind: CheckpointKind = CheckpointKind.PERIODIC,
    limit: float = PATIENCE,
    reserve: int = RESERVE,
) -> Manifest:
    return await take_checkpoint(
        running.container, identity(epoch), kind=kind, limit_seconds=limit, keep=2, reserve_bytes=reserve
    )


async def die(bed: Bed, running: Running) -> None:
    """No notice: the disk loses what was not synced, the processes die; the volume is attached elsewhere."""
    bed.volume.lose_power()
    bed.kill(running)
    unmount_layer(running.container.job_root)
    bed.change_node()


async def hand_over(bed: Bed, running: Running) -> None:
    """After a final checkpoint: the container is ended, the volume moves to another zone."""
    await end_frozen(running.container)
    await release(running.container)
    bed.change_node(move=True)


async def test_deaths_and_notices_in_turn_leave_no_trace_in_the_output(bed: Bed) -> None:
    bed.command = chain(pause=0.15)
    running = await fresh(bed)
    its_cgroups = cgroups_seen(running)
    for epoch in (1, 2, 3):
        running.more_lines(12)
        manifest = await checkpoint(running, epoch)
        assert manifest.processes[0] == "1 python3" and len(manifest.processes) == 3
        running.more_lines(12)
        if epoch % 2:
            await die(bed, running)
        else:
            manifest = await checkpoint(running, epoch, CheckpointKind.FINAL)
            assert freezer_of(running).frozen()
            await hand_over(bed, running)
        running = await restored(bed, epoch + 1, manifest.number)
        assert cgroups_seen(running) == its_cgroups
    assert running.end() == 0
    assert written(bed, running) == uninterrupted()
    assert [manifest.number for manifest in committed(bed.volume.root)] == [3, 4]


async def test_unusual_open_things_survive_two_restores(bed: Bed) -> None:
    things = (
        "lost_name nameless locks fifo unix_socket events watch watch_root watch_file zombie private threads outside"
    )
    bed.command = ["/usr/bin/python3", "/jobs/odd.py", "/data", "/var/lib", *things.split()]
    with bed.outside():
        bed.new_node()
        running = await fresh(bed)
        for epoch in (1, 2):
            running.more_lines(1)
            manifest = await checkpoint(running, epoch)
            assert manifest.addresses == [f"198.18.77.{10 + epoch}"]
            assert len(manifest.lent_names) == 3, "a tmpfs is CRIU's own matter"
            running.more_lines(1)
            await die(bed, running)
            running = await restored(bed, epoch + 1, manifest.number)
        running.more_lines(1)
        assert running.end() == 0, running.log().decode()
    assert running.log() == b"".join(b"ok %d\n" % (10 * number) for number in range(running.lines()))


async def test_a_damaged_checkpoint_is_refused_and_the_one_before_restores(bed: Bed) -> None:
    bed.command = chain()
    running = await fresh(bed)
    running.more_lines(5)
    await checkpoint(running)
    running.more_lines(5)
    damaged = await checkpoint(running)
    await die(bed, running)
    largest = max(damaged.images, key=lambda image: image.size)
    with open(bed.volume.root / "checkpoints" / str(damaged.number) / largest.path, "r+b") as image:
        image.seek(largest.size // 2)
        byte = image.read(1)
        image.seek(largest.size // 2)
        image.write(bytes([byte[0] ^ 1]))
    assert offered(bed.volume.root) == [2, 1]
    with pytest.raises(ImageInvalid, match="wrong checksum"):
        await restored(bed, 2, 2)
    running = await restored(bed, 2, 1)
    assert running.end() == 0
    assert written(bed, running) == uninterrupted()


async def test_a_memory_image_that_was_short_when_it_was_sealed_is_refused_before_criu_reads_it(bed: Bed) -> None:
    """CRIU would read on and on at its end."""
    bed.command = chain()
    running = await fresh(bed)
    running.more_lines(5)
    await checkpoint(running)
    running.more_lines(5)
    short = await checkpoint(running)
    await die(bed, running)
    folder = bed.volume.root / "checkpoints" / str(short.number)
    pages = next(image for image in short.images if Path(image.path).name == "pages-1.img")
    os.truncate(folder / pages.path, pages.size - 4096)
    write_manifest(folder, read_manifest(folder).model_copy(update={"images": digest_images(folder)}))
    with pytest.raises(ImageInvalid, match=rf"pages-1.img ends at {pages.size - 4096} of {pages.size} bytes"):
        await restored(bed, 2, 2)
    running = await restored(bed, 2, 1)
    assert running.end() == 0
    assert written(bed, running) == uninterrupted()


async def test_what_cannot_be_frozen_is_named_and_not_touched(bed: Bed) -> None:
    bed.command = chain()
    running = await fresh(bed)
    running.more_lines(3)
    child = freezer_of(running).pids()[-1]
    with traced(child), pytest.raises(NotCheckpointable, match=rf"process {child} \(python3\) is traced .by process"):
        await checkpoint(running)
    assert os.listdir(bed.volume.root / "checkpoints") == []
    assert (await checkpoint(running)).number == 1
    assert running.end() == 0
    assert written(bed, running) == uninterrupted()


@pytest.mark.parametrize("step", ["look", "pause", "dump"])
async def test_a_job_that_ends_while_it_is_saved_has_not_failed(bed: Bed, step: str) -> None:
    """Killed, as by whoever terminates it in Batch: runc lets the frozen processes go for that."""
    bed.command = chain(mebibytes=200)
    running = await fresh(bed)
    running.first_line()
    epoch, checkpoints = 1, bed.volume.root / "checkpoints"
    known = {"last"}
    while not await ends_while_it_is_saved(running, epoch, step):
        if not alive(running.container.init_pid):  # it was met too late
            await die(bed, running)
            epoch += 1
            running = await restored(bed, epoch, offered(bed.volume.root)[0])
        known = {"last", *os.listdir(checkpoints)}
    assert running.exit_code() == -9
    assert {"last", *os.listdir(checkpoints)} == known


async def ends_while_it_is_saved(running: Running, epoch: int, step: str) -> bool:
    """False: the dump was over between two looks."""
    over = threading.Event()
    ending = threading.Thread(target=end_the_job, args=(running, step == "dump", over))

    def reached(name: str) -> None:
        if name == step:
            ending.start()
            if step != "dump":
                ending.join()

    try:
        await take_checkpoint(
            running.container,
            identity(epoch),
            kind=CheckpointKind.PERIODIC,
            limit_seconds=PATIENCE,
            keep=2,
            reserve_bytes=RESERVE,
            on_step=reached,
        )
    except JobEnded as ended:
        assert "there is nothing to save" in str(ended)
        return True
    finally:
        over.set()
        ending.join()
    assert step == "dump"
    return False


def end_the_job(running: Running, in_a_dump: bool, over: threading.Event) -> None:
    if in_a_dump:
        wait_for(lambda: over.is_set() or criu_works(running), "CRIU at work", pause=0.001)
    if not over.is_set():
        freezer_of(running).kill()
        wait_for(lambda: not freezer_of(running).pids(), "death")


async def test_a_dump_that_takes_too_long_is_given_up_and_the_job_goes_on(bed: Bed) -> None:
    """At whatever instant the limit falls."""
    bed.command = chain(mebibytes=200, pause=0.3)
    running = await fresh(bed)
    for limit in (0.02, 0.12, 0.22):
        running.more_lines(3)
        with pytest.raises(CheckpointFailed, match="it was thawed"):
            await checkpoint(running, kind=CheckpointKind.FINAL, limit=limit)
        assert not freezer_of(running).frozen()
        assert set(os.listdir(bed.volume.root / "checkpoints")) <= {"last"}
    assert (await checkpoint(running)).number in range(1, 6)  # some were given up before they had one
    assert running.end() == 0
    assert written(bed, running) == uninterrupted(mebibytes=200)


@pytest.mark.parametrize("step", ["presync", "dump", "clone", "checksums"])
async def test_a_cancelled_checkpoint_leaves_nothing_and_the_job_goes_on(bed: Bed, step: str) -> None:
    bed.command = chain(mebibytes=4)
    running = await fresh(bed)
    running.more_lines(3)
    begun = asyncio.Event()
    taking = asyncio.create_task(
        take_checkpoint(
            running.container,
            identity(1),
            kind=CheckpointKind.FINAL,
            limit_seconds=PATIENCE,
            keep=2,
            reserve_bytes=RESERVE,
            on_step=lambda name: begun.set() if name == step else None,
        )
    )
    await begun.wait()
    with pytest.raises(JobRootBusy, match="another checkpoint"), locked(bed.volume.root):
        pass
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert not freezer_of(running).frozen()
    assert os.listdir(bed.volume.root / "checkpoints") == ["last"]
    assert running.end() == 0
    assert written(bed, running) == uninterrupted(mebibytes=4)


async def test_on_a_full_volume_old_checkpoints_go_and_then_the_dump_is_refused(bed: Bed) -> None:
    bed.command = chain(pause=0.3)
    running = await fresh(bed)
    running.more_lines(3)
    await checkpoint(running)
    await checkpoint(running)
    root = bed.volume.root
    needed = tasks.dump_bytes(freezer_of(running).pids(), running.container.init_pid) + (16 << 20) + RESERVE
    with open(root / "ballast", "wb") as ballast:
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        os.posix_fallocate(ballast.fileno(), 0, free - needed + (8 << 20))
        assert (await checkpoint(running)).number == 3
        assert offered(root) == [3, 2]
        with pytest.raises(JobRootFull, match="use a larger job volume"):
            await checkpoint(running, reserve=400 << 20)
        assert offered(root) == [3]
    (root / "ballast").unlink()
    running.more_lines(3)
    assert (await checkpoint(running)).number == 4


def criu_works(running: Running) -> bool:
    return "criu" in map(proc.command, tasks.users_of(running.container.work_dir))


def criu_works_inside(running: Running) -> bool:
    """The job's own processes have CRIU's files open: its code runs in them."""
    folder = os.path.realpath(running.container.work_dir)
    with contextlib.suppress(OSError):
        pids = freezer_of(running).pids()
        return any(path.startswith(folder) for pid in pids for path in descriptors.links(pid).values())
    return False


async def test_an_agent_killed_in_a_dump_leaves_a_running_job_and_no_checkpoint(bed: Bed) -> None:
    bed.command = chain(mebibytes=200, pause=0.5)
    running = await fresh(bed)
    running.more_lines(3)
    moments = (("measure", None), ("dump", criu_works), ("dump", criu_works_inside), ("clone", None))
    for step, moment in moments:
        newest = offered(bed.volume.root)[:1]
        kill_an_agent(running, step, moment)
        while moment is not None and offered(bed.volume.root)[:1] != newest:  # it was over between two looks
            await thaw_and_clean(running.container)
            newest = offered(bed.volume.root)[:1]
            kill_an_agent(running, step, moment)
        assert offered(bed.volume.root)[:1] == newest
        remarks = await thaw_and_clean(running.container)
        assert "torn checkpoints were removed" in remarks[-1]
        assert not freezer_of(running).frozen()
        running.more_lines(3)
    assert (await checkpoint(running)).number >= 5
    assert running.end() == 0
    assert written(bed, running) == uninterrupted(mebibytes=200)


def kill_an_agent(running: Running, step: str, moment: Callable[[Running], bool] | None) -> None:
    """One that takes a checkpoint: at the beginning of that step, or at a moment within it, if it is met."""
    script = [sys.executable, "-m", engine_agent.__name__]
    agent = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert agent.stdin is not None and agent.stdout is not None
    with agent.stdin, agent.stdout:
        agent.stdin.write(pickle.dumps((running.container, identity(1), "" if moment else step)))
        agent.stdin.close()
        while agent.stdout.readline().decode().strip() != step:
            assert agent.poll() is None
        if moment is not None:
            wait_for(lambda: moment(running) or agent.poll() is not None, moment.__name__, pause=0.001)
        agent.kill()
        agent.wait()


async def test_a_restore_that_was_killed_succeeds_when_it_is_tried_again(bed: Bed) -> None:
    """On the same node, whatever the killed one left: processes, mounts of all cgroups, a half-made container."""
    bed.command = chain(mebibytes=200)
    running = await fresh(bed)
    running.more_lines(5)
    manifest = await checkpoint(running)
    await die(bed, running)
    for sign in ("Forking task", "Restore via sigreturn"):  # while it forks; while the memory is read
        container = bed.container()
        prepared = await prepare_restore(container, manifest.number, epoch=2, job_id=JOB_ID)
        with end_criu(container, sign), pytest.raises(LaunchFailed):
            bed.launch(container, ["restore", *prepared.argv])
    running = await restored(bed, 2, manifest.number)
    assert running.end() == 0
    assert written(bed, running) == uninterrupted(mebibytes=200)


async def test_a_job_that_closed_its_output_is_as_safe_as_any_other(bed: Bed) -> None:
    """Its keeper has ended: there is nothing to drain."""
    bed.command = ["/bin/sh", "-c", f"echo first; exec >/data/out 2>&1; exec {' '.join(chain(mebibytes=4))}"]
    running = await fresh(bed)
    out = bed.volume.root / "seen/data/out"
    running.keeper.wait(PATIENCE)
    wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") > 5, "output in the job's own file")
    manifest = await checkpoint(running)
    assert manifest.stdio.stdout == len(b"first\n")
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    assert running.end() == 0
    assert running.log() == b"first\n"
    lines = [line for line in out.read_bytes().splitlines(keepends=True) if not line.startswith(b"tenth")]
    assert b"".join(lines) == uninterrupted(mebibytes=4)["stdout"]


async def test_an_older_epoch_can_neither_checkpoint_nor_restore(bed: Bed) -> None:
    bed.command = chain(mebibytes=4)
    running = await fresh(bed)
    running.more_lines(1)
    await checkpoint(running)
    claim_lease(bed.volume.root, 2)
    with pytest.raises(Fenced, match="belongs to epoch 2"):
        await checkpoint(running)
    with pytest.raises(Fenced, match="belongs to epoch 2"):
        await prepare_restore(bed.container(), 1, epoch=1, job_id=JOB_ID)
    with pytest.raises(Fenced, match="belongs to epoch 2"):
        await prepare_fresh(bed.container(), epoch=1)
    assert alive(running.container.init_pid)
    assert offered(bed.volume.root) == [1]
