"""Lazy restores by the agent: told, and handed over like a reclaim if the memory cannot come in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.retries import HandOver
from tests.integration.agent_bed import Bed, Launched, Node, bed, until
from worker_agent.engine.lazy.guard import STATE

pytestmark = [pytest.mark.criu, pytest.mark.timeout(300)]

MEMORY = """exec python3 -c "
import hashlib, os, time
memory = os.urandom(48 << 20)
wanted = hashlib.sha256(memory).digest()
for number in range(60):
    print('line', number, flush=True)
    time.sleep(.05)
    assert hashlib.sha256(memory).digest() == wanted
raise SystemExit(7)
"
"""


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


async def held(node: Node, launched: Launched) -> int:
    """The program that brings memory in, stopped as soon as it has verified what CRIU reads itself."""

    def sound() -> int | None:
        try:
            state = json.loads(node.path(node.folder / "run/containers" / launched.id / "criu" / STATE).read_text())
        except FileNotFoundError:
            return None
        return int(state["pid"]) if state["stage"] == "sound" else None

    pid = await until(sound, "sound")
    os.kill(pid, signal.SIGSTOP)
    return int(pid)


async def test_a_job_whose_memory_fails_to_come_in_is_handed_over_and_restored_whole(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, MEMORY, home.plan())
    await launched.more_lines(3)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)

    node = await home.new_node()
    retried = {"lazy_restore": True, "hand_over": HandOver.END_CONTAINER}
    await home.workflow.signal("set_plan", home.plan(Verdict.RESTORE, **retried))
    second = home.container(node, "exit 9", attempt=2)
    holding = asyncio.create_task(held(node, second))
    assert await node.create(second), f"{second.said}\n{node.agent_log()}"
    await node.start(second)
    started = await home.report(ReportKind.STARTED, 2)
    assert (started.restored_from, started.rungs) == (outcome.checkpoint.number, [])
    os.kill(await holding, signal.SIGKILL)
    assert await second.exit_code() == -signal.SIGKILL
    await node.delete(second)
    given_up = await home.report(ReportKind.HANDED_OVER)
    assert given_up.hand_over is HandOver.END_CONTAINER and "died" in given_up.reason
    assert not await home.reports(ReportKind.EXITED), "it is not the job's own end"
    assert not second.lines(), "it never ran on"

    third = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, **retried), attempt=3)
    assert await third.exit_code() == 7
    said = [report.reason for report in await home.reports(ReportKind.REMARK)]
    assert any("not lazily: it failed once before" in reason for reason in said), said
    log = home.job_root(node) / "log/stdout"
    assert log.read_text().splitlines() == [f"line {number}" for number in range(60)]


async def test_a_lazily_restored_job_sees_its_memory_and_its_timeline_says_when_all_was_there(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, MEMORY, home.plan())
    await launched.more_lines(3)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)
    node = await home.new_node()
    plan = home.plan(Verdict.RESTORE, lazy_restore=True, hand_over=HandOver.END_CONTAINER)
    again = await home.launch(node, "exit 9", plan, attempt=2)
    said = (await home.report(ReportKind.REMARK)).reason
    assert "before all of its memory was there" in said
    second = await home.checkpoint(node)
    assert second.checkpoint is not None and second.checkpoint.number == 2, second.failure
    assert await again.exit_code() == 7
    assert (home.job_root(node) / "log/stdout").read_text().splitlines() == [f"line {n}" for n in range(60)]
