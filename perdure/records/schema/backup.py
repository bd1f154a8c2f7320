"""The database in one file, and back: from either database into either.

The file is gzip of JSON lines: a header with the schema's revision, then for each table its name and columns and a line
per row, then a last line with the number of rows. Instants are integers there, as in the tables; bytes are base64. Its
mode is 0600: it holds everything that the server knows. Sessions of people who are signed in stay out: they sign in
again.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, Table, delete, func, insert, select, text

from perdure.domain.errors import BackupInvalid, DatabaseNotEmpty
from perdure.records.schema import all_tables
from perdure.records.schema.database import has_revision, migrate, write_connection

FORMAT = 1
LEFT_OUT = frozenset({"sign_in_sessions", "hosted_ways"})
MUST_BE_EMPTY = ("jobs", "nodes", "configuration", "api_tokens")
"""Rows in one of these make a database one that a restore does not touch."""
BATCH = 1000

Tell = Callable[[str, int], None]
"""Gets a table's name and how many of its rows are done."""


def backup(engine: Engine, file: Path, at: datetime, tell: Tell = lambda table, rows: None) -> int:
    """Write all tables as they are at one instant; how many rows. The server may go on meanwhile.

    A file of that name is replaced once the new one is whole and on the disk. OSError when it cannot be written.
    """
    draft = file.with_name(f".{file.name}.new")
    try:
        with _opened(draft) as out, _one_state(engine) as connection:
            rows = 0
            header = {"perdure_backup": FORMAT, "revision": _revision(connection), "at": at.isoformat()}
            out.write(json.dumps(header) + "\n")
            for table in _tables(connection):
                out.write(json.dumps({"table": table.name, "columns": table.columns.keys()}) + "\n")
                for done, row in enumerate(_read(connection, table), start=1):
                    out.write(json.dumps([_plain(value) for value in row], separators=(",", ":")) + "\n")
                    rows += 1
                    if done % BATCH == 0:
                        tell(table.name, done)
            out.write(json.dumps({"rows": rows}) + "\n")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def restore(engine: Engine, file: Path, tell: Tell = lambda table, rows: None) -> int:
    """Fill an empty database from a backup, of this or an older version of Perdure; how many rows.

    All or nothing. DatabaseNotEmpty, BackupInvalid (damaged, cut off, or of a newer version), OSError.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            header = _header(lines.readline(), file)
            migrate(engine, header["revision"])
            with write_connection(engine) as connection:
                rows = _fill(connection, lines, tell)
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, json.JSONDecodeError, binascii.Error) as damage:
        raise BackupInvalid(f"{file} is damaged or cut off ({damage}); nothing was restored") from damage
    migrate(engine)
    return rows


@contextmanager
def _opened(draft: Path) -> Iterator[TextIO]:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with gzip.open(raw, "wt", compresslevel=6, encoding="utf-8") as out:
            yield out
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def _one_state(engine: Engine) -> Iterator[Connection]:
    """A connection that sees the database as it is now, whatever others write."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with engine.connect() as connection:
        yield connection


def _revision(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


def _tables(connection: Connection) -> list[Table]:
    """As the database has them, without our types; those that others refer to come first."""
    names = [name for name in all_tables.METADATA.tables if name not in LEFT_OUT]
    present = set(connection.dialect.get_table_names(connection))
    found = MetaData()
    found.reflect(connection, only=[name for name in names if name in present])
    return found.sorted_tables


def _read(connection: Connection, table: Table) -> Iterable[Any]:
    ordered = select(table).order_by(*table.primary_key.columns)
    return connection.execution_options(stream_results=True, yield_per=BATCH).execute(ordered)


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _value(value: Any, binary: bool) -> Any:
    return base64.b64decode(value["base64"], validate=True) if binary and isinstance(value, dict) else value


def _header(line: str, file: Path) -> dict[str, Any]:
    header = json.loads(line or "null")
    if not isinstance(header, dict) or header.get("perdure_backup") != FORMAT:
        raise BackupInvalid(f"{file} is no backup of Perdure")
    if not has_revision(str(header.get("revision"))):
        raise BackupInvalid(f"{file} was made by a newer Perdure (schema {header.get('revision')}); upgrade this one")
    return header


def _fill(connection: Connection, lines: Iterable[str], tell: Tell) -> int:
    tables = {table.name: table for table in _tables(connection)}
    for name in MUST_BE_EMPTY:
        if name in tables and connection.scalar(select(func.count()).select_from(tables[name])):
            raise DatabaseNotEmpty(f"the database holds {name} already; restore into an empty one")
    for made in reversed(tables.values()):
        connection.execute(delete(made))  # what migrations put there
    rows = 0
    table: Table | None = None
    columns: list[str] = []
    for key, group in itertools.groupby(map(json.loads, lines), type):
        if key is list and table is not None:
            rows += _insert(connection, table, columns, group, tell)
            continue
        for said in group:
            if isinstance(said, dict) and said.get("table") in tables:
                table, columns = tables[said["table"]], said["columns"]
            elif isinstance(said, dict) and said.get("rows") == rows:
                if next(iter(lines), None) is not None:  # to the file's end, where its checksum is compared
                    raise BackupInvalid("the backup goes on behind its end; nothing was restored")
                _continue_numbers(connection, tables.values())
                return rows
            else:
                raise BackupInvalid(f"the backup holds a line that is none: {str(said)[:80]}")
    raise BackupInvalid("the backup is cut off; nothing was restored")


def _insert(connection: Connection, table: Table, columns: list[str], rows: Iterable[list[Any]], tell: Tell) -> int:
    binary = [_is_binary(table, name) for name in columns]
    done = 0
    while batch := list(itertools.islice(rows, BATCH)):
        values = [
            {name: _value(value, is_binary) for name, value, is_binary in zip(columns, row, binary, strict=True)}
            for row in batch
        ]
        connection.execute(insert(table), values)
        done += len(batch)
        tell(table.name, done)
    return done


def _is_binary(table: Table, column: str) -> bool:
    if column not in table.columns:
        raise BackupInvalid(f"the backup has a column {table.name}.{column[:60]} that its version does not know")
    try:
        return table.columns[column].type.python_type is bytes
    except NotImplementedError:
        return False


def _continue_numbers(connection: Connection, tables: Iterable[Table]) -> None:
    """PostgreSQL counts apart from the rows: new rows must not get numbers of restored ones."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        for column in table.primary_key.columns:
            name = connection.scalar(text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name})
            if name is not None:
                highest = connection.scalar(select(func.max(column)))
                if highest is not None:
                    connection.execute(text("SELECT setval(:name, :highest)"), {"name": name, "highest": highest})
