"""The one way to wait for a condition that nobody announces: look, pause, look again, up to a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


def until(look: Callable[[], T | None], limit_seconds: float, poll_seconds: float = 0.05, what: str = "") -> T:
    """The first answer of `look` that is true. It is asked at least once, and once more when the limit has come.

    Blocks its thread. Raises TimeoutError with `what` in the sentence, and whatever `look` raises.
    """
    end = time.monotonic() + limit_seconds
    while True:
        late = time.monotonic() > end
        if found := look():
            return found
        if late:
            raise TimeoutError(_sentence(limit_seconds, what))
        time.sleep(poll_seconds)


@overload
async def until_async(
    look: Callable[[], Awaitable[T | None]], limit_seconds: float, poll_seconds: float = ..., what: str = ...
) -> T: ...


@overload
async def until_async(
    look: Callable[[], T | None], limit_seconds: float, poll_seconds: float = ..., what: str = ...
) -> T: ...


async def until_async(look: Callable[[], Any], limit_seconds: float, poll_seconds: float = 0.05, what: str = "") -> Any:
    """The same without blocking the event loop; `look` must not block it either, and may be a coroutine function."""
    end = time.monotonic() + limit_seconds
    while True:
        late = time.monotonic() > end
        answer = look()
        if found := await answer if isinstance(answer, Awaitable) else answer:
            return found
        if late:
            raise TimeoutError(_sentence(limit_seconds, what))
        await asyncio.sleep(poll_seconds)


def _sentence(limit_seconds: float, what: str) -> str:
    return f"not within {limit_seconds:g} s{f': {what}' if what else ''}"
