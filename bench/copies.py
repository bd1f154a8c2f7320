"""Many more jobs out of a few, made inside the database: seconds instead of minutes. For bench/server_load.py.

A copy of a job has an id, a name and times of its own, and the same attempts, checkpoints and lines of the ledger. It
has no timeline.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import SQLModel

from perdure.records.schema.tables import Instant

MOST = 999
"""Copies of one job: three digits tell them apart."""
TABLES = ("jobs", "attempts", "checkpoints", "ledger")
_SPECIAL = {
    # 'bwa-a0001234' → 'bwa-a0171234': server_load numbers names with seven digits, and at most 9,999 jobs are copied.
    "name": "substr(one.name, 1, length(one.name) - 7) || substr(CAST(1000 + copy AS text), 2)"
    " || substr(one.name, length(one.name) - 3)",
    "job_id": "substr(CAST(10000 + copy AS text), 2) || substr(one.job_id, 5)",
}


def copy_finished(execute: Callable[[str], object], copies: int, jobs: int, last: int, apart: int) -> None:
    """So many copies of each finished one of `jobs`, which have the positions from 1 on; `last` is the highest that is
    given away. The times of a copy are `apart` microseconds after those of the copy before.

    The same SQL for SQLite and PostgreSQL. Raises ValueError for more copies or jobs than names can tell apart.
    """
    if not 1 <= copies <= MOST or jobs > 9999:
        raise ValueError(f"{copies} copies of {jobs} jobs: at most {MOST} of 9999")
    execute(
        "CREATE TEMP TABLE copies AS WITH RECURSIVE n(copy) AS"
        f" (SELECT 1 UNION ALL SELECT copy + 1 FROM n WHERE copy < {copies}) SELECT copy FROM n"
    )
    execute("CREATE TEMP TABLE finished AS SELECT job_id FROM jobs WHERE finished_at IS NOT NULL")
    for table in TABLES:
        # Read from a table of its own: the real one grows meanwhile.
        execute(f"CREATE TEMP TABLE few AS SELECT one.* FROM {table} AS one JOIN finished USING (job_id)")
        values = _values(table, jobs, last, apart)
        names = ", ".join(f'"{name}"' for name in values)
        execute(f"INSERT INTO {table} ({names}) SELECT {', '.join(values.values())} FROM few AS one CROSS JOIN copies")
        execute("DROP TABLE few")
    execute(
        "INSERT INTO job_texts (number, job_id, text)"
        f" SELECT position, job_id, lower(job_id || '\n' || name || '\n' || queue) FROM jobs WHERE position > {last}"
    )


def _values(table: str, jobs: int, last: int, apart: int) -> dict[str, str]:
    """What a copy's columns hold."""
    found: dict[str, str] = {}
    for column in SQLModel.metadata.tables[table].c:
        value = f'one."{column.name}"'
        if isinstance(column.type, Instant):
            value = f"{value} + copy * {apart}"
        elif column.name == "job_id" or (table == "jobs" and column.name == "name"):
            value = _SPECIAL[column.name]
        elif column.name == "position":
            value = f"{last} + (copy - 1) * {jobs} + {value}"
        found[column.name] = value
    return found
