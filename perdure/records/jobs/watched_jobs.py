"""Jobs that should have a running container, for whoever asks AWS about all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, select
from sqlmodel import Session, col

from perdure.domain.jobs import JobState
from perdure.domain.values import Frozen
from perdure.records.schema.tables import AttemptRow, JobRow

_RUNS = [
    state.value
    for state in (
        JobState.RUNNING,
        JobState.CHECKPOINTING,
        JobState.CHECKPOINT_FAILED,
        JobState.RESTORE_SUCCEEDED,
        JobState.RESTORE_FAILED,
    )
]
IDS_AT_ONCE = 200


class WatchedJob(Frozen):
    """A job, the instance of its newest container, and when anything was heard of it (UTC). `interval_seconds`: None or
    0 without periodic checkpoints, and for a job that runs unprotected."""

    job_id: str
    instance_id: str
    changed_at: datetime
    interval_seconds: float | None = None


def jobs_on(session: Session, instance_ids: Sequence[str]) -> list[WatchedJob]:
    """Those whose newest container is on one of these instances."""
    found: list[WatchedJob] = []
    for start in range(0, len(instance_ids), IDS_AT_ONCE):
        some = instance_ids[start : start + IDS_AT_ONCE]
        found += _read(session, _watched().where(col(AttemptRow.instance_id).in_(some)))
    return found


def quiet_jobs(session: Session, before: datetime, after: str, limit: int) -> list[WatchedJob]:
    """At most `limit` of those of which nothing was heard since `before`, by id, those above `after`."""
    quiet = _watched().where(col(JobRow.changed_at) < before, col(JobRow.job_id) > after)
    return _read(session, quiet.order_by(col(JobRow.job_id)).limit(limit))


def _watched() -> Select[Any, Any, Any, Any, Any]:
    return (
        select(
            col(JobRow.job_id),
            col(AttemptRow.instance_id),
            col(JobRow.changed_at),
            col(JobRow.interval_seconds),
            col(JobRow.unprotected),
        )
        .join(
            AttemptRow, and_(col(AttemptRow.job_id) == col(JobRow.job_id), col(AttemptRow.epoch) == col(JobRow.epoch))
        )
        .where(col(JobRow.state).in_(_RUNS), col(JobRow.changed_at).is_not(None))
    )


def _read(session: Session, query: Select[Any, Any, Any, Any, Any]) -> list[WatchedJob]:
    return [
        WatchedJob(
            job_id=job_id,
            instance_id=instance_id,
            changed_at=changed_at,
            interval_seconds=None if unprotected else interval,
        )
        for job_id, instance_id, changed_at, interval, unprotected in session.execute(query).all()
    ]
