"""Temporal's dev server, reachable from other containers: it works on loopback only, so a relay stands before it, from
the moment the server listens."""

import asyncio
import subprocess
import sys


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", 7243)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))


async def listens() -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", 7243)
    except OSError:
        return False
    writer.close()
    return True


async def main() -> None:
    words = ["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", "7243", "--log-level", "warn"]
    with subprocess.Popen(["temporal", *words]) as server:
        while not await listens():
            await asyncio.sleep(0.2)
        async with await asyncio.start_server(relay, "0.0.0.0", 7233):
            sys.exit(await asyncio.to_thread(server.wait))


if __name__ == "__main__":
    asyncio.run(main())
