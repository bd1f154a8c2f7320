"""The engine on a kernel that has cgroup version 2 alone."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import time
from pathlib import Path

from tests.integration.engine_bed import alive, freezer_of
from tests.integration.engine_places import wait_for
from tests.patience import PATIENCE
from tests.vm.inside.bed import KNOBS, Scene, limits, members, pages, status, uninterrupted, written
from worker_agent.engine import Freezer, thaw_and_clean
from worker_agent.engine.runc import pause
from worker_agent.rehearse.shielding import SETTINGS, network_settings
from worker_agent.rehearse.spec import Spec
from worker_agent.rehearse.staging import run_stage


def moved(user: dict[str, object] | None = None) -> dict[str, object]:
    """A checkpoint, some more work, death, a restore under another cgroup path, the end."""
    return asyncio.run(_moved(user))


async def _moved(user: dict[str, object] | None) -> dict[str, object]:
    scene = Scene([*pages(8, 30), "400"], user=user)  # at its end it takes more memory than it may
    first = await scene.fresh()
    scene.go_on(first, 10)
    before = limits(first), status(first.container.init_pid, "Uid", "Gid", "Groups")
    manifest = await scene.checkpoint(first)
    assert not freezer_of(first).frozen()
    scene.go_on(first, 15)
    scene.die(first)
    second = await scene.restored(manifest.number)
    old, new = freezer_of(first).path, freezer_of(second).path
    pid = second.container.init_pid
    assert new.name == second.container.id, new
    assert old != new and members(old) == [] and pid in members(new), (members(old), members(new))
    after = limits(second), status(pid, "Uid", "Gid", "Groups")
    scene.go_on(second, 20)
    again = await scene.checkpoint(second)
    assert again.number > manifest.number and again.full == manifest.full
    scene.go_on(second, 30)
    assert second.exit_code(PATIENCE) == -signal.SIGKILL
    return {
        "memory": dict(line.split() for line in (new / "memory.events").read_text().splitlines()),
        "limits": [dict(zip(KNOBS, one[0].values(), strict=True)) for one in (before, after)],
        "users": [before[1], after[1]],
        "same": written(second) == uninterrupted(pages(8, 30)),
        "first line": second.log().splitlines()[0].decode(),
    }


def rehearsed() -> dict[str, object]:
    """A checkpoint is restored beside its job, which goes on to its end."""
    return asyncio.run(_rehearsed())


async def _rehearsed() -> dict[str, object]:
    scene = Scene(pages(8, 40))
    first = await scene.fresh()
    scene.go_on(first, 10)
    manifest = await scene.checkpoint(first)
    container = first.container
    spec = Spec.of(
        container,
        job_id=manifest.job_id,
        number=manifest.number,
        own_network=False,
        network_settings=network_settings(SETTINGS),
        memory_bytes=200 << 20,
        reserve_bytes=16 << 20,
        restore_seconds=300.0,
    )
    task = asyncio.create_task(run_stage(spec, 600))
    group = Path(f"/sys/fs/cgroup{spec.cgroup}")
    limit = ""
    while not task.done():
        with contextlib.suppress(OSError):
            limit = (group / "memory.max").read_text().strip()
        await asyncio.sleep(0.01)
    answer = task.result()
    scene.go_on(first, 40)
    assert first.exit_code(PATIENCE) == 0
    return {
        "verdict": [answer.verdict, answer.reason, answer.processes],
        "limit": limit,
        "left": [str(path) for path in (group, spec.folder) if path.exists()],
        "same": written(first) == uninterrupted(pages(8, 40)),
    }


def killed_frozen(trials: int) -> int:
    """Four processes that count as fast as they can are frozen and killed: how many of them counted on."""
    counters = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    went_on = 0
    for trial in range(trials):
        group = Path(f"/sys/fs/cgroup/trial-{trial}/job")
        group.mkdir(parents=True)
        pids = [_count(counters, number * mmap.PAGESIZE, group) for number in range(4)]
        before = bytes(counters)
        wait_for(lambda before=before: _all_changed(before, bytes(counters)), "all count")  # type: ignore[misc]
        freezer = Freezer.of_process(pids[0])
        assert freezer.path == group and freezer.unified
        (group / "cgroup.freeze").write_text("1")
        wait_for(lambda group=group: "frozen 1" in (group / "cgroup.events").read_text(), "frozen")  # type: ignore[misc]
        assert freezer.frozen()
        before = bytes(counters)
        freezer.kill()
        freezer.wait_empty(PATIENCE)
        went_on += bytes(counters) != before
        for pid in pids:
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        group.rmdir()
    return went_on


def _count(counters: mmap.mmap, place: int, group: Path) -> int:
    pid = os.fork()
    if pid == 0:
        (group / "cgroup.procs").write_text("0")
        value = int.from_bytes(counters[place : place + 8], "little")
        while True:
            value += 1
            counters[place : place + 8] = value.to_bytes(8, "little")
    return pid


def _all_changed(before: bytes, after: bytes) -> bool:
    starts = range(0, len(before), mmap.PAGESIZE)
    return all(before[start : start + 8] != after[start : start + 8] for start in starts)


def left_frozen() -> list[str]:
    """An agent died while its job was frozen: the next one lets it run on."""
    return asyncio.run(_left_frozen())


async def _left_frozen() -> list[str]:
    scene = Scene(pages(1, 20))
    running = await scene.fresh()
    scene.go_on(running, 5)
    running.container.frozen_by_us.touch()  # as the checkpoint's step does; a user's own pause would stay
    await pause(running.container)

    def quiet() -> bool:
        lines = running.lines()
        time.sleep(0.5)
        return running.lines() == lines

    wait_for(quiet, "the end of what it wrote before")
    assert quiet()
    remarks = await thaw_and_clean(running.container)
    assert not freezer_of(running).frozen()
    scene.go_on(running, 20)
    assert running.exit_code(PATIENCE) == 0 and not alive(running.container.init_pid)
    return remarks
