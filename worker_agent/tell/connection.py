"""The agent's connection to Temporal, made anew where it is dead without a word.

A connection whose other end is gone (a server that lost its power, a gateway that forgot it) takes calls and never
answers. Temporal's client finds that out by itself after some seconds (settings.KEEP_ALIVE); a job that is handed over
need not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from perdure.settings import connect_temporal

log = structlog.get_logger()

_PROBE = 2.0
"""Seconds in which a server that is there says so; it asks nobody for that."""


class Connection:
    """`client` is the one to use now, and may be lazy: the server may be away."""

    def __init__(self, client: Client, connect: Callable[[], Awaitable[Client]] = connect_temporal) -> None:
        """`connect` makes another client, without waiting for the server."""
        self.client = client
        self._connect = connect

    async def doubt(self, client: Client) -> None:
        """A call by this client was not answered in time. Where the server does not answer it at all, the next calls go
        over a connection of their own. Where it does, it is busy, and shall not be asked for new connections, too."""
        try:
            async with asyncio.timeout(_PROBE):
                await client.service_client.check_health()
        except (RPCError, RuntimeError, TimeoutError):
            if self.client is client:
                log.warning("the connection to Temporal is dead; another one is made")
                self.client = await self._connect()
