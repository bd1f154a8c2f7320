"""The agent's socket: one request a connection, WAIT lines while it is worked on, joined when asked again."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.contracts.runtime import RuntimeAction, RuntimeOperation, RuntimeReply, RuntimeRequest
from perdure.waiting import until_async
from tests.patience import PATIENCE
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
    await until_async((tmp_path / "s").exists, PATIENCE, 0.01)
    yield desk
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


class Asker:
    """One question at the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def ask(cls, path: Path, operation: str = "create", raw: bytes | None = None) -> Asker:
        asker = cls(*await asyncio.open_unix_connection(path))
        question = json.dumps({"operation": operation, "container_id": "c"}).encode() + b"\n"
        asker._writer.write(question if raw is None else raw)
        return asker

    async def is_told_to_wait(self) -> None:
        async with asyncio.timeout(PATIENCE):
            assert b"wait" in await self._reader.readline()

    async def actions(self) -> list[str]:
        """Of all lines that are still to come."""
        async with asyncio.timeout(PATIENCE):
            lines = (await self._reader.read()).decode().splitlines()
        self.goes()
        return [json.loads(line)["action"] for line in lines]

    def goes(self) -> None:
        self._writer.close()


async def test_waiting_is_said_until_there_is_an_answer(desk: Desk, tmp_path: Path) -> None:
    asker = await Asker.ask(tmp_path / "s")
    for _ in range(3):
        await asker.is_told_to_wait()
    desk.open.set()
    actions = await asker.actions()
    assert actions[-1] == "passthrough"
    assert set(actions[:-1]) <= {"wait"}


async def test_the_same_question_is_worked_on_once(desk: Desk, tmp_path: Path) -> None:
    first = await Asker.ask(tmp_path / "s")
    await first.is_told_to_wait()
    dies = await Asker.ask(tmp_path / "s")
    await dies.is_told_to_wait()
    dies.goes()
    second = await Asker.ask(tmp_path / "s")
    await second.is_told_to_wait()
    desk.open.set()
    assert (await first.actions())[-1] == (await second.actions())[-1] == "passthrough"
    assert desk.asked == 1


@pytest.mark.parametrize(
    "raw", [b"\n", b"{}\n", b"[1]\n", b'{"operation": "dance", "container_id": "c"}\n', b"x" * 100]
)
async def test_nonsense_gets_no_answer_and_does_no_harm(desk: Desk, tmp_path: Path, raw: bytes) -> None:
    asker = await Asker.ask(tmp_path / "s", raw=raw if raw.endswith(b"\n") else raw + b"\n")
    assert await asker.actions() == []
    desk.open.set()
    assert (await (await Asker.ask(tmp_path / "s")).actions())[-1] == "passthrough"


async def test_a_fault_of_ours_ends_the_connection_without_an_answer(desk: Desk, tmp_path: Path) -> None:
    assert await (await Asker.ask(tmp_path / "s", "failed")).actions() == []


async def test_the_socket_is_for_root_alone(desk: Desk, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
