"""One client's connection: uvicorn's, with the limits that it has none for, and errors in our shape."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.serving.errors import answer
from api.serving.guards import HEADERS

LARGEST_HEAD = 32 * 1024
"""Bytes of a request's first line and headers."""
HEAD_SECONDS = 15.0
"""How long a client may take to send them; a connection that asks nothing is closed as well."""
MOST_CONNECTIONS = 1000


class Connection(H11Protocol):
    """Closed at once when there are MOST_CONNECTIONS already; closed when no request comes in HEAD_SECONDS."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets the common shape too."""
        response = answer(400, "not_http", msg)
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        head = h11.Response(
            status_code=400, headers=[*response.raw_headers, *headers, (b"connection", b"close")], reason=b"Bad Request"
        )
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self.transport.abort()
