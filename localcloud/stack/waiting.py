"""How the supervisor waits: for a condition, an address that answers, the first of several ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import httpx

POLL_SECONDS = 0.1


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is true; bounded by the caller."""
    while not condition():
        await asyncio.sleep(POLL_SECONDS)


async def until_answers(url: str) -> None:
    """Wait until a GET is answered with 200; bounded by the caller."""
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(POLL_SECONDS)


async def first_of(work: Awaitable[object], *events: asyncio.Event) -> None:
    """Do the work until it is done or an event is set, whichever comes first. Raises what the work raises."""
    doing = asyncio.ensure_future(work)
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait([doing, *waiting], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        for task in (doing, *waiting):
            task.cancel()
        await asyncio.gather(doing, *waiting, return_exceptions=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 for a server that is about to begin.

    It is kept for it for a minute: an ended connection (TIME_WAIT) holds it, so that the system gives it to nobody who
    asks for just any port. Servers set SO_REUSEADDR and may have it all the same (socket(7), tcp(7)).
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            accepted, _ = listener.accept()
            accepted.close()  # who closes first is left with TIME_WAIT
    return int(address[1])
