"""Several containers in one job: they run unprotected, people hear of it, and none is taken for a retry of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.contracts.protection import AttachReply, ReportKind, Verdict
from tests.integration.agent_bed import Bed, bed, until

pytestmark = pytest.mark.criu


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


async def test_a_second_container_beside_one_that_lives_runs_unprotected_and_after_its_death_it_is_a_retry(
    home: Bed,
) -> None:
    node = await home.new_node()
    first = await home.launch(node, "read never < /dev/zero; sleep 1000", home.plan())
    await home.report(ReportKind.STARTED)
    second = await home.launch(node, "echo beside", None)
    assert await second.exit_code() == 0
    assert second.lines() == ["beside"]
    remark = await home.report(ReportKind.REMARK)
    assert (remark.epoch, remark.level) == (0, "warning")
    assert "jobs of several containers" in remark.reason
    await node.delete(second)
    await node.runtime(first, "kill", first.id, "KILL")
    assert await first.exit_code() == -9
    await node.delete(first)
    await home.workflow.signal("set_plan", home.plan())
    retry = await home.launch(node, "echo again", None)  # the same number: Batch had not counted the first
    assert (await home.report(ReportKind.STARTED, 2)).epoch == 2
    assert await retry.exit_code() == 0


async def test_containers_that_start_together_ask_one_after_the_other_and_none_is_refused(home: Bed) -> None:
    """The workflow knows from Batch how many there are; each that it accepts fences the one before."""
    node = await home.new_node()
    made = [home.container(node, f"echo {number}") for number in range(2)]
    creating = [asyncio.create_task(node.create(one)) for one in made]
    for one in made:
        folder = node.path(node.folder / "run/containers" / one.id)
        await until(folder.exists, "the agent's record")
    reply = AttachReply(verdict=Verdict.UNPROTECTED, reason="jobs of several containers cannot be frozen together yet")
    await home.workflow.signal("set_plan", reply)
    assert await asyncio.gather(*creating) == [True, True]
    for number, one in enumerate(made):
        await node.start(one)
        assert await one.exit_code() == 0
        assert one.lines() == [str(number)]
    assert len(await home.reports(ReportKind.STARTED)) == 0
