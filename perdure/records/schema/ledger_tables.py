"""Tables of the ledger and of its sums. Both have one column per field of domain.figures.Figures, made from it.

No foreign key leads from them to jobs: what was earned stays counted when a job's record goes (records.rollups).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, String, Table
from sqlmodel import SQLModel

from perdure.domain.figures import Figures
from perdure.records.schema.tables import Instant

FIGURES = tuple(Figures.model_fields)
_NAMES = frozenset(FIGURES)


def _figure_columns() -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in FIGURES]


ledger = Table(
    "ledger",
    SQLModel.metadata,
    Column("job_id", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("at", Instant, nullable=False),
    Column("queue", String, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("detail", JSON, nullable=False),
    *_figure_columns(),
)
"""Every line of every job's ledger, with the queue that it counts for."""

rollups = Table(
    "rollups",
    SQLModel.metadata,
    Column("level", String, primary_key=True),
    Column("bucket", Instant, primary_key=True, autoincrement=False),
    Column("queue", String, primary_key=True),
    Column("retired", Boolean, primary_key=True),
    *_figure_columns(),
    sqlite_with_rowid=False,
)
"""Sums by level, bucket and queue: of the lines above, and, `retired`, of those that went with their jobs."""


def figures_of(row: Any) -> Figures:
    """What a row says under names of figures, be they sums or not; other columns are left out."""
    # PostgreSQL's sums are decimals; a sum of nothing is null
    return Figures(**{name: int(value) for name, value in row._asdict().items() if value and name in _NAMES})
