"""Lazy restores: the job goes on before its memory is there, sees nothing but what was saved, and loses nothing if that
fails."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import CheckpointFailed, TooLate
from tests.integration import lazy_held, lazy_pages
from tests.integration.engine_bed import Bed, Running, alive
from tests.integration.engine_places import wait_for
from tests.integration.test_engine import (
    JOB_ID,
    RESERVE,
    chain,
    die,
    fresh,
    hand_over,
    identity,
    uninterrupted,
    written,
)
from tests.patience import PATIENCE
from worker_agent.engine import (
    Freezer,
    continue_restored,
    finish_restore,
    offered,
    prepare_restore,
    take_checkpoint,
    tasks,
)
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.lazy_pages.guard import RESTORE_WHOLE, STATE

pytestmark = [pytest.mark.criu]

ROUNDS, MEBIBYTES = 200, 96


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    made.command = [*chain(ROUNDS, MEBIBYTES), "alone"]
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


def state_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / STATE).read_text())
    return read


async def restored(bed: Bed, epoch: int, number: int) -> tuple[Running, str]:
    """The job from a checkpoint, going on, lazily if it can be; and why not."""
    container = bed.container()
    prepared = await prepare_restore(container, number, epoch=epoch, job_id=JOB_ID, pages_later=True, lazily=True)
    running = bed.launch(container, ["restore", *prepared.argv])
    assert await lazy.is_sound(container) == prepared.lazily
    await finish_restore(running.container, prepared.manifest)
    await continue_restored(running.container, prepared.manifest)
    return running, prepared.not_lazy


async def checkpoint(running: Running, epoch: int) -> int:
    """As the agent takes one: only of memory that is whole."""
    await lazy.whole(running.container, limit_seconds=PATIENCE, number=1)
    manifest = await take_checkpoint(
        running.container,
        identity(epoch),
        kind=CheckpointKind.PERIODIC,
        limit_seconds=PATIENCE,
        keep=2,
        reserve_bytes=RESERVE,
    )
    return manifest.number


async def test_a_lazily_restored_job_goes_on_and_one_whose_memory_fails_is_ended_and_restored_whole(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await fresh(bed)
    running.more_lines(10)
    await checkpoint(running, 1)
    await die(bed, running)

    running, why = await restored(bed, 2, 1)
    assert not why
    running.more_lines(5)
    assert await checkpoint(running, 2) == 2
    assert state_of(running.container.work_dir)["stage"] == "drained"
    await die(bed, running)

    monkeypatch.setattr(lazy, "PROGRAM", lazy_held.__name__)
    running, why = await restored(bed, 3, 2)
    assert not why
    running.more_lines(5)  # pages that it asks for come
    with pytest.raises(TooLate, match="checkpoint 2 stays its newest, whole"):  # what a notice finds
        await lazy.whole(running.container, limit_seconds=0, number=2)
    os.kill(state_of(running.container.work_dir)["pid"], signal.SIGKILL)
    wait_for(lambda: not alive(running.container.init_pid), "the job's end")
    wait_for(lambda: not tasks.users_of(bed.volume.root), "the guard's end")
    assert "died" in (bed.volume.root / "checkpoints/2" / RESTORE_WHOLE).read_text()
    assert "died" in lazy.ended_by_us(running.container)
    with pytest.raises(CheckpointFailed, match="did not come in"):
        await lazy.whole(running.container, limit_seconds=0, number=2)
    assert offered(bed.volume.root) == [2, 1]
    assert uninterrupted(ROUNDS, MEBIBYTES)["stdout"].startswith(running.log()), "it saw nothing but its own memory"
    await hand_over(bed, running)

    running, why = await restored(bed, 4, 2)
    assert why == "it failed once before" and lazy.look(running.container) is None
    assert running.end() == 0
    assert written(bed, running) == uninterrupted(ROUNDS, MEBIBYTES)


@pytest.fixture
def cgroup() -> Iterator[Freezer]:
    """One without processes."""
    made = Freezer.of_cgroup(f"/perdure-test-{secrets.token_hex(4)}")
    made.path.mkdir()
    try:
        yield made
    finally:
        made.kill()
        wait_for(lambda: not made.pids(), "an empty cgroup")
        made.path.rmdir()


@pytest.mark.parametrize("damaged", [False, True])
def test_memory_that_changes_while_it_comes_in_holds_what_was_saved_or_nothing_sees_it(
    tmp_path: Path, cgroup: Freezer, damaged: bool
) -> None:
    pages = 64 << 10 >> 2
    work, checkpoint = tmp_path / "work", tmp_path / "checkpoint"
    for folder in (work, checkpoint):
        folder.mkdir()
    images = lazy_pages.checkpoint_of(checkpoint, [pages])
    if damaged:
        with open(checkpoint / images[0].path, "r+b") as file:
            file.seek(pages * lazy_pages.PAGE - 9)
            file.write(b"!")
    request = {
        "charge": {
            "work_folder": str(work),
            "checkpoint": str(checkpoint),
            "freezer": str(cgroup.path),
            "unified": cgroup.unified,
        },
        "images": [image.model_dump() for image in images],
        "later": {42: [[lazy_pages.START, lazy_pages.START + pages * lazy_pages.PAGE, 0]]},
        "at_once": [[0, 300]],
    }
    argv = [sys.executable, "-m", "worker_agent.lazy_pages"]
    begun = subprocess.run(
        argv, input=json.dumps(request).encode(), stdout=subprocess.PIPE, timeout=PATIENCE, check=True
    )
    assert begun.stdout == b"listening\n"
    argv = [sys.executable, lazy_pages.__file__, str(work), str(pages)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        (cgroup.path / "cgroup.procs").write_text(str(process.pid))
        process.stdin.write(b"go\n")
        process.stdin.flush()
        try:
            said = process.stdout.readline()
            assert said == (b"" if damaged else b"ok\n"), process.stderr.read().decode()
            wait_for(lambda: state_of(work)["stage"] not in ("serving", "sound"), "the end of it")
            if damaged:
                assert process.wait(PATIENCE) == -signal.SIGKILL and process.stderr.read() == b""
        finally:
            process.kill()
    assert state_of(work)["stage"] == ("failed" if damaged else "drained"), state_of(work)
    assert ("wrong checksum" in state_of(work)["reason"]) == damaged
