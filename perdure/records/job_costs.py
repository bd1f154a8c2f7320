"""What many jobs cost, for tables of jobs: sums of their ledgers."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select
from sqlmodel import Session

from perdure.domain.ledger import Figures
from perdure.records.ledger_tables import FIGURES, ledger


def figures_of_jobs(session: Session, ids: Collection[str]) -> dict[str, Figures]:
    """By job id. Jobs without a ledger are left out."""
    sums = [func.sum(ledger.c[name]) for name in FIGURES]
    query = select(ledger.c.job_id, *sums).where(ledger.c.job_id.in_(ids)).group_by(ledger.c.job_id)
    return {
        row[0]: Figures.model_validate(dict(zip(FIGURES, map(int, row[1:]), strict=True)))
        for row in session.execute(query)
    }
