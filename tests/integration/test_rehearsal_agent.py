"""The agent rehearses by itself: when, what it tells, and what is more important than a rehearsal."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import CheckpointKind, RehearsalVerdict
from perdure.domain.retries import HandOver
from tests.integration.agent_bed import REHEARSAL_LIMIT, Bed, Node, bed, until
from tests.integration.rehearsal_left import left_of
from tests.integration.test_agent import BIG, COUNT
from tests.patience import PATIENCE
from worker_agent.rehearse.spec import FOLDER

pytestmark = [pytest.mark.criu]

OFTEN = {"PERDURE_REHEARSAL_BETWEEN": "0"}
GROWS = """
exec python3 -c "
import os, time
log = open('{file}')
while True:
    print('line', flush=True)
    time.sleep(.05)
"
"""
CHANGES = """
exec python3 -c "
import os, select, socket, time
while True:
    print('line', flush=True)
    if os.path.exists('/mnt/perdure/change') and 'kept' not in globals():
        kept = socket.socketpair(), select.epoll()
        print('changed', flush=True)
    time.sleep(.05)
"
"""


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


def left_behind(home: Bed, node: Node) -> list[str]:
    """Of rehearsals of the job: on its volume, in cgroups, as processes."""
    return left_of(home.job_root(node), *(launched.id for _, launched in home.containers))


async def nothing_left(home: Bed, node: Node) -> None:
    """In the end; otherwise the assertion says what is."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: not left_behind(home, node), "nothing left")
    assert not (left := left_behind(home, node)), "\n".join(left)


@contextlib.contextmanager
def growing_file() -> Iterator[Path]:
    """A file of the image that somebody appends to, again and again: no dump of its reader can be restored."""
    folder = Path(f"/opt/perdure-test-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        (folder / "grows").write_bytes(b"begin\n")
        yield folder / "grows"
    finally:
        shutil.rmtree(folder)


async def test_the_first_checkpoint_is_rehearsed_and_then_none_until_the_make_up_changes(home: Bed) -> None:
    node = await home.new_node(**OFTEN)
    launched = await home.launch(node, CHANGES, home.plan(rehearsal=True))
    await launched.more_lines(2)
    first = await home.checkpoint(node)
    assert first.checkpoint is not None, first.failure
    report = await home.report(ReportKind.REHEARSED)
    assert report.rehearsal is not None and report.rehearsal.verdict is RehearsalVerdict.PASSED, report.reason
    assert (report.rehearsal.number, report.rehearsal.epoch, report.level) == (first.checkpoint.number, 1, "info")
    assert (await home.checkpoint(node)).checkpoint is not None
    (home.job_root(node) / "seen/data/change").touch()
    await until(lambda: "changed" in launched.lines(), "the change")
    third = await home.checkpoint(node)
    again = await home.report(ReportKind.REHEARSED, 2)
    assert third.checkpoint is not None and again.rehearsal is not None
    assert again.rehearsal.number == third.checkpoint.number and again.rehearsal.verdict is RehearsalVerdict.PASSED
    await nothing_left(home, node)
    await launched.more_lines(2)


async def test_what_cannot_be_restored_is_told_while_the_job_lives_and_again_when_it_is_well(home: Bed) -> None:
    with growing_file() as file:
        node = await home.new_node(**OFTEN)
        launched = await home.launch(node, GROWS.format(file=file), home.plan(rehearsal=True))
        await launched.more_lines(2)

        async def grow() -> None:
            while True:
                with file.open("ab") as more:
                    more.write(b"more\n")
                await asyncio.sleep(0.01)

        grows = asyncio.create_task(grow())
        try:
            assert (await home.checkpoint(node)).checkpoint is not None
            report = await home.report(ReportKind.REHEARSED)
        finally:
            grows.cancel()
        assert report.rehearsal is not None and report.rehearsal.verdict is RehearsalVerdict.FAILED
        assert "has bad size" in report.reason and str(file)[1:] in report.reason and report.level == "error"
        await launched.more_lines(2)
        assert (await home.checkpoint(node)).checkpoint is not None
        helped = await home.report(ReportKind.REHEARSED, 2)
        assert helped.rehearsal is not None and helped.rehearsal.verdict is RehearsalVerdict.PASSED, helped.reason


async def test_a_notice_ends_a_rehearsal_and_waits_for_nothing_of_it(home: Bed) -> None:
    """The job has 600 MiB: whatever the rehearsal does then, it is in the middle of it."""
    node = await home.new_node(**OFTEN)
    launched = await home.launch(node, BIG.format(lines=100_000), home.plan(rehearsal=True))
    await launched.first_line()
    assert (await home.checkpoint(node)).checkpoint is not None
    await until(lambda: (home.job_root(node) / FOLDER / "alone").exists(), "a rehearsal", REHEARSAL_LIMIT)
    node.imds.give_notice(datetime.now(UTC) + timedelta(seconds=PATIENCE))
    final = await home.report(ReportKind.HANDED_OVER)
    assert final.checkpoint is not None and final.checkpoint.kind is CheckpointKind.FINAL
    assert final.hand_over in set(HandOver)
    assert await home.reports(ReportKind.REHEARSED) == []
    await nothing_left(home, node)


async def test_an_agent_that_is_killed_in_a_rehearsal_leaves_nothing(home: Bed) -> None:
    node = await home.new_node(**OFTEN)
    launched = await home.launch(node, BIG.format(lines=100_000), home.plan(rehearsal=True))
    await launched.first_line()
    assert (await home.checkpoint(node)).checkpoint is not None
    await until(lambda: (home.job_root(node) / FOLDER / "alone").exists(), "a rehearsal", REHEARSAL_LIMIT)
    node.kill_agent()
    await node.start_agent()
    await nothing_left(home, node)
    assert "were removed" not in node.agent_log() and "cut short" not in node.agent_log()
    await launched.more_lines(2)
    assert (await home.checkpoint(node)).checkpoint is not None
    report = await home.report(ReportKind.REHEARSED)
    assert report.rehearsal is not None and report.rehearsal.verdict is RehearsalVerdict.PASSED, report.reason


async def test_the_end_of_a_job_ends_its_rehearsal(home: Bed) -> None:
    node = await home.new_node(**OFTEN)
    launched = await home.launch(node, BIG.format(lines=4000), home.plan(rehearsal=True))
    await launched.first_line()
    assert (await home.checkpoint(node)).checkpoint is not None
    home.hurry(node)
    await launched.exit_code()
    await node.delete(launched)
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    assert left_behind(home, node) == []


async def test_it_is_off_where_the_configuration_says_so(home: Bed) -> None:
    node = await home.new_node(**OFTEN)
    launched = await home.launch(node, COUNT.format(lines=40), home.plan())
    await launched.more_lines(2)
    assert (await home.checkpoint(node)).checkpoint is not None
    home.hurry(node)
    await launched.exit_code()
    assert await home.reports(ReportKind.REHEARSED) == []
