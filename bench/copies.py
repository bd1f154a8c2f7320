"""Many more jobs out of a few, made inside the database: seconds instead of minutes. For bench/server_load.py.

A copy has an id and a name of its own. All else is its job's: times, attempts, lines of the ledger. It has no timeline
and no checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import SQLModel

MOST = 999
"""Copies of one job: three digits tell them apart."""
TABLES = ("jobs", "attempts", "ledger")
# 'bwa-a0001234' → 'bwa-a0171234': server_load numbers names with seven digits, and at most 9,999 jobs are copied.
_NAME = (
    "substr(one.name, 1, length(one.name) - 7) || substr(CAST(1000 + copy AS text), 2)"
    " || substr(one.name, length(one.name) - 3)"
)
# The 15th character is the version of a UUID: 4 of those that are there.
_ID = "substr(CAST(1000 + copy AS text), 2) || substr(one.job_id, 4, 11) || '5' || substr(one.job_id, 16)"


def copy_finished(execute: Callable[[str], object], copies: int, jobs: int, last: int) -> None:
    """So many copies of each finished one of `jobs`, which have the positions from 1 on; `last` is the highest that is
    given away. The copies have those up to `last + copies * jobs`.

    The same SQL for SQLite and PostgreSQL. Raises ValueError for more copies or jobs than names can tell apart.
    """
    if not 1 <= copies <= MOST or jobs > 9999:
        raise ValueError(f"{copies} copies of {jobs} jobs: at most {MOST} of 9999")
    execute(
        "CREATE TEMP TABLE copies AS WITH RECURSIVE n(copy) AS"
        f" (SELECT 1 UNION ALL SELECT copy + 1 FROM n WHERE copy < {copies}) SELECT copy FROM n"
    )
    execute("CREATE TEMP TABLE finished AS SELECT job_id FROM jobs WHERE finished_at IS NOT NULL")
    changed = {"name": _NAME, "position": f"{last} + (copy - 1) * {jobs} + one.position"}
    for table in TABLES:
        # Read from a table of its own: the real one grows meanwhile.
        execute(f"CREATE TEMP TABLE few AS SELECT one.* FROM {table} AS one JOIN finished USING (job_id)")
        names = list(SQLModel.metadata.tables[table].c.keys())
        special = {"job_id": _ID} | (changed if table == "jobs" else {})
        values = ", ".join(special.get(name, f'one."{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM few AS one CROSS JOIN copies")
        execute("DROP TABLE few")
    execute(
        "INSERT INTO job_texts (number, job_id, text)"
        f" SELECT position, job_id, lower(job_id || '\n' || name || '\n' || queue) FROM jobs WHERE position > {last}"
    )
