"""The one way to wait for a condition that nobody announces: look, pause, look again, up to a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], limit_seconds: float, poll_seconds: float = 0.05, what: str = "") -> T:
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


async def until_async(look: Callable[[], T], limit_seconds: float, poll_seconds: float = 0.05, what: str = "") -> T:
    """The same without blocking the event loop; `look` must not block it either."""
    end = time.monotonic() + limit_seconds
    while True:
        late = time.monotonic() > end
        if found := look():
            return found
        if late:
            raise TimeoutError(_sentence(limit_seconds, what))
        await asyncio.sleep(poll_seconds)


def _sentence(limit_seconds: float, what: str) -> str:
    return f"not within {limit_seconds:g} s{f': {what}' if what else ''}"
