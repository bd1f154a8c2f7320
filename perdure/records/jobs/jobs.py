"""Jobs: written as their workflows tell, read one at a time with their timelines, and counted. Pages: job_lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import RowMapping, bindparam, delete, func, insert, update
from sqlalchemy import select as sql_select
from sqlmodel import Session, SQLModel, col, select

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.errors import UnknownJob
from perdure.domain.jobs import FINISHED_STATES, Attempt, Job, JobEvent, JobState, Outage
from perdure.domain.rollups import Level
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.domain.volumes import SnapshotLife, VolumeLife
from perdure.records.costs.ledger import grown_since, lock_job, update_ledger
from perdure.records.costs.store_uses import add_uses, last_use_at
from perdure.records.jobs.changes import NO_POSITION, take_positions
from perdure.records.jobs.job_texts import keep_text
from perdure.records.schema.ledger_tables import rollups
from perdure.records.schema.tables import (
    AttemptRow,
    CheckpointRow,
    EventRow,
    JobRow,
    OutageRow,
    SnapshotRow,
    VolumeRow,
    plain,
)

LISTS = {"attempts", "checkpoints", "outages", "volumes", "snapshots"}
"""Fields of Job that are tables of their own."""

Value = TypeVar("Value", bound=Frozen)


def record_job(
    session: Session, job: Job, events: Sequence[JobEvent], revision: int, store_uses: Sequence[StoreUse] = ()
) -> bool:
    """Store the job as it is at `revision`, and the timeline lines and uses of its store not yet stored. Key: (job_id,
    revision). At revision 0, which is no workflow's (records.jobs.unseen_jobs), the newest word replaces the one
    before.

    False: the same or a newer revision is stored already, and the job stays as it is; lines and uses are added all the
    same.
    """
    lock_job(session, job.job_id)
    known = session.get(JobRow, job.job_id)
    newer = known is None or known.revision < revision or known.revision == revision == 0
    found_by = (known.name, known.queue) if known else None
    since = grown_since(known, job)
    if known is None:
        _put_job(session, job, revision, NO_POSITION)  # the lists and the timeline refer to it
    add_uses(session, job.job_id, store_uses)
    if newer:
        _replace_lists(session, job)
        if found_by != (job.name, job.queue):
            keep_text(session, job)
        session.flush()
        update_ledger(session, job, _until(session, job), since)
    new = _not_known(session, job.job_id, events)
    positions = take_positions(session, newer + len(new))  # last: see records.jobs.changes
    if newer:
        _put_job(session, job, revision, positions[0])
    if new:
        rows = zip(positions[newer:], new, strict=True)
        session.execute(
            insert(_EVENTS), [{"job_id": job.job_id, "position": place, **one.model_dump()} for place, one in rows]
        )
    return newer


def _until(session: Session, job: Job) -> datetime:
    """Up to when the record tells of the job. What its end asked of the store came after it."""
    if job.finished_at is not None:
        return max(job.finished_at, last_use_at(session, job.job_id) or job.finished_at)
    return job.changed_at or job.created_at


def _put_job(session: Session, job: Job, revision: int, position: int) -> None:
    newest = job.attempts[-1] if job.attempts else None
    place = {"instance_id": newest.instance_id, "zone": newest.zone} if newest else {"instance_id": None, "zone": None}
    whole = {  # read with the job only
        "rehearsal": job.rehearsal.model_dump(mode="json") if job.rehearsal else None,
        "stored": job.stored.model_dump(mode="json") if job.stored else None,
    }
    fields = _plain(job.model_dump(exclude=LISTS | whole.keys())) | place | whole
    session.merge(JobRow(**fields, revision=revision, position=position))
    session.flush()


def _replace_lists(session: Session, job: Job) -> None:
    for attempt in job.attempts:
        session.merge(AttemptRow(job_id=job.job_id, **_plain(attempt.model_dump())))
    session.execute(delete(OutageRow).where(col(OutageRow.job_id) == job.job_id))
    for volume in job.volumes:
        session.merge(VolumeRow(job_id=job.job_id, **_plain(volume.model_dump())))
    for snapshot in job.snapshots:
        session.merge(SnapshotRow(job_id=job.job_id, **_plain(snapshot.model_dump())))
    for outage in job.outages:
        session.merge(OutageRow(job_id=job.job_id, **_plain(outage.model_dump())))
    session.execute(update(CheckpointRow).where(col(CheckpointRow.job_id) == job.job_id).values(offered=False))
    for checkpoint in job.checkpoints:
        session.merge(CheckpointRow(job_id=job.job_id, offered=True, **_plain(checkpoint.model_dump())))


_EVENTS = plain(EventRow)
_KNOWN = sql_select(_EVENTS.c.sequence).where(
    _EVENTS.c.job_id == bindparam("job"), _EVENTS.c.sequence >= bindparam("first")
)


def _not_known(session: Session, job_id: str, events: Sequence[JobEvent]) -> list[JobEvent]:
    """Those lines that are not stored. Whoever has locked the job is the only one who adds lines to it."""
    if not events:
        return []
    first = min(event.sequence for event in events)
    known = set(session.execute(_KNOWN, {"job": job_id, "first": first}).scalars())
    return [event for event in events if event.sequence not in known]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Enumerations as their words: drivers disagree about subclasses of str."""
    return {name: str(value) if isinstance(value, str) else value for name, value in values.items()}


