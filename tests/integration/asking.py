"""An application in this process, asked by plain calls: the real one, its lifespan too, in an event loop of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

ADDRESS = "192.0.2.7"


class Asker:
    """A client of the application."""

    def __init__(self, portal: BlockingPortal, http: httpx.AsyncClient) -> None:
        self._portal, self._http = portal, http

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            return await self._http.request(method, path, **more)

        return self._portal.call(ask)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.request("DELETE", path, **more)


@contextmanager
def asking(app: FastAPI, base_url: str, address: str = ADDRESS) -> Iterator[Asker]:
    """The application serves until the end of the block, to a client at `address`."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 50000))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(httpx.AsyncClient(transport=transport, base_url=base_url)) as http,
    ):
        yield Asker(portal, http)
