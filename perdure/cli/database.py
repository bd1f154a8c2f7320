"""`perdure database`: the records as a whole, on a machine that reaches the database; the server is not needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from perdure.domain.errors import ConfigurationInvalid, PerdureError
from perdure.records.costs.rollups import rebuild_rollups
from perdure.records.schema import backup as backups
from perdure.records.schema.database import migrate, open_engine, writing

app = typer.Typer(help="The records: backup, restore, upgrade.", no_args_is_help=True)
Url = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="PERDURE_DATABASE_URL",
        help="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME.",
    ),
]
DEFAULT_URL = "sqlite:////var/lib/perdure/server/perdure.db"


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Written anew, such as perdure-2026-03-01.gz.")], url: Url = DEFAULT_URL
) -> None:
    """Write everything that the server knows to one file, while it runs. Keep it safe: it names people and jobs."""
    with _database(url) as engine, _files():
        rows = backups.backup(engine, file, datetime.now(UTC), _progress)
    _say(f"{file}: {rows:,} rows")


@app.command()
def restore(file: Path, url: Url = DEFAULT_URL) -> None:
    """Fill an empty database from a backup, of SQLite or PostgreSQL, of this version or an older one. Stop the server
    and the control worker before."""
    with _database(url) as engine, _files():
        rows = backups.restore(engine, file, _progress)
    _say(f"{rows:,} rows restored; people sign in again")


@app.command()
def upgrade(url: Url = DEFAULT_URL) -> None:
    """Bring the tables up to date. The server does that by itself when it starts."""
    with _database(url) as engine:
        migrate(engine)
    _say("the tables are up to date")


@app.command("rebuild-totals")
def rebuild_totals(url: Url = DEFAULT_URL) -> None:
    """Sum the ledger up anew, should totals ever look wrong. Writers wait meanwhile."""
    with _database(url) as engine, writing(engine) as session:
        rebuild_rollups(session)
    _say("the totals are those of the ledger")


@contextmanager
def _database(url: str) -> Iterator[Engine]:
    try:
        engine = open_engine(url)
    except (SQLAlchemyError, OSError) as problem:
        raise ConfigurationInvalid(f"the database cannot be opened: {problem}") from problem
    try:
        yield engine
    except SQLAlchemyError as problem:
        raise PerdureError(f"the database failed: {str(problem).splitlines()[0]}") from problem
    finally:
        engine.dispose()


@contextmanager
def _files() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise ConfigurationInvalid(f"{problem.filename}: {problem.strerror}") from problem


def _progress(table: str, rows: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{table}: {rows:,} rows\033[K", end="", file=sys.stderr, flush=True)


def _say(words: str) -> None:
    print(("\r\033[K" if sys.stderr.isatty() else "") + words, file=sys.stderr)
