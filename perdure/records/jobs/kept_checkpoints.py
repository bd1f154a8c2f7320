"""Checkpoints that jobs left in a store: when their time is over, and that they are gone.

The jobs' workflows are over, so only the control worker writes here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, Update, or_, update
from sqlalchemy import select as plain_select
from sqlmodel import Session, col

from perdure.domain.jobs import StoredUnder
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.records.costs.ledger import lock_job
from perdure.records.jobs.changes import take_positions
from perdure.records.jobs.events import add_line
from perdure.records.jobs.ledger_refresh import told_of_use
from perdure.records.schema.log_tables import ResumptionRow
from perdure.records.schema.tables import CheckpointRow, JobRow


class KeptCheckpoints(Frozen):
    """A job that is over, and where its checkpoints lie. `successor`: a job that was submitted to go on from them and
    has not taken them yet, or an empty string while which one is not known."""

    job_id: str
    stored: StoredUnder
    successor: str | None


def checkpoints_past_their_time(
    session: Session, kept_seconds: float, now: datetime, after: str, limit: int
) -> list[KeptCheckpoints]:
    """At most `limit` jobs that have been over for `kept_seconds`, by id, those above `after`."""
    over = col(JobRow.finished_at) < now - timedelta(seconds=kept_seconds)
    query = _existing().where(over, col(JobRow.job_id) > after)
    return _read(session, query.order_by(col(JobRow.job_id)).limit(limit))


def claim(session: Session, kept: KeptCheckpoints, at: datetime) -> bool:
    """From now on they are being deleted, and `resumptions.begin` refuses to resume from them. False when a resumption
    came since `kept` was read. Either this or that is first: both lock the job."""
    lock_job(session, kept.job_id)
    if _read(session, _existing().where(col(JobRow.job_id) == kept.job_id)) != [kept]:
        return False
    session.execute(_row_of(kept).values(stored_ending_at=at))
    return True


def release(session: Session, kept: KeptCheckpoints) -> None:
    """They were not deleted after all: the job can be resumed from them again."""
    session.execute(_row_of(kept).values(stored_ending_at=None))


def forgotten(session: Session, kept: KeptCheckpoints, use: StoreUse, message: str, at: datetime) -> None:
    """The store has them no more: they cost nothing from now on, are offered no longer, and the job's timeline says so.
    `use`: what was asked of the store for it. Told twice: once."""
    lock_job(session, kept.job_id)
    if session.execute(_row_of(kept).values(stored=None)).rowcount == 0:  # type: ignore[attr-defined]
        return
    session.execute(update(CheckpointRow).where(col(CheckpointRow.job_id) == kept.job_id).values(offered=False))
    session.flush()
    told_of_use(session, kept.job_id, use)
    position = take_positions(session, 1)[0]
    session.execute(update(JobRow).where(col(JobRow.job_id) == kept.job_id).values(position=position))
    add_line(session, kept.job_id, at, "store", message)


def _row_of(kept: KeptCheckpoints) -> Update:
    return update(JobRow).where(col(JobRow.job_id) == kept.job_id, col(JobRow.stored).is_not(None))


def _existing() -> Select[Any]:
    """Those of jobs that are over. What a resumed job took is that job's, and not its predecessor's any more."""
    columns: list[Any] = [
        *(col(JobRow.job_id), col(JobRow.stored)),
        *(col(ResumptionRow.job_id), col(ResumptionRow.new_job_id)),
    ]
    return (
        plain_select(*columns)
        .outerjoin(ResumptionRow, col(ResumptionRow.job_id) == col(JobRow.job_id))
        .where(col(JobRow.stored).is_not(None), col(JobRow.finished_at).is_not(None))
        .where(or_(col(ResumptionRow.job_id).is_(None), col(ResumptionRow.taken_at).is_(None)))
    )


def _read(session: Session, query: Select[Any]) -> list[KeptCheckpoints]:
    return [
        KeptCheckpoints(
            job_id=job_id,
            stored=StoredUnder.model_validate(stored),
            successor=None if resumed is None else new_job_id or "",
        )
        for job_id, stored, resumed, new_job_id in session.execute(query)
    ]
