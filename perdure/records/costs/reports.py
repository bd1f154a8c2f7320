"""Sums for reports: of a span of time from the rollups alone, of one job from its ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from perdure.domain.errors import UnknownJob
from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.jobs import FINISHED_STATES, JobState
from perdure.domain.rollups import Cover, Level, Stretch
from perdure.domain.unprotected import UnprotectedCount, count_reasons
from perdure.records.costs.job_costs import figures_of_jobs
from perdure.records.schema.ledger_tables import FIGURES, figures_of, ledger, rollups
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import JobRow

_SUMS = tuple(func.sum(rollups.c[name]).label(name) for name in FIGURES)
MOST_UNPROTECTED = 20_000
"""Jobs whose reasons are read for one report."""
_RUNNING = tuple(state.value for state in JobState if state not in FINISHED_STATES)


def sum_span(session: Session, cover: Cover, queue: str | None = None) -> Figures:
    """Everything that counts in a span, in `queue` (None: all)."""
    if not cover.stretches:
        return Figures()
    wanted = select(*_SUMS).where(_within(cover.stretches))
    if queue is not None:
        wanted = wanted.where(rollups.c.queue == queue)
    return figures_of(session.connection().execute(wanted).one())


def sum_queues(session: Session, cover: Cover) -> dict[str, Figures]:
    """The same for each queue in which anything counts, by name."""
    if not cover.stretches:
        return {}
    wanted = select(rollups.c.queue, *_SUMS).where(_within(cover.stretches)).group_by(rollups.c.queue)
    sums = {row.queue: figures_of(row) for row in session.connection().execute(wanted)}
    return {queue: sums[queue] for queue in sorted(sums) if any(sums[queue].model_dump().values())}


def sum_buckets(
    session: Session, level: Level, start: datetime, end: datetime, queue: str | None, names: Collection[str]
) -> dict[datetime, Figures]:
    """Each bucket from `start` up to `end` that has a row, by its start: the figures of these names alone."""
    sums = (func.sum(rollups.c[name]).label(name) for name in sorted(names))
    wanted = select(rollups.c.bucket, *sums).where(_within([Stretch(level=level, start=start, end=end)]))
    if queue is not None:
        wanted = wanted.where(rollups.c.queue == queue)
    rows = session.connection().execute(wanted.group_by(rollups.c.bucket))
    return {row.bucket: figures_of(row) for row in rows}


def _within(stretches: Sequence[Stretch]) -> ColumnElement[bool]:
    """Rows of these buckets: a range of the primary key each."""
    return or_(*(_range(stretch) for stretch in stretches))


def _range(stretch: Stretch) -> ColumnElement[bool]:
    conditions = [rollups.c.level == str(stretch.level)]
    if stretch.start is not None:
        conditions.append(rollups.c.bucket >= stretch.start)
    if stretch.end is not None:
        conditions.append(rollups.c.bucket < stretch.end)
    return and_(*conditions)


def sum_job(session: Session, job_id: str) -> Figures:
    """Everything that counts for one job. Raises UnknownJob."""
    _must_exist(session, job_id)
    return figures_of_jobs(session, [job_id]).get(job_id, Figures())


def list_ledger(session: Session, job_id: str, *, limit: int = 100, after: str | None = None) -> Page[LedgerEntry]:
    """A job's ledger in order of time. `after`: the `next` of the page before; ConfigurationInvalid when it is not."""
    _must_exist(session, job_id)
    keyset = Keyset(ledger.c.at, ledger.c.key, question=["ledger", job_id])
    wanted = select(ledger).where(ledger.c.job_id == job_id).order_by(*keyset.directed()).limit(limit + 1)
    if after is not None:
        wanted = wanted.where(keyset.beyond(keyset.read(after)))
    entries = [_entry(row) for row in session.connection().execute(wanted)]
    return keyset.page(entries, limit, lambda entry: (entry.at, entry.key))


def _entry(row: Any) -> LedgerEntry:
    own = {name: row._mapping[name] for name in LedgerEntry.model_fields if name != "figures"}
    return LedgerEntry(**own, figures=figures_of(row))


def _must_exist(session: Session, job_id: str) -> None:
    if session.get(JobRow, job_id) is None:
        raise UnknownJob(f"There is no job {job_id[:80]!r} in Perdure's records")


def unprotected_reasons(
    session: Session, start: datetime | None, end: datetime | None, queue: str | None = None
) -> list[UnprotectedCount]:
    """Jobs of a span (by the time of their first container) that run, or ran to their end, unprotected: how many for
    which reason, the commonest first. Of jobs whose records are still kept, the newest MOST_UNPROTECTED."""
    wanted = (
        select(col(JobRow.job_id), col(JobRow.unprotected), col(JobRow.finished_at).is_(None))
        .where(col(JobRow.unprotected) != "")
        .order_by(col(JobRow.created_at).desc(), col(JobRow.job_id))
        .limit(MOST_UNPROTECTED)
    )
    for condition in (
        None if start is None else col(JobRow.created_at) >= start,
        None if end is None else col(JobRow.created_at) < end,
        None if queue is None else col(JobRow.queue) == queue,
    ):
        if condition is not None:
            wanted = wanted.where(condition)
    rows = session.execute(wanted)
    return count_reasons((job_id, reason, bool(runs)) for job_id, reason, runs in rows)


def unprotected_reason(session: Session, job_id: str) -> list[UnprotectedCount]:
    """The same of one job: nothing, or its own reason in full. Raises UnknownJob."""
    row = session.get(JobRow, job_id)
    if row is None:
        raise UnknownJob(f"There is no job {job_id[:80]!r} in Perdure's records")
    if not row.unprotected:
        return []
    runs = int(row.finished_at is None)
    return [UnprotectedCount(reason=row.unprotected, jobs=1, running=runs, job_ids=[job_id])]


def running_by_queue(session: Session) -> dict[str, int]:
    """How many jobs of each queue are not finished."""
    counted = select_rows(JobRow.queue, func.count()).where(col(JobRow.state).in_(_RUNNING)).group_by(JobRow.queue)
    return {queue: number for queue, number in session.exec(counted).all()}
