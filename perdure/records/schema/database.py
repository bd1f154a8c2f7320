"""Opening the database by URL, bringing it up to date, and the two ways of using it: reading and writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlmodel import Session

BUSY_SECONDS = 10
"""How long a SQLite writer waits for another."""
MIGRATION_LOCK = 0x70657264  # "perd": PostgreSQL's advisory lock while migrating
_WRITES = "perdure_writes"


def open_engine(url: str) -> Engine:
    """An engine for `url` (sqlite:///… or postgresql+psycopg://…). Connects lazily; SQLite's folder is made.

    SQLite runs in WAL mode, so that readers never wait, with foreign keys on.
    """
    where = make_url(url)
    if where.get_backend_name() != "sqlite":
        return create_engine(where, pool_pre_ping=True)
    if where.database and where.database != ":memory:":
        Path(where.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(where, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite does (SQLAlchemy's documented recipe).
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: two that read first and write later would fail instead of waiting.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that sees one consistent state and changes nothing."""
    if engine.dialect.name == "postgresql":  # by itself each of its statements would see a state of its own
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session in one transaction: committed at the end, rolled back on any exception."""
    with Session(engine.execution_options(**{_WRITES: True})) as session, session.begin():
        yield session


@contextmanager
def write_connection(engine: Engine) -> Iterator[Connection]:
    """As `writing`, for work on whole tables."""
    with engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


def lock(session: Session, what: str) -> None:
    """Until the end of the transaction nobody else holds this lock, so what is read next about `what` (a job, a node)
    stays true for those who lock before they write. SQLite has one writer at a time anyhow."""
    if session.get_bind().dialect.name == "postgresql":
        key = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
        session.connection().execute(key, {"key": what})


def has_revision(revision: str) -> bool:
    """Is this a version of the schema that we know?"""
    return any(script.revision == revision for script in ScriptDirectory.from_config(_migrations()).walk_revisions())


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision`, the newest by default; one that is there or newer stays. Safe from several
    processes at once: one works, the others wait."""
    config = _migrations()
    with engine.execution_options(**{_WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
