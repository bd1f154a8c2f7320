"""Lazy restores by the agent: told, and handed over like a reclaim if the memory cannot come in."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator

import pytest

from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.retries import HandOver
from tests.integration import lazy_held_agent
from tests.integration.agent_bed import Bed, bed, until
from worker_agent.lazy_pages.guard import STATE

pytestmark = [pytest.mark.criu]

MEMORY = """exec python3 -c "
import hashlib, os, time
memory = os.urandom(48 << 20)
wanted = hashlib.sha256(memory).digest()
number = 0
while not os.path.exists('/mnt/perdure/hurry'):
    print('line', number, flush=True)
    time.sleep(.05)
    assert hashlib.sha256(memory).digest() == wanted
    number += 1
raise SystemExit(7)
"
"""


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


async def remark(home: Bed, words: str) -> None:
    """Until the job's timeline says so."""

    async def told() -> bool:
        return any(words in report.reason for report in await home.reports(ReportKind.REMARK))

    await until(told, words)


async def test_a_lazy_restore_is_told_and_one_that_fails_is_handed_over_and_made_again_whole(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, MEMORY, home.plan())
    await launched.more_lines(3)
    assert (await home.checkpoint(node)).checkpoint is not None
    home.lose(node, launched)

    node = await home.new_node()
    retried = {"lazy_restore": True, "hand_over": HandOver.END_CONTAINER}
    launched = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, **retried), attempt=2)
    await remark(home, "before all of its memory was there")
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None and outcome.checkpoint.number == 2, outcome.failure
    home.lose(node, launched)

    node = await home.new_node()
    node.kill_agent()
    await node.start_agent(lazy_held_agent.__name__)
    launched = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, **retried), attempt=3)
    started = await home.report(ReportKind.STARTED, 3)
    assert (started.restored_from, started.rungs) == (2, [])
    state = node.path(node.folder / "run/containers" / launched.id / "criu" / STATE)
    os.kill(json.loads(state.read_text())["pid"], signal.SIGKILL)
    assert await launched.exit_code() == -signal.SIGKILL
    await node.delete(launched)
    given_up = await home.report(ReportKind.HANDED_OVER)
    assert given_up.hand_over is HandOver.END_CONTAINER and "died" in given_up.reason
    assert not await home.reports(ReportKind.EXITED), "it is not the job's own end"

    launched = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, **retried), attempt=4)
    await launched.more_lines(3)
    home.hurry(node)
    assert await launched.exit_code() == 7
    await remark(home, "not lazily: it failed once before")
    output = (home.job_root(node) / "log/stdout").read_text().splitlines()
    assert output == [f"line {number}" for number in range(len(output))]
