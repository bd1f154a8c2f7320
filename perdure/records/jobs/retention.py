"""What is forgotten, and when: records of finished jobs, old lines of logs. Totals are never forgotten.

Each call does a bounded piece in the caller's transaction and says how much it was, so that no writer waits for long.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import and_, delete, exists, func, or_, select
from sqlmodel import Session, col

from perdure.domain.configuration import ServerConfiguration
from perdure.domain.jobs import JobState
from perdure.domain.nodes import NodeState
from perdure.records.access import audit
from perdure.records.costs import prices, rollups
from perdure.records.costs.ledger import lock_job, retire_ledger
from perdure.records.jobs import log_bundles, orphans
from perdure.records.schema.log_tables import ResumptionRow
from perdure.records.schema.tables import AttemptRow, JobRow, NodeRow, VolumeRow

JOBS_AT_ONCE = 200


def retire_jobs(session: Session, kept: ServerConfiguration, now: datetime) -> int:
    """Delete the records of some jobs that ended long enough ago, with all that hangs on them; how many jobs.

    Their ledgers' totals stay in the rollups. A job whose volume still exists stays too, as one whose checkpoints are
    kept in a store: its record is the only trace of what a `resume` could go on from, and of what costs money.
    """
    conditions = []
    for seconds, is_it in (
        (kept.keep_succeeded_seconds, col(JobRow.state) == JobState.SUCCEEDED.value),
        (kept.keep_failed_seconds, col(JobRow.state) != JobState.SUCCEEDED.value),
    ):
        if seconds > 0:
            conditions.append(and_(is_it, col(JobRow.finished_at) < now - timedelta(seconds=seconds)))
    if not conditions:
        return 0
    has_volume = exists().where(col(VolumeRow.job_id) == JobRow.job_id, col(VolumeRow.deleted_at).is_(None))
    taken = exists().where(col(ResumptionRow.job_id) == JobRow.job_id, col(ResumptionRow.taken_at).is_not(None))
    old = (
        select(col(JobRow.job_id))
        .where(or_(*conditions), ~has_volume, or_(col(JobRow.stored).is_(None), taken))
        .order_by(col(JobRow.finished_at))
        .limit(JOBS_AT_ONCE)
    )
    job_ids = list(session.scalars(old))
    if job_ids:
        for job_id in sorted(job_ids):
            lock_job(session, job_id)
        log_bundles.forget(session, job_ids=job_ids)
        session.execute(delete(JobRow).where(col(JobRow.job_id).in_(job_ids)))
        retire_ledger(session, job_ids)
    return len(job_ids)


def retire_nodes(session: Session, kept: ServerConfiguration, now: datetime) -> int:
    """Delete some nodes that went as long ago as jobs are kept, and of which no job's record speaks; how many."""
    if not kept.keep_failed_seconds or not kept.keep_succeeded_seconds:
        return 0
    since = now - timedelta(seconds=max(kept.keep_failed_seconds, kept.keep_succeeded_seconds))
    used = exists().where(col(AttemptRow.instance_id) == NodeRow.instance_id)
    old = (
        select(col(NodeRow.instance_id))
        .where(col(NodeRow.state) == NodeState.GONE.value, col(NodeRow.changed_at) < since, ~used)
        .limit(JOBS_AT_ONCE)
    )
    ids = list(session.scalars(old))
    if ids:
        session.execute(delete(NodeRow).where(col(NodeRow.instance_id).in_(ids)))
    return len(ids)


def forget_old_lines(session: Session, kept: ServerConfiguration, now: datetime) -> int:
    """Some old lines of the audit log, orphans deleted long ago, log bundles of nodes, fine rollups and price points;
    how many in all."""
    gone = rollups.prune_rollups(session, now)
    oldest_job = session.scalar(select(func.min(col(JobRow.created_at))))
    gone += prices.forget_old_points(session, (oldest_job or now) - timedelta(days=1))
    if kept.keep_audit_seconds:
        gone += audit.forget_before(session, now - timedelta(seconds=kept.keep_audit_seconds))
        gone += orphans.forget_before(session, now - timedelta(seconds=kept.keep_audit_seconds))
    longest = max(kept.keep_succeeded_seconds, kept.keep_failed_seconds)
    if kept.keep_succeeded_seconds and kept.keep_failed_seconds:
        gone += log_bundles.forget(session, before=now - timedelta(seconds=longest))
    return gone
