"""The agent's socket: one request a connection, WAIT lines while it is worked on, joined when asked again."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.contracts.runtime import RuntimeAction, RuntimeOperation, RuntimeReply, RuntimeRequest
from worker_agent.start import runtime_socket
from worker_agent.start.runtime_socket import RuntimeSocket

PASS = RuntimeReply(action=RuntimeAction.PASSTHROUGH, reason="so")


class Desk:
    """Answers `create` when `open` is set, and `failed` with a fault."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    async def create(self, request: RuntimeRequest) -> RuntimeReply:
        self.asked += 1
        await self.open.wait()
        return PASS

    async def failed(self, request: RuntimeRequest) -> RuntimeReply:
        raise RuntimeError("our own fault")


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(runtime_socket, "_WAIT_EVERY", 0.02)
    desk = Desk()
    handlers = {RuntimeOperation.CREATE: desk.create, RuntimeOperation.FAILED: desk.failed}
    server = asyncio.create_task(RuntimeSocket(tmp_path / "s", handlers, lambda container_id: None).serve())
    async with asyncio.timeout(10):
        while not (tmp_path / "s").exists():
            await asyncio.sleep(0.01)
    yield desk
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


async def ask(path: Path, operation: str = "create", raw: bytes | None = None) -> list[str]:
    """The actions of all lines of the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw if raw is not None else json.dumps({"operation": operation, "container_id": "c"}).encode() + b"\n")
    async with asyncio.timeout(10):
        lines = (await reader.read()).decode().splitlines()
    writer.close()
    return [json.loads(line)["action"] for line in lines]


async def test_waiting_is_said_until_there_is_an_answer(desk: Desk, tmp_path: Path) -> None:
    asking = asyncio.create_task(ask(tmp_path / "s"))
    await asyncio.sleep(0.2)
    desk.open.set()
    actions = await asking
    assert actions[-1] == "passthrough"
    assert set(actions[:-1]) == {"wait"}


async def test_the_same_question_is_worked_on_once(desk: Desk, tmp_path: Path) -> None:
    first = asyncio.create_task(ask(tmp_path / "s"))
    await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")  # a runtime that dies while it waits
    writer.write(b'{"operation": "create", "container_id": "c"}\n')
    assert b"wait" in await reader.readline()
    writer.close()
    second = asyncio.create_task(ask(tmp_path / "s"))
    await asyncio.sleep(0.05)
    desk.open.set()
    assert (await first)[-1] == (await second)[-1] == "passthrough"
    assert desk.asked == 1


@pytest.mark.parametrize(
    "raw", [b"\n", b"{}\n", b"[1]\n", b'{"operation": "dance", "container_id": "c"}\n', b"x" * 100]
)
async def test_nonsense_gets_no_answer_and_does_no_harm(desk: Desk, tmp_path: Path, raw: bytes) -> None:
    asking = ask(tmp_path / "s", raw=raw if raw.endswith(b"\n") else raw + b"\n")
    assert await asking == []
    desk.open.set()
    assert (await ask(tmp_path / "s"))[-1] == "passthrough"


async def test_a_fault_of_ours_ends_the_connection_without_an_answer(desk: Desk, tmp_path: Path) -> None:
    assert await ask(tmp_path / "s", "failed") == []


async def test_the_socket_is_for_root_alone(desk: Desk, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
