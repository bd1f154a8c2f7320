"""Work in the network of another process."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


async def in_network_of(pid: int, work: Callable[[T], R], argument: T) -> R:
    """Do blocking work in the network namespace of a process. OSError if it is gone."""
    thread = ThreadPoolExecutor(max_workers=1)  # not the loop's: a thread keeps the namespace that it enters
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work_in_network_of, pid, work, argument)
    finally:
        thread.shutdown(wait=False)  # whoever was cancelled must not hold the event loop up until it ends


def work_in_network_of(pid: int, work: Callable[[T], R], argument: T) -> R:
    """The same, blocking. The calling thread stays there."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")
    finally:
        os.close(namespace)
    return work(argument)
