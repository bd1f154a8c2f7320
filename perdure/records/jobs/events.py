"""Timelines: of one job, oldest line first, and of all jobs, newest first."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Integer, bindparam, literal, text, tuple_, type_coerce
from sqlalchemy import select as plain_select
from sqlmodel import Session, col, select

from perdure.domain.errors import UnknownJob
from perdure.domain.jobs import JobEvent
from perdure.domain.values import Frozen
from perdure.records.schema.pages import Page, decode_bound_cursor, encode_cursor, fingerprint
from perdure.records.schema.tables import EventRow, JobRow, plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def timelines(session: Session, job_ids: Collection[str], *, first: int = 500) -> dict[str, list[JobEvent]]:
    """The first lines of each of these jobs' timelines, oldest first."""
    found: dict[str, list[JobEvent]] = {}
    for row in session.connection().execute(_OF_JOBS, {"ids": list(job_ids), "last": first}).mappings().all():
        found.setdefault(row["job_id"], []).append(JobEvent.model_validate(dict(row)))
    return found


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
    question = fingerprint("events", where.job_id, where.kind, sorted(where.levels), where.since, where.before)
    at, position = col(EventRow.at), col(EventRow.position)
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
        micros, last = decode_bound_cursor(after, question, int, int)
        there = tuple_(literal(micros, BigInteger()), literal(last, BigInteger()))
        query = query.where(tuple_(type_coerce(at, BigInteger), position) < there)
    rows = session.exec(query.order_by(at.desc(), position.desc()).limit(limit + 1)).all()
    following = None
    if len(rows) > limit:
        line = rows[limit - 1][0]
        following = encode_cursor(question, (line.at - _EPOCH) // timedelta(microseconds=1), line.position)
    return Page(
        items=[
            LineOfJob(job_id=row.job_id, name=name, queue=queue, event=JobEvent.model_validate(row.model_dump()))
            for row, name, queue in rows[:limit]
        ],
        next=following,
    )
