"""Somebody is killed at each step of a checkpoint and of a restore: the job is alive or restorable, never frozen for
good; no torn checkpoint is offered; the same checkpoint restores again, on the same node and on another.

The steps are the engine's own lists, so a new step is covered by itself. `make test` kills one at each step, in turn;
the whole product is marked `matrix`.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator
from itertools import product

import pytest

from perdure.domain.checkpoints import CheckpointKind
from perdure.image.mounts import mounts_below
from perdure.image.pages.sink import NAME as PAGE_SINK
from tests.integration import engine_killed
from tests.integration.engine_bed import JOBS, Bed, Running, alive, freezer_of
from tests.integration.engine_killed import AGENT, Order
from tests.integration.engine_places import tool, wait_for
from tests.integration.test_engine import checkpoint, die, fresh, identity, restored, written
from tests.patience import PATIENCE
from worker_agent.engine import Container, offered, tasks, thaw, thaw_and_clean
from worker_agent.engine.checkpoint import AFTER, BEFORE, COMMITTED, FROZEN
from worker_agent.engine.job_root import store
from worker_agent.engine.restore import STEPS

pytestmark = [pytest.mark.criu]

CHECKPOINT_STEPS = [step for step, _ in (*BEFORE, *FROZEN, *AFTER, *COMMITTED)]
RESTORE_STEPS = [step for step, _ in STEPS]
MEBIBYTES = 4
ENDLESS = ["/usr/bin/python3", "/jobs/chain.py", "1000000", str(MEBIBYTES), "0.02", "/data", "/var/lib"]
KINDS = (CheckpointKind.PERIODIC, CheckpointKind.FINAL)
IN_TURN = [(step, AGENT, KINDS[number % 2]) for number, step in enumerate(CHECKPOINT_STEPS)]
IN_TURN += [("pause", "runc", KINDS[1]), ("dump", "runc", KINDS[0]), ("clone", "cp", KINDS[1])]
IN_TURN += [("dump", "criu", KINDS[0])]
IN_TURN += [("dump", PAGE_SINK, KINDS[1]), ("clone", PAGE_SINK, KINDS[0]), ("assemble", PAGE_SINK, KINDS[1])]
MUST, TRIES = {("dump", "runc"), ("dump", "criu"), ("clone", "cp")}, 5
"""Programs that are to be killed in that step, however short it is; and how often that is tried again."""
PRODUCT = list(product(CHECKPOINT_STEPS, (AGENT, "runc", "cp", "criu", PAGE_SINK), KINDS))


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    made.command = ENDLESS
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


def obey(order: Order) -> tuple[int, str]:
    """Carried out by a process of its own; its status and what it said."""
    argv = [sys.executable, "-m", engine_killed.__name__]
    done = subprocess.run(
        argv, input=pickle.dumps(order), capture_output=True, timeout=PATIENCE, check=False, start_new_session=True
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode()


def nobody_works(container: Container) -> bool:
    root = container.job_root
    return not tasks.users_of(container.work_dir, store(root).root)


async def settle(running: Running, killed_agent: bool) -> None:
    """What is there afterwards: an agent that starts again, or the old one, which goes on."""
    if killed_agent:
        await thaw_and_clean(running.container)
    else:
        wait_for(lambda: nobody_works(running.container), "the end of an orphan")


def check(running: Running, before: list[int]) -> None:
    """Nothing is frozen, offered and torn, or left at work."""
    root = running.container.job_root
    assert not freezer_of(running).frozen()
    assert nobody_works(running.container)
    now = offered(root)
    assert {name for name in os.listdir(root / "checkpoints") if name.isdigit()} == set(map(str, now))
    assert now[:1] >= before[:1], "the newest stays"
    for number in now:
        store(root).verify(number)


async def as_uninterrupted(bed: Bed, running: Running) -> None:
    """What the job has written so far is what it writes when nothing happens."""
    now = {name: data[: data.rindex(b"\n") + 1] for name, data in written(bed, running).items()}
    rounds = now["stdout"].count(b"\n")
    folder = bed.folder / "reference"
    folder.mkdir()
    argv = [sys.executable, str(JOBS / "chain.py"), str(rounds), str(MEBIBYTES), "0", str(folder), str(folder)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.startswith(now["stdout"])
    assert (done.stderr + b"tenth").startswith(now["stderr"][: len(done.stderr)])
    log = (folder / "chain.log").read_bytes()
    assert now["log"].startswith(log) or log.startswith(now["log"])


def await_life_or_death(running: Running) -> None:
    goal = running.lines() + 30
    wait_for(lambda: running.lines() >= goal or not alive(running.container.init_pid), "life or death")


async def killed_in_checkpoints(bed: Bed, combinations: list[tuple[str, str, CheckpointKind]]) -> None:
    running, epoch = await fresh(bed), 1
    running.more_lines(2)
    await checkpoint(running)
    met, todo = set(), deque(combinations)
    missed: Counter[tuple[str, str]] = Counter()
    while todo:
        step, victim, kind = todo.popleft()
        before = offered(bed.volume.root)
        status, said = obey(Order(running.container, identity(epoch), step, victim, kind))
        if victim == AGENT:
            assert status == -signal.SIGKILL, (step, said)
        elif "killed: True" in said:
            met.add((step, victim))
        elif (step, victim) in MUST and missed[step, victim] < TRIES:  # it came and went between two looks
            missed[step, victim] += 1
            todo.append((step, victim, kind))
        await settle(running, victim == AGENT)
        if "done" in said:
            assert offered(bed.volume.root)[0] > before[0], (step, victim, kind)
            await thaw(running.container)  # a final one stands
        check(running, before)
        if victim == "criu" and "killed: True" in said:
            # It may have left sockets half repaired: then the job dies of it, and comes back from its checkpoint.
            await_life_or_death(running)
            if not alive(running.container.init_pid):
                epoch += 1
                await die(bed, running)
                running = await restored(bed, epoch, offered(bed.volume.root)[0])
        running.more_lines(2)
    newest = (await checkpoint(running, epoch)).number
    await die(bed, running)
    running = await restored(bed, epoch + 1, newest)
    running.more_lines(5)
    await as_uninterrupted(bed, running)
    assert met >= MUST, met


async def test_somebody_is_killed_at_each_step_of_a_checkpoint(bed: Bed) -> None:
    await killed_in_checkpoints(bed, IN_TURN)


@pytest.mark.matrix
@pytest.mark.timeout(3000)
async def test_everybody_is_killed_at_each_step_of_a_checkpoint(bed: Bed) -> None:
    await killed_in_checkpoints(bed, PRODUCT)


async def test_the_agent_is_killed_at_each_step_of_a_restore(bed: Bed) -> None:
    running = await fresh(bed)
    running.more_lines(5)
    number = (await checkpoint(running)).number
    await die(bed, running)
    epoch = 1
    for turn, step in enumerate(RESTORE_STEPS):
        epoch += 1
        container = bed.container()
        status, said = obey(Order(container, identity(epoch), step, restore=number))
        assert status == -signal.SIGKILL, (step, said)
        assert offered(bed.volume.root)[0] == number
        store(bed.volume.root).verify(number)
        if turn % 2:  # that node is gone
            for mount in mounts_below(bed.folder / "containers" / container.id):
                tool("umount", mount.point)
            bed.change_node()
        running = await restored(bed, epoch + 1, number)
        epoch += 1
        running.more_lines(2)
        if turn in (0, len(RESTORE_STEPS) - 1):
            number = (await checkpoint(running, epoch)).number
        await die(bed, running)
    running = await restored(bed, epoch + 1, number)
    running.more_lines(3)
    await as_uninterrupted(bed, running)
