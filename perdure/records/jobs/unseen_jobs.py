"""Jobs of which only AWS Batch has told, and no agent: recorded at revision 0, until a workflow tells more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlmodel import Session, col

from perdure.domain.jobs import FINISHED_STATES, Job, JobState
from perdure.records.jobs.jobs import record_job
from perdure.records.schema.tables import JobRow

UNSEEN_REVISION = 0
"""A workflow's first record has a higher one."""
_OPEN = [state.value for state in JobState if state not in FINISHED_STATES]


def record_unseen(session: Session, job: Job) -> bool:
    """Store what Batch says of the job, unless a workflow has told of it. Key: the job id; the newest word stands."""
    return record_job(session, job, [], UNSEEN_REVISION)


def seen_of(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Those of them that a workflow has told of."""
    told = select(col(JobRow.job_id)).where(col(JobRow.job_id).in_(job_ids), col(JobRow.revision) > UNSEEN_REVISION)
    return set(session.scalars(told))


def quiet_unseen(session: Session, before: datetime, after: str, limit: int) -> list[str]:
    """At most `limit` ids, those above `after`, of jobs that are not over and of which no workflow has told and Batch
    has said nothing since `before`."""
    quiet = select(col(JobRow.job_id)).where(
        col(JobRow.state).in_(_OPEN),
        col(JobRow.revision) == UNSEEN_REVISION,
        col(JobRow.changed_at) < before,
        col(JobRow.job_id) > after,
    )
    return list(session.scalars(quiet.order_by(col(JobRow.job_id)).limit(limit)))


def has_told_of_queue(session: Session, queue: str) -> bool:
    """Whether an agent has ever told of a job of this queue, as far as the records go back."""
    told = select(col(JobRow.job_id)).where(col(JobRow.queue) == queue, col(JobRow.revision) > UNSEEN_REVISION)
    return session.scalars(told.limit(1)).first() is not None
