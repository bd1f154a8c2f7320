"""Moving the records: backups from either database into either, and every older schema with rows in it brought up to
date."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, Connection, Engine, Float, Integer, LargeBinary, MetaData, Table, insert, select
from sqlmodel import Session

from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.errors import BackupInvalid, DatabaseNotEmpty
from perdure.domain.jobs import JobEvent
from perdure.records.jobs import jobs
from perdure.records.jobs.events import list_events
from perdure.records.schema import all_tables, backup
from perdure.records.schema.database import (
    _migrations,
    migrate,
    open_engine,
    reading,
    write_connection,
    writing,
)
from perdure.records.settings import configuration
from tests.integration.test_records import full_job

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REVISIONS = [script.revision for script in ScriptDirectory.from_config(_migrations()).walk_revisions()][::-1]
KINDS = ["sqlite", "postgresql"]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A way to a new, empty database of either kind."""
    engines: list[Engine] = []

    def new(kind: str) -> Engine:
        if kind == "sqlite":
            engines.append(open_engine(f"sqlite:///{tmp_path}/{len(engines)}/perdure.db"))
        else:
            engines.append(open_engine(request.getfixturevalue("postgres").new_database()))
        return engines[-1]

    yield new
    for engine in engines:
        engine.dispose()


def filled(engine: Engine, number: int = 3) -> None:
    migrate(engine)
    for index in range(number):
        line = JobEvent(sequence=1, at=NOW, kind="remark", message='=1+1 \\ " \n ü', level="info")
        with writing(engine) as session:
            jobs.record_job(session, full_job(f"job-{index}", created_at=NOW + timedelta(hours=index)), [line], 1)
    system = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
    with writing(engine) as session:
        configuration.save_configuration(session, system, at=NOW, by="me")


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    with engine.connect() as connection:
        return {
            table.name: sorted((dict(row._mapping) for row in connection.execute(select(table))), key=str)
            for table in backup._tables(connection)
        }


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_what_was_backed_up_is_restored(source: str, target: str, database: Any, tmp_path: Path) -> None:
    old, new, file = database(source), database(target), tmp_path / "backup.gz"
    filled(old)
    told: list[tuple[str, int]] = []
    rows = backup.backup(old, file, NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert backup.restore(new, file, lambda table, done: told.append((table, done))) == rows
    assert ("jobs", 3) in told
    before, after = contents(old), contents(new)
    assert after == before and len(after["jobs"]) == 3 and len(after["ledger"]) >= 3
    with reading(new) as session:
        assert jobs.get_job(session, "job-1") == full_job("job-1", created_at=NOW + timedelta(hours=1))
    with writing(new) as session:  # numbers go on where they were
        assert configuration.save_configuration(session, SystemConfiguration(), at=NOW, by="me").number == 2
    _goes_on(new)


def _goes_on(engine: Engine) -> None:
    """The restored database takes new records."""
    line = JobEvent(sequence=2, at=NOW, kind="remark", message="later", level="info")
    with writing(engine) as session:
        assert jobs.record_job(session, full_job("job-1", name="renamed"), [line], 2)
        assert jobs.record_job(session, full_job("job-new"), [], 1)
    with Session(engine) as session:
        assert [event.message for event in list_events(session, "job-1", after_sequence=1)] == ["later"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_never_mixes_and_never_half_happens(kind: str, database: Any, tmp_path: Path) -> None:
    source, file = database("sqlite"), tmp_path / "backup.gz"
    filled(source)
    backup.backup(source, file, NOW)
    with pytest.raises(DatabaseNotEmpty, match="jobs"):
        backup.restore(source, file)
    whole, text = file.read_bytes(), gzip.decompress(file.read_bytes()).decode()
    lines = text.splitlines(keepends=True)
    damaged = {
        "cut off": whole[: len(whole) // 2],
        "a bit of the checksum": bytes([*whole[:-6], whole[-6] ^ 1, *whole[-5:]]),
        "more": gzip.compress((text + lines[-1]).encode()),
        "no end": gzip.compress("".join(lines[:-1]).encode()),
        "a row less": gzip.compress("".join([*lines[:-2], lines[-1]]).encode()),
        "nothing": b"",
        "another file": gzip.compress(b"[1, 2]\n"),
        "newer": gzip.compress(text.replace(f'"{REVISIONS[-1]}"', '"9999"', 1).encode()),
        "unknown column": gzip.compress(text.replace('"job_id"', '"no_such"', 1).encode()),
    }
    target = database(kind)
    for name, content in damaged.items():
        file.write_bytes(content)
        with pytest.raises(BackupInvalid):
            backup.restore(target, file)
            pytest.fail(name)
    file.write_bytes(whole)
    backup.restore(target, file)
    assert contents(target) == contents(source)


def test_a_failed_backup_leaves_the_one_before(database: Any, tmp_path: Path) -> None:
    file = tmp_path / "backup.gz"
    file.write_text("the one before")
    with pytest.raises(OSError, match="No such"):
        backup.backup(database("sqlite"), tmp_path / "no" / "folder", NOW)
    never_migrated = database("sqlite")
    assert backup.backup(never_migrated, file, NOW) == 0
    assert json.loads(gzip.decompress(file.read_bytes()).decode().splitlines()[0])["revision"] == ""
    with pytest.raises(BackupInvalid):
        backup.restore(database("sqlite"), file)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["backup.gz"]


WORDS = {"state": "Failed", "kind": "periodic"}


def _some_value(column: Any, number: int) -> Any:
    if column.foreign_keys:
        return "key-1"
    if isinstance(column.type, JSON):
        return [] if column.name in {"shared_mounts", "ips", "quarantined"} else {}
    if isinstance(column.type, Boolean):
        return True
    if isinstance(column.type, (Integer, Float)):
        return number
    return b"bytes" if isinstance(column.type, LargeBinary) else WORDS.get(column.name, "key-1")


def _fill(connection: Connection) -> dict[str, dict[str, Any]]:
    """A row in every table that the database has; what it held."""
    found, rows = MetaData(), {}
    names = set(connection.dialect.get_table_names(connection)) & set(all_tables.METADATA.tables)
    found.reflect(connection, only=sorted(names))
    for table in found.sorted_tables:
        if connection.execute(select(table)).first() is None:
            row = {column.name: _some_value(column, 1) for column in table.columns}
            connection.execute(insert(table), row)
            rows[table.name] = row
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_to_a_newer_schema_keeps_the_rows(kind: str, database: Any) -> None:
    """Every table has a row before each step."""
    engine, rows = database(kind), dict[str, dict[str, Any]]()
    for revision in REVISIONS:
        migrate(engine, revision)
        with write_connection(engine) as connection:
            rows |= _fill(connection)
            found = MetaData()
            found.reflect(connection, only=list(rows))
            for name, row in rows.items():
                assert _kept(connection, found.tables[name], row), f"{name} in {revision}"
    migrate(engine)  # nothing is left to do
    with reading(engine) as session:
        assert jobs.get_job(session, "key-1").retry.attempts == 1


def _kept(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    now = connection.execute(select(table)).one()._mapping
    return {name: now[name] for name in row if name in now} == {name: row[name] for name in row if name in now}


@pytest.mark.parametrize("kind", KINDS)
def test_migrations_go_back_too(kind: str, database: Any) -> None:
    engine = database(kind)
    migrate(engine)
    with write_connection(engine) as connection:
        _fill(connection)
        config = _migrations()
        config.attributes["connection"] = connection
        command.downgrade(config, REVISIONS[0])
    migrate(engine)
    with reading(engine) as session:
        assert jobs.get_job(session, "key-1").job_id == "key-1"
