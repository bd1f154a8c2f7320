"""Which of some jobs are over, for whoever tidies up after them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlmodel import Session, col

from perdure.records.schema.tables import JobRow

IDS_AT_ONCE = 200


def finished_among(session: Session, job_ids: Collection[str]) -> dict[str, bool]:
    """By job id, whether it is over; jobs that no record knows are left out."""
    ordered = sorted(job_ids)
    found: dict[str, bool] = {}
    for start in range(0, len(ordered), IDS_AT_ONCE):
        query = select(col(JobRow.job_id), col(JobRow.finished_at)).where(
            col(JobRow.job_id).in_(ordered[start : start + IDS_AT_ONCE])
        )
        found |= {job_id: finished_at is not None for job_id, finished_at in session.execute(query)}
    return found
