"""Databases with very many jobs, filled once (build/bench/, minutes) and kept for the next run: for bench/console.py.

What an older version filled is migrated. Where that does not lead to today's tables (a migration was changed after the
filling), it is filled anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from bench import server_load
from perdure.records.schema.database import migrate, open_engine
from tests.integration.postgres_bed import server_in
from tests.integration.schema import differences

PLACE = Path(__file__).parents[1] / "build/bench"
MEMORY = "-c shared_buffers=1GB"
"""Of Debian's defaults this alone is changed, as everybody does who has a million jobs."""


def filled(jobs: int) -> str:
    """The address of a database with so many jobs: filled now, or by an earlier run that came to its end."""
    PLACE.mkdir(parents=True, exist_ok=True)
    whole, loading = PLACE / f"console-{jobs}.db", PLACE / "loading.db"
    if whole.exists() and not is_current(f"sqlite:///{whole}"):
        whole.unlink()
    if not whole.exists():
        loading.unlink(missing_ok=True)
        server_load.load(f"sqlite:///{loading}", maker(jobs))
        loading.rename(whole)
    return f"sqlite:///{whole}"


@contextmanager
def filled_postgresql(jobs: int) -> Iterator[str]:
    """The same of a PostgreSQL server, which ends with the block; its data stays for the next run."""
    whole, loading = PLACE / f"postgresql-{jobs}", PLACE / "loading-postgresql"
    if whole.exists() and not _is_current_postgresql(whole):
        shutil.rmtree(whole)
    if not whole.exists():
        shutil.rmtree(loading, ignore_errors=True)
        loading.mkdir(parents=True)
        with server_in(loading, more_options=MEMORY) as server:
            server_load.load(server.new_database(), maker(jobs))
        loading.rename(whole)
    with server_in(whole, more_options=MEMORY) as server:
        yield server.url("perdure_0")


def _is_current_postgresql(folder: Path) -> bool:
    with server_in(folder, more_options=MEMORY) as server:
        return is_current(server.url("perdure_0"))


def maker(jobs: int) -> server_load.Maker:
    """Two lines a job: no page reads those of many jobs at once."""
    return server_load.Maker(jobs, 2 * jobs, max(1, jobs // 10), seed=11)


def is_current(url: str, say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)) -> bool:
    """Has the database today's tables, now that it was migrated? `say` hears what was done and found."""
    engine = open_engine(url)
    try:
        before = _revision(engine)
        try:
            migrate(engine)
        except (DBAPIError, CommandError) as problem:
            say(f"filled anew: revision {before} does not migrate: {str(problem).splitlines()[0]}")
            return False
        after = _revision(engine)
        if before != after:
            say(f"migrated what an older version filled: revision {before} to {after}")
        if found := differences(engine):
            say(f"filled anew: revision {after}, but its tables are not today's: {found[0]} and {len(found) - 1} more")
        return not found
    finally:
        engine.dispose()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
