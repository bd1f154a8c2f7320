"""Asking a container's stdio keeper to drain its pipes while the job is frozen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from perdure.domain.checkpoints import StdioOffsets
from perdure.domain.errors import CheckpointFailed, JobRootBusy

_CLOSED = 10.0
"""Seconds in which a keeper must have closed two files."""


async def drain(keeper_socket: Path, log_folder: Path) -> StdioOffsets:
    """Until every byte that the job has written is in its logs: the logs' sizes. The caller sets the time limit.

    What is left in a pipe at a freeze is in no image and would be lost (30,818 bytes in a trial). CheckpointFailed if
    the keeper died or could not store everything. One that ended in order has removed its socket: the job has closed
    both pipes (`exec >file 2>&1`), and the logs are complete.
    """
    try:
        answer = await _ask(keeper_socket, "drain")
        if answer.get("error"):
            raise CheckpointFailed(f"the job's output could not all be stored: {answer['error']}", "drain")
        return StdioOffsets(stdout=answer["stdout"], stderr=answer["stderr"])
    except FileNotFoundError:
        return StdioOffsets(stdout=_size(log_folder / "stdout"), stderr=_size(log_folder / "stderr"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointFailed(
            f"the job's output keeper at {keeper_socket} did not answer: {error!r}", "drain"
        ) from error


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


async def release(keeper_socket: Path) -> None:
    """The keeper closes the logs, so that the volume can be unmounted. A keeper that is gone has closed them.
    JobRootBusy if it does not answer."""
    try:
        async with asyncio.timeout(_CLOSED):
            await _ask(keeper_socket, "release")
    except TimeoutError as late:
        raise JobRootBusy(f"the job's output keeper at {keeper_socket} does not answer: its logs stay open") from late
    except (FileNotFoundError, ConnectionError):
        pass


async def _ask(keeper_socket: Path, word: str) -> dict[str, Any]:
    # Through its folder's descriptor: a socket's address holds 107 bytes, and a container's id alone takes 64.
    folder = os.open(keeper_socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{keeper_socket.name}")
    finally:
        os.close(folder)
    try:
        writer.write(f"{word}\n".encode())
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("it hung up")
        answer: dict[str, Any] = json.loads(line)
        return answer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
