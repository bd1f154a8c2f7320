"""Outside programs: their words are kept, and whatever happens they and their children are gone afterwards."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from perdure.domain.errors import CommandFailed, CommandTimeout
from tests.patience import PATIENCE
from worker_agent.engine.commands import complete, run

FOR_EVER = 3600
"""Seconds that no test waits."""


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


async def test_output_is_returned_and_errors_are_kept() -> None:
    assert await run(shell("echo out; echo noise >&2"), limit_seconds=PATIENCE) == "out\n"
    with pytest.raises(CommandFailed, match="ended with status 3: it broke"):
        await run(shell("echo it broke >&2; exit 3"), limit_seconds=PATIENCE)
    with pytest.raises(CommandFailed, match="cannot be started"):
        await run(["/no/such/program"], limit_seconds=PATIENCE)


async def test_more_output_than_a_pipe_holds() -> None:
    assert len(await run(shell("head -c 3000000 /dev/zero"), limit_seconds=PATIENCE)) == 3_000_000


async def test_the_limit_ends_the_whole_group(tmp_path: Path) -> None:
    grandchild = f"sleep {FOR_EVER} & echo $! > {tmp_path}/pid; echo slow >&2; wait"
    for limit in (0.5, 5, 60):  # the longer ones for a machine on which a shell does not get so far in the shorter
        with pytest.raises(CommandTimeout, match=f"not finished after {limit} s") as raised:
            await run(shell(grandchild), limit_seconds=limit)
        if "slow" in str(raised.value):
            break
    assert str(raised.value).endswith("; slow")
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_child_left_behind_holds_no_one_up(tmp_path: Path) -> None:
    text = f"sleep {FOR_EVER} & echo $! > {tmp_path}/pid; echo done"
    assert await asyncio.wait_for(run(shell(text), limit_seconds=PATIENCE), PATIENCE) == "done\n"
    os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_cancelling_ends_the_program_first(tmp_path: Path) -> None:
    task = asyncio.create_task(run(shell(f"echo $$ > {tmp_path}/pid; exec sleep {FOR_EVER}"), limit_seconds=FOR_EVER))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int((tmp_path / "pid").read_text()))


async def test_giving_up_lets_it_end_by_itself(tmp_path: Path) -> None:
    wait = f"until [ -e {tmp_path}/enough ]; do sleep 0.01; done; touch {tmp_path}/cleaned"
    with pytest.raises(CommandTimeout):
        await run(shell(wait), limit_seconds=0.2, give_up=(tmp_path / "enough").touch, grace_seconds=FOR_EVER)
    assert (tmp_path / "cleaned").exists()


async def test_grace_is_not_endless() -> None:
    with pytest.raises(CommandTimeout):
        await run(shell(f"exec sleep {FOR_EVER}"), limit_seconds=0.1, give_up=lambda: None, grace_seconds=0.1)


async def test_completion_outlives_a_cancelled_caller() -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.append(True)

    task = asyncio.create_task(complete(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_completion_hands_errors_on() -> None:
    async def work() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        await complete(work())


async def gone(pid: int) -> None:
    """Until the process is gone, or a zombie that its new parent has not reaped yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                return
            if state == "Z":
                return
            await asyncio.sleep(0.01)
