"""Working a job's ledger out anew when something else than the job's own record became known: a price, a node's end."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from perdure.records.costs.ledger import lock_job, update_ledger
from perdure.records.jobs.jobs import get_job


def refresh_ledger(session: Session, job_id: str, until: datetime) -> None:
    """Work the job's ledger out of what is recorded, up to `until` if it still runs, and store it.

    Once per transaction, last in it. Raises UnknownJob.
    """
    lock_job(session, job_id)  # before the job is read: what it was a moment ago must not replace what it is
    update_ledger(session, get_job(session, job_id), until)
