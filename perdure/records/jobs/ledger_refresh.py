"""Working a job's ledger out anew when something else than the job's own record became known: a price, a node's end,
what was asked of the store after the job."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from perdure.domain.store_costs import StoreUse
from perdure.records.costs.ledger import lock_job, update_ledger
from perdure.records.costs.store_uses import add_uses
from perdure.records.jobs.jobs import get_job


def refresh_ledger(session: Session, job_id: str, until: datetime) -> None:
    """Work the job's ledger out of what is recorded, up to `until` if it still runs, and store it.

    Once per transaction, last in it. Raises UnknownJob.
    """
    lock_job(session, job_id)  # before the job is read: what it was a moment ago must not replace what it is
    update_ledger(session, get_job(session, job_id), until)


def told_of_use(session: Session, job_id: str, use: StoreUse) -> None:
    """That was asked of the store for a job that is over. As refresh_ledger."""
    lock_job(session, job_id)
    add_uses(session, job_id, [use])
    refresh_ledger(session, job_id, use.at)
