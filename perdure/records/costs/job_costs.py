"""What many jobs cost, for tables of jobs: sums of their ledgers."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, func, select
from sqlmodel import Session

from perdure.domain.ledger import Figures
from perdure.records.schema.ledger_tables import FIGURES, figures_of, ledger

_SUMS = (
    select(ledger.c.job_id, *(func.sum(ledger.c[name]).label(name) for name in FIGURES))
    .where(ledger.c.job_id.in_(bindparam("ids", expanding=True)))
    .group_by(ledger.c.job_id)
)
"""Made once: putting it together takes longer than running it."""


def figures_of_jobs(session: Session, ids: Collection[str]) -> dict[str, Figures]:
    """By job id. Jobs without a ledger are left out."""
    rows = session.connection().execute(_SUMS, {"ids": list(ids)})
    return {row.job_id: figures_of(row) for row in rows}
