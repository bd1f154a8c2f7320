"""The ways into a thread: nothing that waits for a disk, for a lock or for /proc runs on the event loop.

`asyncio.to_thread` has few threads (Python: four more than CPUs, at most 32) for everything in this process: reading
whole images, deleting, bundles of logs. What is done for a job that stands still, or whose instance is about to go,
must not wait behind that. It has threads of its own, by `urgently`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MOST = 64 + 4 * (os.cpu_count() or 1)
"""Threads at once, made when they are needed. A job on EC2 has at least one vCPU, and little is done for it at once."""
_urgent = ThreadPoolExecutor(max_workers=_MOST, thread_name_prefix="urgent")


async def urgently(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As `asyncio.to_thread`, in a thread that no other work takes: for what is short, and for the last checkpoint."""
    call = partial(contextvars.copy_context().run, work, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_urgent, call)
