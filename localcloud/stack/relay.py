"""A TCP relay: what connects to the bridge reaches the Temporal server, which listens on loopback or elsewhere."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK_BYTES = 64 * 1024


async def start_relay(host: str, port: int, target_host: str, target_port: int) -> asyncio.Server:
    """Listen on host:port and pass every connection on to the target; a target that is away closes it."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(target_host, target_port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()
            writer.close()

    return await asyncio.start_server(pass_on, host, port)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # one end went away: so does the other
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError, RuntimeError):
        target.write_eof()
