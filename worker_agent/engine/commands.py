"""Running outside programs: each with a time limit, in a process group of its own, with what it said kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from perdure.domain.errors import CommandFailed, CommandTimeout
from worker_agent.engine.threads import urgently

T = TypeVar("T")


async def run(
    argv: Sequence[str],
    *,
    limit_seconds: float,
    env: Mapping[str, str] | None = None,
    give_up: Callable[[], None] | None = None,
    grace_seconds: float = 0.0,
) -> str:
    """Run a program to its end and return its stdout. CommandFailed for a status other than 0 or a missing program.

    After `limit_seconds`, or when the caller is cancelled, `give_up` is called in a thread (it may do what lets the
    program end by itself within `grace_seconds`), then the whole process group is killed and reaped: CommandTimeout, or
    the cancellation, only afterwards. Output goes to memory files, so that a left-behind child can hold no one up.
    """
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
            )
        except OSError as error:
            raise CommandFailed(list(argv), 127, f"cannot be started: {error}") from error
        try:
            status = await asyncio.wait_for(asyncio.shield(process.wait()), limit_seconds)
        except TimeoutError as error:
            await complete(_end(process, give_up, grace_seconds))
            raise CommandTimeout(list(argv), limit_seconds, _text(err)) from error
        except asyncio.CancelledError:
            await complete(_end(process, give_up, grace_seconds))
            raise
        if status != 0:
            raise CommandFailed(list(argv), status, _text(err) or _text(out))
        return _text(out)
    finally:
        os.close(out)
        os.close(err)


async def complete(work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """Await `work` to its end even if the caller is cancelled meanwhile; the cancellation is raised afterwards, unless
    `work` itself failed."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:  # raised by task.result() below
            break
    if cancelled is not None and task.exception() is None:
        raise cancelled
    return task.result()


async def _end(process: asyncio.subprocess.Process, give_up: Callable[[], None] | None, grace_seconds: float) -> None:
    if give_up is not None:
        await urgently(give_up)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), grace_seconds)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    await process.wait()


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode("utf-8", "replace")
