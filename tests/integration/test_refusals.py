"""Every row of the table of refusals, by a job that does it: preflight and the engine name it alike, before anything is
frozen; and what is like it but can be saved comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.domain.errors import NotCheckpointable
from tests.integration.engine_bed import Bed, LaunchFailed, Running, freezer_of
from tests.integration.engine_places import wait_for
from tests.integration.test_engine import checkpoint, die, fresh, restored
from worker_agent.engine import checkpoint_steps
from worker_agent.engine.refusals import TABLE
from worker_agent.preflight import Report, examine

pytestmark = [pytest.mark.criu]

THINGS = {
    "thread_file": "file of a thread",
    "thread_folder": "file of a thread",
    "thread_cwd": "file of a thread",
    "timer_of_the_first_thread": "timer of the first thread",
    "timer_of_an_ended_thread": "timer of an ended thread",
    "program_in_memory": "program in memory",
    "lost_session": "lost session",
    "shared_folder": "shared state",
    "foreign_epoll": "epoll of another process",
    "ended_first_thread": "ended first thread",
    "long_name": "lost name",
    "taken_name": "lost name",
}
"""The other rows: tests/unit/test_refusals.py and test_preflight.py."""


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make(600)
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


def examined(running: Running) -> Report:
    return examine(freezer_of(running).pids(), running.container.init_pid, mounts=["/data", "/jobs"])


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.row("Processes", "what could not be restored is refused by name before it is called safe")
async def test_it_is_named_by_preflight_and_the_engine_alike(bed: Bed, thing: str) -> None:
    bed.command = ["/usr/bin/python3", "/jobs/refused.py", thing]
    running = await fresh(bed)
    running.more_lines(2)
    wait_for(lambda: bool(examined(running).problems), "something that is refused")
    report = examined(running)
    assert {finding.kind for finding in report.problems} == {THINGS[thing]}, report  # a program may have forked
    row = next(row for row in TABLE if row.kind == THINGS[thing])
    assert (report.problems[0].what, report.problems[0].fix) == (row.what, row.fix)
    with pytest.raises(NotCheckpointable) as refusal:
        await checkpoint(running)
    assert refusal.value.step == "look"
    assert row.what in str(refusal.value) and row.fix in str(refusal.value)
    lines = running.lines()
    wait_for(lambda: running.lines() > lines, "the job, which runs on")


@pytest.mark.parametrize("thing", ["own_thread_file", "timer_of_another_thread", "own_epoll", "lost_name"])
async def test_what_is_like_it_but_can_be_saved_comes_back(bed: Bed, thing: str) -> None:
    bed.command = ["/usr/bin/python3", "/jobs/refused.py", thing]
    running = await fresh(bed)
    running.more_lines(2)
    report = examined(running)
    assert not report.problems, report
    manifest = await checkpoint(running)
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    running.more_lines(2)


@pytest.mark.parametrize("thing", [*list(THINGS)[:4], "program_in_memory", "lost_session"])
async def test_without_the_table_it_could_not_be_restored(
    bed: Bed, thing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a row goes once CRIU can do it."""
    monkeypatch.setattr(checkpoint_steps, "refused", lambda seen: [])
    bed.command = ["/usr/bin/python3", "/jobs/refused.py", thing]
    running = await fresh(bed)
    running.more_lines(2)
    manifest = await checkpoint(running)
    await die(bed, running)
    with pytest.raises(LaunchFailed):
        await restored(bed, 2, manifest.number)
