"""Urgent work has threads of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from tests.patience import PATIENCE
from worker_agent.engine.in_network import in_network_of
from worker_agent.engine.threads import urgently


@pytest.fixture
def full() -> Iterator[threading.Event]:
    """Ends what keeps the default executor busy."""
    over = threading.Event()
    yield over
    over.set()


async def test_urgent_work_does_not_wait_for_the_threads_of_everything_else(full: threading.Event) -> None:
    """Fault: a thaw queued in the default executor behind other jobs' hashing."""
    busy = [asyncio.create_task(asyncio.to_thread(full.wait)) for _ in range(min(32, (os.cpu_count() or 1) + 4) + 1)]
    await asyncio.sleep(0)
    blocked = asyncio.create_task(asyncio.to_thread(os.getpid))
    assert await asyncio.wait_for(urgently(os.getpid), PATIENCE) == os.getpid()
    assert not blocked.done(), "the default executor was not full: this test shows nothing"
    full.set()
    await asyncio.gather(blocked, *busy)


async def test_hundreds_of_urgent_calls_at_once_end_and_errors_come_back() -> None:
    assert sum(await asyncio.gather(*(urgently(pow, 1, 2) for _ in range(500)))) == 500
    with pytest.raises(ProcessLookupError):
        await urgently(os.kill, 2**22 + 1, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="another network needs root")
async def test_work_in_another_network_holds_nobody_up_once_it_is_given_up(full: threading.Event) -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(limit: float) -> None:
        begun.set()
        full.wait(limit)
        ended.set()

    asking = asyncio.create_task(in_network_of(os.getpid(), work, 5.0))
    await asyncio.to_thread(begun.wait, PATIENCE)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not ended.is_set(), "the event loop stood still until the work ended"
