"""Live updates over a real socket: what is recorded arrives, in order, also after a break; the slow are dropped."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, text, update

from api.app import create_app
from api.serving import feed as feeds
from api.serving.feed import Feed, Follower
from perdure.domain.jobs import Job, JobEvent, JobState
from perdure.domain.nodes import Node
from perdure.records.jobs.changes import changes_after, last_position
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.tables import OutageRow
from perdure.settings import ApiSettings
from perdure.waiting import until
from tests.patience import PATIENCE

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(engine: Engine, job_id: str, revision: int, queue: str = "spot", lines: int = 1) -> None:
    """One more change of a job, with new lines."""
    job = Job(job_id=job_id, queue=queue, state=JobState.RUNNING, created_at=NOON, epoch=revision)
    first = (revision - 1) * lines + 1
    events = [
        JobEvent(sequence=number, at=NOON, kind="remark", message=f"line\n{number}")
        for number in range(first, first + lines)
    ]
    with writing(engine) as session:
        record_job(session, job, events, revision)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    return engine


@asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a socket, asked often."""
    url = engine.url.render_as_string(hide_password=False)
    app = create_app(ApiSettings(database_url=url))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    running = asyncio.create_task(server.serve([listener]))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=PATIENCE) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        await running
        listener.close()


class Following:
    """Reads messages as a browser's EventSource does."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()
        self.last = ""

    async def next(self) -> tuple[str, Any]:
        """The next message: its kind and its data."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if not line and fields:
                    self.last = fields["id"]
                    return fields["event"], json.loads(fields["data"])
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
        raise EOFError


@asynccontextmanager
async def following(client: httpx.AsyncClient, last: str = "", **query: Any) -> AsyncIterator[Following]:
    headers = {"Last-Event-ID": last} if last else {}
    async with client.stream("GET", "/stream", params=query, headers=headers) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        reader = Following(answer)
        assert (await reader.next())[0] == "ready"
        yield reader


async def test_what_is_recorded_arrives_and_a_break_loses_nothing(engine: Engine) -> None:
    record(engine, "before", 1)
    async with served(engine) as client:
        async with following(client) as reader:
            record(engine, "job-1", 1)
            kind, data = await reader.next()
            assert kind == "job" and data["job_id"] == "job-1" and data["state"] == "Running"
            kind, data = await reader.next()
            assert (kind, data["job_id"], data["queue"], data["message"]) == ("event", "job-1", "spot", "line\n1")
        record(engine, "job-1", 2)
        record(engine, "job-1", 3)
        with writing(engine) as session:
            record_node(session, Node(instance_id="i-1", zone="us-east-1a", changed_at=NOON))
        listed = await client.get("/jobs")
        position = int(listed.headers["Perdure-Position"])
        async with following(client, last=reader.last, after=position) as again:
            seen = [await again.next() for _ in range(4)]
            assert [(kind, data.get("sequence")) for kind, data in seen] == [
                ("event", 2), ("job", None), ("event", 3), ("node", None),
            ]  # fmt: skip
            record(engine, "job-1", 4)
            assert [(await again.next())[0] for _ in range(2)] == ["job", "event"]
        async with following(client, after=position) as since_the_list:
            assert [(await since_the_list.next())[1].get("sequence") for _ in range(2)] == [None, 4]


async def test_only_what_was_asked_for(engine: Engine) -> None:
    async with served(engine) as client, following(client, queue="spot") as spot, following(client, job="b") as only:
        record(engine, "a", 1, queue="other")
        record(engine, "b", 1, queue="spot")
        record(engine, "b", 2, queue="spot", lines=1)
        for reader in (spot, only):
            kind, data = await reader.next()
            while kind != "event" or data["sequence"] != 2:
                assert data["job_id"] == "b"
                kind, data = await reader.next()


