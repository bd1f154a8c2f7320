"""Temporal servers of a test's own. Leaving their environment (`async with`) ends them."""

from __future__ import annotations

import shutil
import sysconfig
import time
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from tests.patience import PATIENCE

_TOO_SLOW = "did not start within"
"""The SDK gives a server five seconds to answer, and then ends it. On a busy machine it may need more."""


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


async def _started(start: Callable[[], Awaitable[WorkflowEnvironment]]) -> WorkflowEnvironment:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await start()
        except RuntimeError as problem:
            if _TOO_SLOW not in str(problem) or time.monotonic() > end:
                raise
