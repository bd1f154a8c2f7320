"""Page sinks that are loaded before a checkpoint wants one: as many as are wanted, never a dead one, none left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.errors import CheckpointFailed
from perdure.image.pages.sink import NAME, Request
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine.page_sink import PageSink, SparePageSinks


@pytest.fixture
async def spares() -> AsyncIterator[SparePageSinks]:
    made = SparePageSinks()
    try:
        yield made
    finally:
        await made.end()


async def filled(spares: SparePageSinks, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while spares.loaded != count:
            spares.keep(count)
            await asyncio.sleep(0.01)


def own_programs() -> list[int]:
    """Those that have said their name, as `ps` shows it."""
    children = map(int, Path("/proc/thread-self/children").read_text().split())
    return [pid for pid in children if proc.command(pid) == NAME]


def request(folder: Path) -> Request:
    return Request(str(folder), "images", 1, 1 << 20, 1 << 20, staging_bytes=4 << 20, most_jumps=0)


async def test_each_serves_one_checkpoint_and_another_takes_its_place(spares: SparePageSinks, tmp_path: Path) -> None:
    await filled(spares, 1)
    with pytest.raises(CheckpointFailed, match="No such file"):
        await PageSink.start(request(tmp_path / "missing"), spares)
    await filled(spares, 1)
    sink = await PageSink.start(request(tmp_path), spares)
    assert spares.loaded == 0 and not sink.doubt and (tmp_path / "staging").exists()
    await sink.end()


async def test_one_that_died_is_replaced_and_one_too_many_goes(spares: SparePageSinks) -> None:
    await filled(spares, 1)
    async with asyncio.timeout(PATIENCE):
        while spares.loaded:
            for program in own_programs():  # one of an earlier test may not be buried yet
                os.kill(program, signal.SIGKILL)
            await asyncio.sleep(0.01)
    assert spares.take() is None
    await filled(spares, 1)
    spares.keep(0)
    assert spares.loaded == 0