async def test_one_who_missed_too_much_starts_anew(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.stream.FURTHEST_BACK", 3)
    record(engine, "a", 1, lines=9)
    async with served(engine) as client, following(client, last="2") as reader:
        assert (await reader.next())[0] == "reset"


async def test_the_time_of_a_stream_is_bounded(engine: Engine) -> None:
    async with served(engine) as client, following(client, seconds=1) as reader:
        with pytest.raises(EOFError):
            await reader.next()


async def test_as_many_as_can_be_served(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_FOLLOWERS", 1)
    async with served(engine) as client:
        async with following(client):
            refused = await client.get("/stream")
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "crowded"
        async with asyncio.timeout(PATIENCE):  # the server sees that the first one went
            while (await client.get("/stream", params={"seconds": 1})).status_code != 200:
                await asyncio.sleep(0.05)


async def test_who_does_not_keep_up_is_dropped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on, and the database is looked at by one task however many follow."""
    monkeypatch.setattr(feeds, "ROOM", 5)
    feed = Feed(engine, poll_seconds=0.01)
    slow, quick = Follower(), Follower()
    async with feed.following(slow), feed.following(quick), asyncio.timeout(PATIENCE):
        for revision in range(1, 6):
            record(engine, "a", revision)
            for _ in range(2):
                await quick.messages.get()
        await slow.dropped.wait()
        assert slow.messages.qsize() == 5 and not quick.dropped.is_set()
    assert feed._task is None, "nobody follows, nobody looks"


async def test_a_client_that_reads_nothing_is_disconnected(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "ROOM", 3)
    async with served(engine) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1024)
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"ready")
        # More than the sockets' buffers take: some MB in all.
        for number in range(40):
            job = Job(job_id=f"{number}", queue="spot", state=JobState.RUNNING, created_at=NOON, name="n" * 300_000)
            with writing(engine) as session:
                record_job(session, job, [], 1)
        feed: Feed = client.app.state.feed  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            while feed._followers:
                await asyncio.sleep(0.05)
        writer.close()


def test_positions_rise_over_everything(engine: Engine) -> None:
    for revision in (1, 2):
        record(engine, "a", revision, lines=3)
    with writing(engine) as session:
        record_node(session, Node(instance_id="i-1", zone="us-east-1a", changed_at=NOON))
    with reading(engine) as session:
        last = last_position(session)
        everything, reached = changes_after(session, 0, upto=last)
        assert reached == last and len(everything) == 8, "six lines, the job once, the node"
        positions = [change.position for change in everything]
        assert positions == sorted(set(positions)) and positions[-1] == last
        in_parts, after = [], 0
        while after < last:
            some, after = changes_after(session, after, upto=last, limit=3)
            in_parts += some
        assert in_parts == everything


class _Follower:
    """Reads changes as api.serving.feed does, from its own thread, until it is told how many there are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seen: list[tuple[str, int]] = []

    def follow(self, last_writer_is_done: threading.Event) -> None:
        after = 0
        while True:
            nothing_more_comes = last_writer_is_done.is_set()
            with reading(self._engine) as session:
                newest = last_position(session)
            while after < newest:
                with reading(self._engine) as session:
                    changes, after = changes_after(session, after, upto=newest, limit=7)
                self.seen += [(one.job_id or "", one.event.sequence) for one in changes if one.event]
            if nothing_more_comes:
                return


def test_issue_15_10_a_follower_misses_no_line_of_two_writers_at_once(records: Engine) -> None:
    """Each writer records jobs of its own, of several lines each. The follower looks all the time."""
    jobs, done, follower = 40, threading.Event(), _Follower(records)

    def write(name: str) -> None:
        for number in range(jobs):
            record(records, f"{name}-{number}", 1, lines=3)

    with ThreadPoolExecutor(3) as pool:
        following = pool.submit(follower.follow, done)
        try:
            writers = [pool.submit(write, name) for name in ("a", "b")]
            for writer in writers:
                writer.result(PATIENCE)
        finally:
            done.set()
        following.result(PATIENCE)
    wanted = {(f"{name}-{n}", line) for name in ("a", "b") for n in range(jobs) for line in (1, 2, 3)}
    assert sorted(follower.seen) == sorted(wanted), "each line once"


def test_issue_15_10_a_writer_does_not_wait_for_what_another_does_before_its_end(records: Engine) -> None:
    """PostgreSQL: job `slow` is held in the middle of its transaction (a row of its outages is locked); `quick` is
    recorded meanwhile. SQLite has one writer at a time: there `quick` simply comes after."""
    for name in ("slow", "quick"):
        record(records, name, 1)
    with writing(records) as session:
        nothing = {name: None for name in ("ended_at", "seconds", "restored_from", "work_lost_seconds")}
        session.add(OutageRow(job_id="slow", epoch=1, kind="notice", started_at=NOON, phases={}, **nothing))
    with ThreadPoolExecutor(2) as pool:
        with writing(records) as holding:
            holding.execute(update(OutageRow).values(kind="held"))
            slow = pool.submit(record, records, "slow", 2)
            if records.dialect.name == "postgresql":
                _until_one_waits(records)
                quick = pool.submit(record, records, "quick", 2)
                quick.result(PATIENCE)
                assert not slow.done()
        slow.result(PATIENCE)
        if records.dialect.name == "sqlite":
            pool.submit(record, records, "quick", 2).result(PATIENCE)
    with reading(records) as session:
        changes, _ = changes_after(session, 0, upto=last_position(session))
    assert [one.job_id for one in changes if one.event][-2:] == (
        ["quick", "slow"] if records.dialect.name == "postgresql" else ["slow", "quick"]
    )


def _until_one_waits(engine: Engine) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        until(lambda: connection.execute(waiting).scalar_one() > 0, PATIENCE, what="somebody waits for a lock")


def test_two_that_record_a_job_for_the_first_time_at_once(records: Engine) -> None:
    """Both are taken: neither fails at the other's row."""
    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            both = [pool.submit(record, records, f"job-{turn}", revision) for revision in (1, 2) * 4]
            for one in both:
                one.result(PATIENCE)
    with reading(records) as session:
        changes, _ = changes_after(session, 0, upto=last_position(session))
    assert sorted((one.job_id, one.event.sequence) for one in changes if one.event) == [
        (f"job-{turn}", line) for turn in range(5) for line in (1, 2)
    ]
