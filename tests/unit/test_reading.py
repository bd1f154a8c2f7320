"""Endpoints that only read: sent as FastAPI would send them, with a session that ends with them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, computed_field
from sqlalchemy import text
from sqlmodel import Session

from api.serving.reading import MOST_READERS, POSITION, reads
from perdure.records.jobs.changes import CHANGES
from perdure.records.schema.database import open_engine, writing
from perdure.records.schema.list_tables import PositionRow
from perdure.records.schema.tables import plain
from tests.patience import PATIENCE

NOW = datetime(2026, 11, 23, 8, 0, 0, 5, UTC)


class Moment(BaseModel):
    at: datetime
    share: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        return self.at.year


app = FastAPI()
open_sessions: list[Session] = []
go_on = threading.Event()


@app.get("/reads")
@reads
def moments(session: Session, count: int, response: Response) -> list[Moment]:
    open_sessions.append(session)
    assert session.execute(text("SELECT 1")).scalar_one() == 1
    response.headers["ETag"] = '"7"'
    return [Moment(at=NOW)] * count


@app.get("/fastapi")
def the_same(count: int, response: Response) -> list[Moment]:
    response.headers["ETag"] = '"7"'
    return [Moment(at=NOW)] * count


@app.get("/page")
@reads
def page(session: Session) -> Response:
    return PlainTextResponse("hello", 203)


@app.get("/slow")
@reads
def slow(session: Session) -> int:
    session.execute(text("SELECT 1"))
    assert go_on.wait(PATIENCE)
    return 1


@app.get("/broken")
@reads
def broken(session: Session) -> int:
    open_sessions.append(session)
    session.execute(text("SELECT 1"))
    raise ValueError("no")


@asynccontextmanager
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app.state.engine = open_engine(f"sqlite:///{tmp_path}/records.db")
    PositionRow.metadata.create_all(app.state.engine, tables=[plain(PositionRow)])
    with writing(app.state.engine) as session:
        session.add(PositionRow(name=CHANGES, last=7))
    app.state.readers = anyio.CapacityLimiter(MOST_READERS)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as asking:
        yield asking
    app.state.engine.dispose()


def schema(operation: dict[str, Any]) -> dict[str, Any]:
    return cast(dict[str, Any], operation["responses"]["200"]["content"]["application/json"]["schema"])


async def test_answers_as_fastapi_does(tmp_path: Path) -> None:
    async with client(tmp_path) as asking:
        mine, usual = await asking.get("/reads?count=2"), await asking.get("/fastapi?count=2")
        assert mine.headers.pop(POSITION) == "7"
        assert (mine.status_code, mine.text, mine.headers) == (200, usual.text, usual.headers)
        assert (await asking.get("/reads?count=x")).status_code == 422
    ours, theirs = (app.openapi()["paths"][path]["get"] for path in ("/reads", "/fastapi"))
    assert schema(ours)["items"] == schema(theirs)["items"] == {"$ref": "#/components/schemas/Moment"}
    assert ours["parameters"] == theirs["parameters"]


async def test_a_response_is_sent_as_it_is(tmp_path: Path) -> None:
    async with client(tmp_path) as asking:
        answer = await asking.get("/page")
    assert (answer.status_code, answer.text) == (203, "hello")


async def test_the_session_ends_with_the_endpoint(tmp_path: Path) -> None:
    open_sessions.clear()
    async with client(tmp_path) as asking:
        await asking.get("/reads?count=1")
        with pytest.raises(ValueError, match="no"):
            await asking.get("/broken")
        assert [session.in_transaction() for session in open_sessions] == [False, False]
        assert app.state.engine.pool.checkedout() == 0


async def test_more_readers_than_connections_wait_for_their_turn(tmp_path: Path) -> None:
    go_on.clear()
    answers: list[int] = []
    async with client(tmp_path) as asking, anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append((await asking.get("/slow", timeout=PATIENCE)).status_code)

        for _ in range(3 * MOST_READERS):
            group.start_soon(ask)
        while app.state.readers.statistics().tasks_waiting < 2 * MOST_READERS:
            await anyio.sleep(0.01)
        assert app.state.engine.pool.checkedout() <= MOST_READERS
        go_on.set()
    assert answers == [200] * 3 * MOST_READERS
