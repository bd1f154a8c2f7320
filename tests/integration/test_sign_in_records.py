"""Sessions and ways to the hosted page, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlmodel import SQLModel

from perdure.domain.sign_in import IDLE_SESSION, LONGEST_SESSION, LONGEST_WAY, HostedWay, SignInSession
from perdure.records.access import sessions
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.sign_in_tables import HostedWayRow, SessionRow
from tests.integration.postgres_bed import running_postgres

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        yield from opened(f"sqlite:///{tmp_path_factory.mktemp('sessions')}/perdure.db")
    else:
        with running_postgres() as server:
            yield from opened(server.new_database())


def opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


def begun(id_hash: str, subject: str = "s", at: datetime = NOW) -> SignInSession:
    return SignInSession(
        id_hash=id_hash,
        pool="us-east-1_a client",
        subject=subject,
        username="ann",
        groups=["admin", "científicos"],
        refresh_token="sealed",
        created_at=at,
        used_at=at,
        checked_at=at,
        trusted_until=at + timedelta(hours=1),
    )


def way(state_hash: str, at: datetime = NOW) -> HostedWay:
    return HostedWay(state_hash=state_hash, browser_hash="b", verifier="v", nonce="n", next_path="/docs", created_at=at)


@pytest.mark.parametrize(("table", "model"), [(SessionRow, SignInSession), (HostedWayRow, HostedWay)])
def test_columns_are_the_models_fields(table: type[SQLModel], model: type[BaseModel]) -> None:
    assert set(table.model_fields) == set(model.model_fields)


def test_a_session_from_beginning_to_end(engine: Engine) -> None:
    with writing(engine) as session:
        sessions.begin_session(session, begun("one"))
    later = NOW + timedelta(minutes=20)
    with writing(engine) as session:
        assert sessions.find_session(session, "one") == begun("one")
        sessions.session_used(session, "one", later)
        sessions.session_renewed(session, "one", groups=["viewer"], at=later, trusted_until=later)
    with reading(engine) as session:
        found = sessions.find_session(session, "one")
        assert found is not None
        assert (found.groups, found.used_at, found.checked_at, found.trusted_until) == (["viewer"], later, later, later)
        assert sessions.find_session(session, "two") is None
    for _ in range(2):
        with writing(engine) as session:
            sessions.end_session(session, "one")
            assert sessions.find_session(session, "one") is None


def test_a_session_is_over_when_it_idled_or_lasted_too_long() -> None:
    moment = timedelta(microseconds=1)
    assert not begun("x").is_over(NOW + IDLE_SESSION - moment)
    assert begun("x").is_over(NOW + IDLE_SESSION)
    busy = begun("x").model_copy(update={"used_at": NOW + LONGEST_SESSION})
    assert not busy.is_over(NOW + LONGEST_SESSION - moment)
    assert busy.is_over(NOW + LONGEST_SESSION)


def test_sessions_of_a_person_are_bounded_and_old_ones_go(engine: Engine) -> None:
    with writing(engine) as session:
        sessions.begin_session(session, begun("old", "someone", NOW - LONGEST_SESSION - timedelta(seconds=1)))
        sessions.begin_session(session, begun("other", "other"))
        for number in range(sessions.MOST_SESSIONS + 3):
            sessions.begin_session(session, begun(f"many-{number:02}", "many", NOW + timedelta(seconds=number)))
    with reading(engine) as session:
        kept = [n for n in range(sessions.MOST_SESSIONS + 3) if sessions.find_session(session, f"many-{n:02}")]
        assert kept == list(range(3, sessions.MOST_SESSIONS + 3))
        assert sessions.find_session(session, "other") and not sessions.find_session(session, "old")
    with writing(engine) as session:
        assert sessions.end_sessions(session, "many") == sessions.MOST_SESSIONS
        assert sessions.end_sessions(session) == 1


def test_a_way_is_taken_once_however_many_come_at_once(engine: Engine) -> None:
    with writing(engine) as session:
        sessions.begin_way(session, way("state"))

    def take(_: int) -> HostedWay | None:
        with writing(engine) as session:
            return sessions.take_way(session, "state")

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(8)))
    assert [one for one in taken if one] == [way("state")]


def test_ways_that_take_too_long_go_and_there_are_not_too_many(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_WAYS", 3)
    with writing(engine) as session:
        sessions.begin_way(session, way("slow", NOW - LONGEST_WAY - timedelta(seconds=1)))
        for number in range(5):
            sessions.begin_way(session, way(f"way-{number}", NOW + timedelta(seconds=number)))
        taken = [sessions.take_way(session, f"way-{number}") is not None for number in range(5)]
        assert taken == [False, False, True, True, True]
        assert sessions.take_way(session, "slow") is None
