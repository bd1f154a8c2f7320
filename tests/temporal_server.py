"""Temporal servers of a test's own, and workers. Leaving a server's environment (`async with`) ends it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.patience import PATIENCE

_TOO_SLOW = "did not start within"
"""The SDK gives a server five seconds to answer, and then ends it. On a busy machine it may need more."""
_WORKERS_END = 120.0
"""Seconds that the SDK's workers may take to end."""


def program(name: str) -> str:
    """A program of this environment."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is missing; run `make setup`"
    return found


async def dev_server(**options: Any) -> WorkflowEnvironment:
    """A development server; `options` as of WorkflowEnvironment.start_local."""
    path = program("temporal")
    return await _started(
        lambda: WorkflowEnvironment.start_local(
            dev_server_existing_path=path, data_converter=pydantic_data_converter, **options
        )
    )


async def time_skipping_server() -> WorkflowEnvironment:
    """A server whose time passes when everybody waits."""
    path = program("temporal-test-server")
    return await _started(
        lambda: WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=path, data_converter=pydantic_data_converter
        )
    )


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """These workers of the SDK serve until the end of the block."""
    async with AsyncExitStack() as serving:
        for worker in workers:
            await serving.enter_async_context(worker)
        at_the_end = serving.pop_all()
    try:
        yield
    finally:
        await end_workers(at_the_end)


async def end_workers(serving: AsyncExitStack) -> None:
    """Leave what holds workers of the SDK. One did not end once in some thousand, on a loaded machine: its poll never
    came back. It is left alone then, which says nothing about our code."""
    ending = asyncio.create_task(serving.aclose())
    done, _ = await asyncio.wait({ending}, timeout=_WORKERS_END)
    if done:
        return ending.result()
    print(f"a Temporal worker did not end within {_WORKERS_END:g} s", file=sys.stderr)
    for _ in range(5):  # the first one only asks the worker to end, again
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.1)


async def _started(start: Callable[[], Awaitable[WorkflowEnvironment]]) -> WorkflowEnvironment:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await start()
        except RuntimeError as problem:
            if _TOO_SLOW not in str(problem) or time.monotonic() > end:
                raise
