"""The number of a container's newest process: those that come after a restore go on from it.

CRIU gives restored processes their numbers, and the kernel's own count stays near 1 meanwhile. So new processes would
get the numbers of ended ones, which a job may still remember (a lock file, `$!` of a shell).

The count is shown to a process of the container's pid namespace alone, and a process is in one from its birth on. So a
program is started there: its own number is the newest, and it gives that back. Beside the dump, which takes longer, and
only while the container stands frozen: it is root's and sees the node's files, and a job may trace its neighbours.
"""

from __future__ import annotations

import contextlib
import os

from perdure.domain.errors import CommandFailed
from worker_agent.engine.commands import run

_COUNT = "/proc/sys/kernel/ns_last_pid"
_READ = f"n=$(($$ - 1)); echo $n >{_COUNT} && echo $n"
_LIMIT = 10.0


async def read(init_pid: int) -> int:
    """For a container that stands frozen until this returns. 0 where it cannot be known."""
    with contextlib.suppress(CommandFailed, OSError, ValueError):
        if _has_its_own_numbers(init_pid):
            return int(await _inside(init_pid, _READ))
    return 0


async def set_again(init_pid: int, number: int) -> None:
    """For a restored container. Where it cannot be done the job goes on without."""
    with contextlib.suppress(CommandFailed, OSError):
        if number > 0 and _has_its_own_numbers(init_pid):
            await _inside(init_pid, f"echo {number} >{_COUNT}")


def _has_its_own_numbers(init_pid: int) -> bool:
    """This node's own count is not ours to touch."""
    return os.readlink(f"/proc/{init_pid}/ns/pid") != os.readlink("/proc/self/ns/pid")


async def _inside(init_pid: int, script: str) -> str:
    return await run(
        ["nsenter", "--target", str(init_pid), "--pid", "--", "/bin/sh", "-c", script], limit_seconds=_LIMIT
    )
