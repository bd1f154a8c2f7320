"""Somebody is killed while the runtime restores a container: the agent at each of its steps, and runc, CRIU, the
runtime or the agent once CRIU has begun. With the real agent and runtime; the engine's own steps: test_killed.py."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.contracts.protection import ReportKind, Verdict
from perdure.settings import CRIU_PREFIX
from tests.integration import killing_agent
from tests.integration.agent_bed import Bed, Launched, Node, bed, frozen, kill_cgroup, until
from tests.patience import PATIENCE
from worker_agent.engine.restore import STEPS

pytestmark = [pytest.mark.criu]

COUNT = 'i=0; while :; do echo "line $i"; echo "line $i" >> /log; i=$((i+1)); sleep 0.05; done'
HELD_CRIU = """#!/bin/sh
# CRIU, but a restore stands still at its beginning while the file `hold` is there.
here=${0%%/*}
if [ "$1" = swrk ] && [ -e "$here/hold" ]; then
    echo $$ >"$here/held.new"
    mv "$here/held.new" "$here/held"
    while [ -e "$here/hold" ]; do sleep 0.02; done
fi
exec %s "$@"
"""


class Holder:
    """A stand-in for CRIU that can be made to wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "criu"
        self.program.write_text(HELD_CRIU % (CRIU_PREFIX / "bin/criu"))
        self.program.chmod(0o755)

    def arm(self) -> None:
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").touch()

    async def met(self) -> int:
        """The process that is to become CRIU, once it waits."""
        return int(await until(lambda: _read(self.folder / "held"), "CRIU at its beginning"))

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def holder() -> Iterator[Holder]:
    folder = Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp"))
    made = Holder(folder)
    yield made
    made.release()
    shutil.rmtree(folder)


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


async def a_job_with_a_checkpoint(home: Bed) -> int:
    node = await home.new_node()
    launched = await home.launch(node, COUNT, home.plan())
    await launched.more_lines(5)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)
    return outcome.checkpoint.number


async def begin(home: Bed, node: Node, attempt: int) -> tuple[Launched, asyncio.Task[bool]]:
    """A container of the next attempt, whose create is under way."""
    await home.workflow.signal("set_plan", home.plan(Verdict.RESTORE))
    launched = home.container(node, "exit 9", attempt)
    return launched, asyncio.create_task(node.create(launched))


async def runs_on(home: Bed, node: Node, launched: Launched, number: int) -> None:
    """It was restored from that checkpoint and goes on without a gap; then it ends and everything is let go."""
    starts = len(await home.reports(ReportKind.STARTED))
    await node.start(launched)
    started = await home.report(ReportKind.STARTED, starts + 1)
    assert started.restored_from == number, node.agent_log()
    await launched.more_lines(3)
    assert not frozen(f"{home.cgroup}/{launched.id}")
    log = home.job_root(node) / "log/stdout"
    written = log.read_text().splitlines()[:-1]
    assert written == [f"line {count}" for count in range(len(written))]
    kill_cgroup(f"{home.cgroup}/{launched.id}")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(launched.pid, 0)
    await let_go(node, launched)


async def let_go(node: Node, launched: Launched) -> None:
    """The container engine deletes what is left; nothing of it stays on the node."""
    status, said = await node.runtime(launched, "delete", "--force", launched.id)
    assert status == 0, said
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    await until(lambda: not node.path(node.folder / "run/containers" / launched.id).exists(), "it is forgotten")
    assert ".criu.cgyard" not in node.mounted()


async def test_somebody_is_killed_once_criu_has_begun(home: Bed, holder: Holder) -> None:
    number = await a_job_with_a_checkpoint(home)
    node = await home.new_node(PERDURE_CRIU=str(holder.program))
    for attempt, victim in enumerate(("runc", "criu", "agent", "runtime", "runtime, then deleted"), start=2):
        holder.arm()
        launched, creating = await begin(home, node, attempt)
        criu = await holder.met()
        runc = parent(criu)
        if victim == "agent":
            node.kill_agent()
            await node.start_agent()
        else:
            os.kill({"runc": runc, "criu": criu}.get(victim) or parent(runc), signal.SIGKILL)
        if victim == "runtime, then deleted":
            assert not await creating
            await let_go(node, launched)
        holder.release()
        if victim == "runtime":
            # Orphans go on and finish the restore; the container engine gives the container up.
            assert not await creating
            await until(functools.partial(_ended, runc), "the orphan's end")
            await let_go(node, launched)
        elif "runtime" not in victim:
            assert await creating, (victim, launched.said, node.agent_log())
            await runs_on(home, node, launched, number)
    launched, creating = await begin(home, await home.new_node(), 9)
    assert await creating, launched.said
    await runs_on(home, home.nodes[-1], launched, number)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    "steps", [STEPS[1::3], pytest.param(STEPS, marks=pytest.mark.matrix)], ids=["some steps", "each step"]
)
async def test_the_agent_is_killed_in_a_restore_that_the_runtime_waits_for(home: Bed, steps: tuple[Any, ...]) -> None:
    """At each step by itself: test_killed.py."""
    number = await a_job_with_a_checkpoint(home)
    node = await home.new_node()
    for turn, (step, _) in enumerate(steps):
        if turn % 2:
            node.close()
            home.nodes.remove(node)
            node = await home.new_node()
        node.kill_agent()
        await node.start_agent(killing_agent.__name__, KILL_AT=step)
        assert node.agent is not None
        launched, creating = await begin(home, node, turn + 2)
        await asyncio.wait_for(asyncio.to_thread(node.agent.wait), PATIENCE)
        assert node.agent.returncode == -signal.SIGKILL
        node.kill_agent()
        await node.start_agent()
        assert await creating, (step, launched.said, node.agent_log())
        await runs_on(home, node, launched, number)


async def test_a_container_that_is_given_up_while_it_waits_for_its_plan_leaves_nothing(home: Bed) -> None:
    """Its job was cancelled, terminated or timed out: the container engine kills the runtime, and the agent sees it."""
    node = await home.new_node()
    launched = home.container(node, "echo never")
    before = (launched.bundle / "config.json").read_text()
    creating = asyncio.create_task(node.create(launched))  # the scripted workflow says WAIT, again and again
    folder = node.path(node.folder / "run/containers" / launched.id)
    await until(folder.exists, "the agent's record")
    os.kill(runtime_of(launched), signal.SIGKILL)
    assert not await asyncio.wait_for(creating, PATIENCE)
    await until(lambda: not folder.exists(), "it is forgotten")
    assert (launched.bundle / "config.json").read_text() == before
    await until(lambda: "given up before it was created" in node.agent_log(), "the word of it")


def runtime_of(launched: Launched) -> int:
    """The runtime's process that works on this container."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if launched.id.encode() in words and b"-I" in words:
                return int(process.name)
    raise AssertionError("no runtime at work")
