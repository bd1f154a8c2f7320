"""The unix socket on which the runtime asks: one request a connection, WAIT lines while it is worked on, one answer.

A request that is asked again while it is worked on (the runtime lost its connection) is joined, not begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog
from pydantic import ValidationError

from perdure.contracts.runtime import RuntimeAction, RuntimeOperation, RuntimeReply, RuntimeRequest

log = structlog.get_logger()

Handler = Callable[[RuntimeRequest], Awaitable[RuntimeReply]]

_WAIT_EVERY = 2.0
_LINE_SECONDS = 10.0
_LINE_BYTES = 1 << 20
_WAIT = RuntimeReply(action=RuntimeAction.WAIT)
_ORDERED = (RuntimeOperation.CREATE, RuntimeOperation.FAILED)
"""What is answered by orders for a container that does not stand yet."""


class RuntimeSocket:
    """Serves until cancelled. `waits(container_id)` is called while a runtime is known to wait for an answer, and
    `left(container_id)` when one went away without having got its orders."""

    def __init__(
        self,
        path: Path,
        handlers: Mapping[RuntimeOperation, Handler],
        waits: Callable[[str], None],
        left: Callable[[str], None] = lambda container_id: None,
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._waits = waits
        self._left = left
        self._working: dict[tuple[RuntimeOperation, str], asyncio.Task[RuntimeReply]] = {}

    async def serve(self) -> None:
        """Open the socket, for root alone, and answer."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Under another name until it listens: the runtime never meets a socket that refuses it.
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(fresh))
        finally:
            os.umask(before)
        server = await asyncio.start_unix_server(self._connection, sock=listener, limit=_LINE_BYTES)
        fresh.replace(self._path)
        try:
            async with server:
                await server.serve_forever()
        finally:
            for task in self._working.values():
                task.cancel()

    async def end_work(self, container_id: str, *, cancel: bool) -> None:
        """Until nothing that a runtime has asked about this container is worked on. `cancel`: do not let it finish."""
        work = [task for (_, container), task in self._working.items() if container == container_id]
        for task in work if cancel else ():
            task.cancel()
        if work:
            await asyncio.wait(work)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = None
        delivered = False
        try:
            if _peer_uid(writer) not in (0, os.geteuid()):
                return
            async with asyncio.timeout(_LINE_SECONDS):
                line = await reader.readline()
            request = RuntimeRequest.model_validate_json(line)
            reply = await self._answer(request, reader, writer)
            if reply is not None:
                writer.write(reply.model_dump_json().encode() + b"\n")
                await writer.drain()
                delivered = True
        except (TimeoutError, ValidationError, ValueError) as problem:
            log.warning("a runtime's request is not understood", reason=str(problem)[:300])
        except ConnectionError:
            log.info("a runtime went away before its answer")
        finally:
            if request is not None and request.operation in _ORDERED and not delivered:
                self._left(request.container_id)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, request: RuntimeRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> RuntimeReply | None:
        """The answer, with WAIT lines before it; None when nobody waits for it any more (the work goes on)."""
        key = (request.operation, request.container_id)
        work = self._working.get(key)
        if work is None:
            work = asyncio.ensure_future(self._handlers[request.operation](request))
            self._working[key] = work
            work.add_done_callback(lambda done: self._finished(key, done))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                self._waits(request.container_id)
                await asyncio.wait({work, gone}, timeout=_WAIT_EVERY, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return None if work.cancelled() or work.exception() else work.result()
                if gone.done():
                    return None
                writer.write(_WAIT.model_dump_json().encode() + b"\n")
                await writer.drain()
        finally:
            gone.cancel()

    def _finished(self, key: tuple[RuntimeOperation, str], done: asyncio.Task[RuntimeReply]) -> None:
        self._working.pop(key, None)
        if not done.cancelled() and (problem := done.exception()) is not None:
            # The runtime hears nothing and falls back by its own rules.
            log.error("a runtime's request failed", operation=key[0], container=key[1][:12], exc_info=problem)


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
