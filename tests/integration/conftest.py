"""What tests of the records share: each of them runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from perdure.records.database import migrate, open_engine
from tests.integration.postgres_bed import Postgres, running_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, up to date."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/perdure.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()
