"""Which log bundles of a job, or of a node, are kept?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_
from sqlmodel import Session, col, select

from perdure.domain.values import Frozen
from perdure.records.schema.log_tables import LogBundleRow

MOST_PER_JOB = 12
MOST_PER_NODE = 4
"""Of the node as a whole, without those of its jobs."""


class KeptBundle(Frozen):
    """A bundle without its content. Size in bytes, `at` UTC; `job_id` is empty for one of a whole node."""

    key: str
    job_id: str
    instance_id: str
    epoch: int
    kind: str
    at: datetime
    size: int


def keep(session: Session, bundle: KeptBundle, content: bytes) -> None:
    """Store it unless its key is known; then only the newest of that job (or node) stay."""
    if session.get(LogBundleRow, bundle.key) is not None:
        return
    session.add(LogBundleRow(**bundle.model_dump(), content=content))
    session.flush()
    of_same = [LogBundleRow.job_id == bundle.job_id]
    if not bundle.job_id:
        of_same.append(LogBundleRow.instance_id == bundle.instance_id)
    most = MOST_PER_JOB if bundle.job_id else MOST_PER_NODE
    newest_first = (col(LogBundleRow.at).desc(), col(LogBundleRow.key).desc())
    too_many = session.exec(select(LogBundleRow.key).where(*of_same).order_by(*newest_first).offset(most)).all()
    if too_many:
        session.execute(delete(LogBundleRow).where(col(LogBundleRow.key).in_(too_many)))


def of_job(session: Session, job_id: str) -> Iterator[tuple[KeptBundle, bytes]]:
    """Newest first."""
    yield from _read(session, LogBundleRow.job_id == job_id)


def of_node(session: Session, instance_id: str) -> Iterator[tuple[KeptBundle, bytes]]:
    """Its own, and those of jobs that it sent; newest first, at most MOST_PER_JOB."""
    yield from _read(session, LogBundleRow.instance_id == instance_id)


def _read(session: Session, wanted: object) -> Iterator[tuple[KeptBundle, bytes]]:
    found = (
        select(LogBundleRow)
        .where(wanted)  # type: ignore[arg-type]  # a column's comparison, which mypy takes for a bool
        .order_by(col(LogBundleRow.at).desc(), col(LogBundleRow.key).desc())
        .limit(MOST_PER_JOB)
    )
    for row in session.exec(found):
        yield KeptBundle.model_validate(row.model_dump(exclude={"content"})), row.content


def forget(session: Session, *, before: datetime | None = None, job_ids: Iterable[str] = ()) -> int:
    """Delete the bundles that are older than `before`, and those of these jobs; how many."""
    conditions: list[ColumnElement[bool]] = [col(LogBundleRow.job_id).in_(list(job_ids))]
    if before is not None:
        conditions.append(col(LogBundleRow.at) < before)
    return int(session.execute(delete(LogBundleRow).where(or_(*conditions))).rowcount)  # type: ignore[attr-defined]
