"""The ledger's writer: what a job's record says becomes lines, and what changed in them goes to the rollups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.jobs import Job, JobState
from perdure.domain.ledger import ledger_entries
from perdure.domain.nodes import Node
from perdure.domain.rollups import LENGTH, Level, bucket_start
from perdure.records.costs.prices import prices_of_job
from perdure.records.costs.rollups import Changes
from perdure.records.costs.store_uses import uses_of
from perdure.records.schema.database import lock
from perdure.records.schema.ledger_tables import FIGURES, ledger
from perdure.records.schema.tables import CheckpointRow, JobRow, NodeRow

_COLUMNS = tuple(ledger.c.keys())
_FIRST_FIGURE = len(_COLUMNS) - len(FIGURES)
_AT, _QUEUE, _ATTEMPTS, _SUCCESSES = map(_COLUMNS.index, ("at", "queue", "checkpoint_attempts", "checkpoint_successes"))
_HOURLY = ("run", "instance", "checkpoints", "store")
"""Kinds with a line per hour; other kinds have few."""
_RUNS_ON = {
    JobState.RUNNING,
    JobState.CHECKPOINTING,
    JobState.CHECKPOINT_SUCCEEDED,
    JobState.CHECKPOINT_FAILED,
}
_CHECKPOINTS, _RESTORES = "counted/checkpoints/", "counted/restores/"
"""Begin the keys of lines that are made here, not by domain.ledger."""

Line = Sequence[Any]
"""A row of the table, in the order of its columns."""


def retire_ledger(session: Session, job_ids: Collection[str]) -> None:
    """Drop these jobs' lines and keep their totals, for jobs whose records go. In a transaction of its own with the
    deletion of the jobs; a few hundred jobs at a time."""
    changes = Changes()
    for job_id in sorted(job_ids):
        lock_job(session, job_id)
        for line in known_lines(session, job_id).values():
            changes.add(line[_AT], line[_QUEUE], line[_FIRST_FIGURE:], sign=-1)
            changes.add(line[_AT], line[_QUEUE], line[_FIRST_FIGURE:], retired=True)
        session.connection().execute(delete(ledger).where(ledger.c.job_id == job_id))
    changes.apply(session)


def update_ledger(session: Session, job: Job, until: datetime, grown_since: datetime | None = None) -> None:
    """Work the job's ledger out of its record as it is, up to `until` if it still runs, and store it.

    What an entry of domain.ledger does not count comes from the job's counters: checkpoint attempts by how far the
    counter is ahead of the lines so far (in the hour of the change), restores by the attempts that they led to.

    `grown_since` (see grown_since below): hourly lines before that hour stay as they are, so that a job costs the same
    at every record, however long it has run.
    """
    lock_job(session, job.job_id)
    # A checkpoint is told when it is committed, and counts when it froze: one hour more is looked at.
    hour = bucket_start(Level.HOUR, grown_since - LENGTH[Level.HOUR]) if grown_since else None
    known = known_lines(session, job.job_id, hour)
    if hour and not known:  # its ledger was never worked out
        hour = None
    nodes = _nodes(session, {attempt.instance_id for attempt in job.attempts})
    uses = uses_of(session, job.job_id, hour)
    prices = prices_of_job(session, job, nodes, until, {use.region for use in uses})
    checkpoints = _checkpoints(session, job.job_id, hour)
    lines = ledger_entries(job, nodes, prices, until, checkpoints, hour, uses)
    entries = [*lines, *_counted_checkpoints(session, job, known), *_counted_restores(job)]
    store_lines(session, job.job_id, job.queue, known, entries)


def grown_since(known: JobRow | None, job: Job) -> datetime | None:
    """Since when a job has only grown older, if that is all its record says: no container came or went. None: its past
    may have changed too. What else is learnt of the past (a price, Batch's times) is worked in by refresh_ledger, and
    when the job ends."""
    same = known is not None and (known.epoch, known.queue, known.vcpus) == (job.epoch, job.queue, job.vcpus)
    if known is None or not same or known.state not in _RUNS_ON or job.state not in _RUNS_ON:
        return None
    if not job.attempts or job.attempts[-1].ended_at is not None or job.attempts[-1].batch_stopped_at is not None:
        return None
    return known.changed_at


def _nodes(session: Session, ids: Collection[str]) -> dict[str, Node]:
    rows = session.exec(select(NodeRow).where(col(NodeRow.instance_id).in_(ids)))
    return {row.instance_id: Node.model_validate(row.model_dump()) for row in rows}


def _checkpoints(session: Session, job_id: str, hour: datetime | None) -> list[Checkpoint]:
    """Every one that was ever committed, frozen from `hour` on. Not validated again: there may be hundreds."""
    columns = [col(getattr(CheckpointRow, name)) for name in Checkpoint.model_fields]
    wanted = sa.select(*columns).where(col(CheckpointRow.job_id) == job_id)
    if hour is not None:
        wanted = wanted.where(col(CheckpointRow.frozen_at) >= hour)
    rows = session.connection().execute(wanted)
    return [Checkpoint.model_construct(**row._mapping) for row in rows]


def _counted_checkpoints(session: Session, job: Job, known: Mapping[str, Line]) -> list[LedgerEntry]:
    """One line per hour. A job's counter has no history, so the lines there are stay, and the hour of the last change
    gets what is missing."""
    mine = (ledger.c.job_id == job.job_id, ledger.c.kind == "checkpoints")
    sums = sa.select(sa.func.sum(ledger.c.checkpoint_attempts), sa.func.sum(ledger.c.checkpoint_successes))
    tried, succeeded = (int(total or 0) for total in session.connection().execute(sums.where(*mine)).one())
    hours = {
        line[_AT]: (line[_ATTEMPTS], line[_SUCCESSES]) for key, line in known.items() if key.startswith(_CHECKPOINTS)
    }
    now = bucket_start(Level.HOUR, job.changed_at or job.created_at)
    attempts, successes = hours.get(now, (0, 0))
    hours[now] = (
        attempts + job.checkpoints_committed + job.checkpoint_failures - tried,
        successes + job.checkpoints_committed - succeeded,
    )
    return [
        _counted(
            job,
            _CHECKPOINTS,
            hour,
            Figures(checkpoint_attempts=attempts, checkpoint_successes=successes),
            "begun, and committed, as far as the job's record said so in this hour",
        )
        for hour, (attempts, successes) in hours.items()
        if attempts or successes
    ]


def _counted_restores(job: Job) -> list[LedgerEntry]:
    """One line per hour. A checkpoint that could not be restored is a failed try; a start from one, a good one."""
    figures: dict[datetime, Figures] = {}
    for attempt in job.attempts:
        good = 0 if attempt.restored_from is None else 1
        hour = bucket_start(Level.HOUR, attempt.started_at or attempt.ended_at or attempt.accepted_at)
        counted = Figures(restore_attempts=good + attempt.restore_failures, restore_successes=good)
        figures[hour] = figures.get(hour, Figures()) + counted
    formula = "starts from a checkpoint in this hour, and checkpoints that could not be restored before them"
    return [_counted(job, _RESTORES, hour, sums, formula) for hour, sums in figures.items() if sums.restore_attempts]


def _counted(job: Job, prefix: str, hour: datetime, figures: Figures, formula: str) -> LedgerEntry:
    key, kind = f"{prefix}{hour:%Y-%m-%dT%H}", prefix.split("/")[1]
    detail: dict[str, str | float | int | None] = {"formula": formula}
    return LedgerEntry(job_id=job.job_id, key=key, kind=kind, at=hour, figures=figures, detail=detail)


def lock_job(session: Session, job_id: str) -> None:
    """Of the job and its ledger, what is read next stays true until the end of the transaction. Whoever writes a job or
    its ledger begins with this, and so never waits for a row that another holds while that one waits for this."""
    lock(session, f"job/{job_id}")


def known_lines(session: Session, job_id: str, hour: datetime | None = None) -> dict[str, Row[Any]]:
    """The lines of a job as they are stored, by key; hourly ones from `hour` on."""
    wanted = sa.select(ledger).where(ledger.c.job_id == job_id)
    if hour is not None:
        wanted = wanted.where(sa.or_(ledger.c.at >= hour, ledger.c.kind.not_in(_HOURLY)))
    return {line.key: line for line in session.connection().execute(wanted)}


def store_lines(
    session: Session, job_id: str, queue: str, known: Mapping[str, Line], entries: Collection[LedgerEntry]
) -> None:
    """Make `entries` the job's ledger, counted for `queue`, in place of the `known` lines; the rollups follow.

    Lines that are as they were are not written again. Once in a transaction, after lock_job (see Changes.apply).
    """
    changes, written = Changes(), []
    gone = set(known)
    for entry in entries:
        line = _line(entry, job_id, queue)
        before = known.get(entry.key)
        gone.discard(entry.key)
        if before is not None:
            if tuple(before) == line:
                continue
            changes.add(before[_AT], before[_QUEUE], before[_FIRST_FIGURE:], sign=-1)
        changes.add(line[_AT], line[_QUEUE], line[_FIRST_FIGURE:])
        written.append(dict(zip(_COLUMNS, line, strict=True)))
    for key in gone:
        changes.add(known[key][_AT], known[key][_QUEUE], known[key][_FIRST_FIGURE:], sign=-1)
    connection = session.connection()
    if gone:
        connection.execute(delete(ledger).where(ledger.c.job_id == job_id, ledger.c.key.in_(gone)))
    if written:
        connection.execute(_replacing(connection.dialect.name), written)
    changes.apply(session)


def _line(entry: LedgerEntry, job_id: str, queue: str) -> tuple[Any, ...]:
    if entry.job_id != job_id:
        raise ValueError(f"a line of job {entry.job_id!r} is not one of job {job_id!r}")
    figures = entry.figures.model_dump()
    return (
        job_id,
        entry.key,
        entry.kind,
        entry.at,
        queue,
        entry.estimated,
        entry.detail,
        *(figures[name] for name in FIGURES),
    )


@lru_cache
def _replacing(dialect: str) -> Any:
    statement = postgresql.insert(ledger) if dialect == "postgresql" else sqlite.insert(ledger)
    new = {name: statement.excluded[name] for name in _COLUMNS if name not in ("job_id", "key")}
    return statement.on_conflict_do_update(index_elements=["job_id", "key"], set_=new)