class _List:
    """What a table holds of one job, or of several. Put together once: that takes longer than running it."""

    def __init__(self, table: type[SQLModel], order: str, *only: Any) -> None:
        rows = plain(table)
        query = sql_select(rows).where(*only).order_by(rows.c[order])
        self._one = query.where(rows.c.job_id == bindparam("id"))
        self._several = query.where(rows.c.job_id.in_(bindparam("ids", expanding=True)))

    def rows(self, session: Session, ids: list[str]) -> Sequence[RowMapping]:
        connection = session.connection()
        if len(ids) == 1:
            return connection.execute(self._one, {"id": ids[0]}).mappings().all()
        return connection.execute(self._several, {"ids": ids}).mappings().all()


_JOBS = _List(JobRow, "job_id")
_ATTEMPTS = _List(AttemptRow, "epoch")
_OUTAGES = _List(OutageRow, "started_at")
_VOLUMES = _List(VolumeRow, "created_at")
_SNAPSHOTS = _List(SnapshotRow, "created_at")
_OFFERED = _List(CheckpointRow, "number", col(CheckpointRow.offered).is_(True))


def get_job(session: Session, job_id: str) -> Job:
    """One job with everything. Raises UnknownJob."""
    found = get_jobs(session, [job_id])
    if not found:
        raise UnknownJob(f"There is no job {job_id[:80]!r} in Perdure's records")
    return found[0]


def get_jobs(session: Session, job_ids: Sequence[str]) -> list[Job]:
    """These jobs with everything, in this order; unknown ones are left out. One query per list, however many jobs."""
    session.flush()  # what this session has changed counts
    ids = list(job_ids)
    rows = {row["job_id"]: row for row in _JOBS.rows(session, ids)}
    if not rows:
        return []
    attempts = _children(session, _ATTEMPTS, Attempt, ids)
    outages = _children(session, _OUTAGES, Outage, ids)
    volumes = _children(session, _VOLUMES, VolumeLife, ids)
    snapshots = _children(session, _SNAPSHOTS, SnapshotLife, ids)
    checkpoints = _children(session, _OFFERED, Checkpoint, ids)
    return [
        Job(
            **rows[job_id],
            attempts=attempts.get(job_id, []),
            outages=outages.get(job_id, []),
            volumes=volumes.get(job_id, []),
            snapshots=snapshots.get(job_id, []),
            checkpoints=checkpoints.get(job_id, []),
        )
        for job_id in ids
        if job_id in rows
    ]


def _children(session: Session, query: _List, model: type[Value], ids: list[str]) -> dict[str, list[Value]]:
    """What a table holds of these jobs, by job."""
    found: dict[str, list[Value]] = {}
    for row in query.rows(session, ids):
        found.setdefault(row["job_id"], []).append(model.model_validate(dict(row)))
    return found


def list_checkpoints(session: Session, job_id: str) -> list[tuple[Checkpoint, bool]]:
    """Every checkpoint of the job that was ever committed, in order, and whether it is still offered. UnknownJob."""
    if session.get(JobRow, job_id) is None:
        raise UnknownJob(f"There is no job {job_id[:80]!r} in Perdure's records")
    query = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    rows = session.exec(query.order_by(col(CheckpointRow.epoch), col(CheckpointRow.number)))
    return [(Checkpoint.model_validate(row.model_dump()), row.offered) for row in rows]


def count_jobs(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state that occurs. Finished ones as the rollups count them, for there may be millions:
    those whose records are gone are counted too."""
    open_states = sorted(set(JobState) - FINISHED_STATES)
    open_jobs = select(JobRow.state, func.count()).where(col(JobRow.state).in_(open_states)).group_by(JobRow.state)
    counted = {JobState(state): number for state, number in session.exec(open_jobs)}
    names = {JobState.SUCCEEDED: "jobs_succeeded", JobState.FAILED: "jobs_failed", JobState.STOPPED: "jobs_stopped"}
    sums = [func.coalesce(func.sum(rollups.c[name]), 0) for name in names.values()]
    row = session.execute(sql_select(*sums).where(rollups.c.level == str(Level.DAY))).one()
    return counted | {state: int(number) for state, number in zip(names, row, strict=True) if number}
