"""Positions: one rising number over everything that is recorded, so that whoever follows changes misses none.

Each job and each node bears the position of its newest change. Each line of a timeline has a position of its own.

A reader that has seen position n must never find a smaller one later. PostgreSQL's sequences do not promise that: the
writer that took the smaller number may commit second. So a writer locks the one row of positions and holds it until it
commits. Other writers wait for that row. For this reason a writer takes its positions last: all its other work is done,
and what is left is to store the rows that bear the positions. Two writers that took anything else afterwards could also
wait for each other for ever.

A position that is taken but not used leaves a gap.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, update
from sqlmodel import Session, col, select

from perdure.domain.jobs import JobEvent
from perdure.domain.nodes import Node
from perdure.domain.values import Frozen
from perdure.records.jobs.job_lists import COLUMNS, JobLine, job_line
from perdure.records.schema.list_tables import PositionRow
from perdure.records.schema.tables import EventRow, JobRow, NodeRow, plain

CHANGES = "changes"
NO_POSITION = 0
"""Of a row whose transaction has not come to its positions yet. No reader sees it."""


class Change(Frozen):
    """One thing that was recorded: a job as it is now, a node as it is now, or a line of `job_id`'s timeline."""

    position: int
    job_id: str | None = None
    queue: str | None = None
    job: JobLine | None = None
    node: Node | None = None
    event: JobEvent | None = None


_POSITIONS = plain(PositionRow)
_TAKE = (
    update(_POSITIONS)
    .where(_POSITIONS.c.name == CHANGES)
    .values(last=_POSITIONS.c.last + bindparam("count"))
    .returning(_POSITIONS.c.last)
)


def take_positions(session: Session, count: int) -> range:
    """`count` positions for this transaction, which only stores the rows that bear them and then commits. Other
    writers wait here until then."""
    if count == 0:
        return range(0)
    last: int = session.execute(_TAKE, {"count": count}).scalar_one()
    return range(last - count + 1, last + 1)


def last_position(session: Session) -> int:
    """The newest position; everything up to it is visible."""
    return session.exec(select(PositionRow.last).where(PositionRow.name == CHANGES)).one()


def changes_after(session: Session, position: int, *, upto: int, limit: int = 1000) -> tuple[list[Change], int]:
    """Changes after `position`, up to position `upto`, oldest first, and how far they reach: `upto`, or less if there
    are more than `limit`.

    A job or node that changed several times since appears once, as it is now.
    """
    changes = sorted(
        [
            *_events(session, position, upto, limit),
            *_jobs(session, position, upto, limit),
            *_nodes(session, position, upto, limit),
        ],
        key=lambda change: change.position,
    )
    if len(changes) < limit:
        return changes, upto
    return changes[:limit], changes[limit - 1].position


def _events(session: Session, position: int, upto: int, limit: int) -> Sequence[Change]:
    query = (
        select(EventRow, JobRow.queue)
        .join(JobRow, col(JobRow.job_id) == col(EventRow.job_id))
        .where(EventRow.position > position, EventRow.position <= upto)
        .order_by(col(EventRow.position))
        .limit(limit)
    )
    return [
        Change(
            position=row.position,
            job_id=row.job_id,
            queue=queue,
            event=JobEvent.model_validate(row, from_attributes=True),
        )
        for row, queue in session.exec(query)
    ]


def _jobs(session: Session, position: int, upto: int, limit: int) -> Sequence[Change]:
    query = (
        select(JobRow.position, *COLUMNS)
        .where(JobRow.position > position, JobRow.position <= upto)
        .order_by(col(JobRow.position))
        .limit(limit)
    )
    found = []
    for row in session.execute(query):
        line = job_line(row[1:])
        found.append(Change(position=row[0], job_id=line.job_id, queue=line.queue, job=line))
    return found


def _nodes(session: Session, position: int, upto: int, limit: int) -> Sequence[Change]:
    query = (
        select(NodeRow)
        .where(NodeRow.position > position, NodeRow.position <= upto)
        .order_by(col(NodeRow.position))
        .limit(limit)
    )
    return [Change(position=row.position, node=Node.model_validate(row.model_dump())) for row in session.exec(query)]
