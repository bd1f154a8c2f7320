"""What tests of the records share: each of them runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from perdure.records.schema.database import migrate, open_engine
from tests.integration.postgres_bed import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests; each takes a database of its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database that is up to date and has no rows, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "perdure.db"
    _bring_up_to_date(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: Postgres) -> str:
    """The name of one on PostgreSQL."""
    url = postgres.new_database()
    _bring_up_to_date(url)
    return str(make_url(url).database)


def _bring_up_to_date(url: str) -> None:
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database: an empty one, or, for a test that asks for `records`, one that is up to date."""
    records = "records" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "server/perdure.db"
        if records:  # a copy: all migrations take longer than most tests
            path.parent.mkdir()
            shutil.copy(request.getfixturevalue("migrated_file"), path)
        return f"sqlite:///{path}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database(request.getfixturevalue("migrated_database")) if records else server.new_database()


@pytest.fixture
def records(url: str) -> Iterator[Engine]:
    """A database without rows, up to date."""
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(records: Engine) -> Engine:
    """The same, by the name that it has where there is no other."""
    return records
