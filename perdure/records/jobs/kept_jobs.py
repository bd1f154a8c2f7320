"""Jobs that are over and left a checkpoint that somebody can resume them from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_, union_all
from sqlalchemy import select as plain_select
from sqlmodel import Session, col

from perdure.domain.jobs import FINISHED_STATES, Job, JobState
from perdure.domain.standing import Kept
from perdure.records.jobs.jobs import get_jobs
from perdure.records.jobs.resumptions import of_job
from perdure.records.schema.log_tables import ResumptionRow
from perdure.records.schema.tables import CheckpointRow, JobRow, VolumeRow
from perdure.records.settings.configuration import current_configuration

_UNDONE = sorted(state.value for state in FINISHED_STATES - {JobState.SUCCEEDED})
_EXISTING = union_all(
    plain_select(col(VolumeRow.job_id)).where(col(VolumeRow.deleted_at).is_(None), col(VolumeRow.ending_at).is_(None)),
    plain_select(col(JobRow.job_id)).where(col(JobRow.stored).is_not(None), col(JobRow.stored_ending_at).is_(None)),
)
"""Jobs whose checkpoints exist and are not being deleted: few, by indexes that hold only these."""


def kept_of(session: Session, job: Job) -> Kept | None:
    """None: the job is not over, or it left nothing, or that is gone or being deleted."""
    if job.state not in FINISHED_STATES:
        return None
    mine = col(JobRow.job_id) == job.job_id
    if session.execute(plain_select(col(JobRow.job_id)).where(mine, _resumed())).first() is not None:
        how = of_job(session, job.job_id)
        return Kept(checkpoint=how.checkpoint, resumed_as=how.new_job_id or "") if how else None
    existing = plain_select(col(JobRow.job_id)).where(mine, col(JobRow.job_id).in_(_EXISTING))
    if not job.checkpoints or session.execute(existing).first() is None:
        return None
    return _kept(job, _kept_for(session))


def waiting_jobs(session: Session, limit: int) -> list[tuple[Job, Kept]]:
    """Jobs that did not succeed and that nobody resumed, at most `limit`: first those whose time is over first."""
    # The state in a form that no index has: all failed jobs are many more than those with something left.
    query = (
        plain_select(col(JobRow.job_id))
        .where(col(JobRow.job_id).in_(_EXISTING), col(JobRow.state).concat("").in_(_UNDONE))
        .where(~_resumed(), _offered())
        .order_by(col(JobRow.finished_at), col(JobRow.job_id))
        .limit(limit)
    )
    keep = _kept_for(session)
    return [(job, _kept(job, keep)) for job in get_jobs(session, list(session.execute(query).scalars()))]


def _kept(job: Job, keep: timedelta | None) -> Kept:
    until = job.finished_at + keep if keep and job.finished_at else None
    return Kept(checkpoint=job.checkpoints[-1].number, until=until)


def _kept_for(session: Session) -> timedelta | None:
    seconds = current_configuration(session).server.keep_volume_seconds
    return timedelta(seconds=seconds) if seconds else None


def _offered() -> ColumnElement[bool]:
    mine = col(CheckpointRow.job_id) == col(JobRow.job_id)
    return plain_select(col(CheckpointRow.number)).where(mine, col(CheckpointRow.offered).is_(True)).exists()


def _resumed() -> ColumnElement[bool]:
    """A job has taken its checkpoints, or will. One that ended before it took them leaves them to others."""
    new: Any = JobRow.__table__.alias()  # type: ignore[attr-defined]
    mine = col(ResumptionRow.job_id) == col(JobRow.job_id)
    will = or_(col(ResumptionRow.taken_at).is_not(None), new.c.finished_at.is_(None))
    query = plain_select(col(ResumptionRow.job_id)).outerjoin(new, new.c.job_id == col(ResumptionRow.new_job_id))
    return query.where(mine, will).correlate(JobRow).exists()
