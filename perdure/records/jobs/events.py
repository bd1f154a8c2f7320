"""Timelines: of one job, oldest line first, and of all jobs, newest first."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Integer, bindparam, func, text
from sqlalchemy import select as plain_select
from sqlmodel import Session, col, select

from perdure.domain.errors import UnknownJob
from perdure.domain.jobs import JobEvent
from perdure.domain.values import Frozen
from perdure.records.jobs.changes import take_positions
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import EventRow, JobRow, plain


class LineOfJob(Frozen):
    """A timeline line with the job it is of."""

    job_id: str
    name: str
    queue: str
    event: JobEvent


class EventFilter(Frozen):
    """Which lines. None or empty: all. A time range holds its beginning but not its end."""

    job_id: str | None = None
    kind: str | None = None
    levels: frozenset[str] = frozenset()
    since: datetime | None = None
    before: datetime | None = None


_EVENTS = plain(EventRow)
# Made once: putting a query together takes longer than running it.
_OF_JOB = (
    plain_select(_EVENTS)
    .where(_EVENTS.c.job_id == bindparam("job_id"), _EVENTS.c.sequence > bindparam("after"))
    .order_by(_EVENTS.c.sequence)
    .limit(bindparam("limit", type_=Integer))
)
_NEWEST = (
    plain_select(_EVENTS)
    .where(_EVENTS.c.job_id == bindparam("job_id"))
    .order_by(_EVENTS.c.sequence.desc())
    .limit(bindparam("limit", type_=Integer))
)
_NEWEST_OF_KIND = _NEWEST.where(_EVENTS.c.kind == bindparam("kind"))
_OF_JOBS = (
    plain_select(_EVENTS)
    .where(_EVENTS.c.job_id.in_(bindparam("ids", expanding=True)), _EVENTS.c.sequence <= bindparam("last"))
    .order_by(_EVENTS.c.job_id, _EVENTS.c.sequence)
)


def list_events(session: Session, job_id: str, *, after_sequence: int = 0, limit: int = 500) -> list[JobEvent]:
    """The job's timeline after `after_sequence`, oldest first. Raises UnknownJob."""
    wanted = {"job_id": job_id, "after": after_sequence, "limit": limit}
    found = [
        JobEvent.model_validate(dict(row)) for row in session.connection().execute(_OF_JOB, wanted).mappings().all()
    ]
    if not found and session.get(JobRow, job_id) is None:
        raise UnknownJob(f"There is no job {job_id[:80]!r} in Perdure's records")
    return found


def newest_events(session: Session, job_id: str, *, limit: int = 500) -> list[JobEvent]:
    """The newest lines of a job's timeline, oldest first. Empty for a job that nobody knows."""
    rows = session.connection().execute(_NEWEST, {"job_id": job_id, "limit": limit}).mappings().all()
    return [JobEvent.model_validate(dict(row)) for row in reversed(rows)]


def newest_event_of_kind(session: Session, job_id: str, kind: str) -> JobEvent | None:
    """The newest line of that kind; None: there is none."""
    wanted = {"job_id": job_id, "kind": kind, "limit": 1}
    row = session.connection().execute(_NEWEST_OF_KIND, wanted).mappings().first()
    return JobEvent.model_validate(dict(row)) if row else None


def timelines(session: Session, job_ids: Collection[str], *, first: int = 500) -> dict[str, list[JobEvent]]:
    """The first lines of each of these jobs' timelines, oldest first."""
    found: dict[str, list[JobEvent]] = {}
    for row in session.connection().execute(_OF_JOBS, {"ids": list(job_ids), "last": first}).mappings().all():
        found.setdefault(row["job_id"], []).append(JobEvent.model_validate(dict(row)))
    return found


def add_line(session: Session, job_id: str, at: datetime, kind: str, message: str) -> None:
    """One line more, for a job whose own workflow is over and adds none any more. The caller has locked the job, and
    does nothing else in its transaction afterwards (records.jobs.changes)."""
    last = session.exec(select(func.max(EventRow.sequence)).where(EventRow.job_id == job_id)).one()
    session.add(
        EventRow(
            job_id=job_id,
            sequence=(last or 0) + 1,
            position=take_positions(session, 1)[0],
            at=at,
            kind=kind,
            message=message,
            level="info",
            epoch=None,
        )
    )


def list_all_events(
    session: Session,
    *,
    limit: int = 50,
    after: str | None = None,
    where: EventFilter = EventFilter(),  # noqa: B008 - immutable
) -> Page[LineOfJob]:
    """Lines of all jobs that `where` asks for, newest first.

    `after` is the `next` of the page before; ConfigurationInvalid when it is anything else, or of another list.
    """
    at = col(EventRow.at)
    keyset = Keyset(at, col(EventRow.position), down=True, question=["events", *_question(where)])
    query = select(EventRow, JobRow.name, JobRow.queue).join(JobRow, col(JobRow.job_id) == col(EventRow.job_id))
    if where.job_id is not None:
        query = query.where(EventRow.job_id == where.job_id)
    if where.kind is not None:
        query = query.where(EventRow.kind == where.kind)
    if where.levels:
        query = query.where(col(EventRow.level).in_(sorted(where.levels)))
        if "info" not in where.levels:
            query = query.where(text("events.level <> 'info'"))  # word for word as the index has it, else it is no use
    if where.since is not None:
        query = query.where(at >= where.since)
    if where.before is not None:
        query = query.where(at < where.before)
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    rows = session.exec(query.order_by(*keyset.directed()).limit(limit + 1)).all()
    page = keyset.page(rows, limit, lambda row: (row[0].at, row[0].position))
    return Page(
        items=[
            LineOfJob(job_id=row.job_id, name=name, queue=queue, event=JobEvent.model_validate(row.model_dump()))
            for row, name, queue in page.items
        ],
        next=page.next,
    )


def _question(where: EventFilter) -> list[object]:
    return [where.job_id, where.kind, sorted(where.levels), where.since, where.before]
