"""Sessions of people who signed in with Cognito, and their ways to the hosted page: begun, found, renewed, ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CursorResult, delete
from sqlmodel import Session, col, select, update

from perdure.domain.sign_in import LONGEST_SESSION, LONGEST_WAY, HostedWay, SignInSession
from perdure.records.schema.sign_in_tables import HostedWayRow, SessionRow

MOST_SESSIONS = 20
"""Of one person; a further one ends the oldest."""
MOST_WAYS = 10_000
"""Anybody may ask for the hosted page; the oldest ways give way."""


def begin_session(session: Session, begun: SignInSession) -> None:
    """Keep a new session. Those that are over go, and the person's oldest beyond MOST_SESSIONS."""
    session.execute(delete(SessionRow).where(col(SessionRow.created_at) < begun.created_at - LONGEST_SESSION))
    newest = (
        select(SessionRow.id_hash)
        .where(SessionRow.subject == begun.subject)
        .order_by(col(SessionRow.created_at).desc(), col(SessionRow.id_hash))
        .offset(MOST_SESSIONS - 1)
    )
    session.execute(delete(SessionRow).where(col(SessionRow.id_hash).in_(session.exec(newest).all())))
    session.add(SessionRow(**begun.model_dump()))
    session.flush()


def find_session(session: Session, id_hash: str) -> SignInSession | None:
    """The session, over or not; None when there is none such."""
    row = session.get(SessionRow, id_hash)
    return SignInSession.model_validate(row.model_dump()) if row else None


def session_used(session: Session, id_hash: str, at: datetime) -> None:
    """It was used."""
    session.execute(update(SessionRow).where(col(SessionRow.id_hash) == id_hash).values(used_at=at))


def session_renewed(
    session: Session, id_hash: str, *, groups: Sequence[str], at: datetime, trusted_until: datetime
) -> None:
    """Cognito was asked again, and these are the groups now."""
    session.execute(
        update(SessionRow)
        .where(col(SessionRow.id_hash) == id_hash)
        .values(groups=list(groups), checked_at=at, trusted_until=trusted_until)
    )


def end_session(session: Session, id_hash: str) -> None:
    """End one; one that is gone already is no error."""
    session.execute(delete(SessionRow).where(col(SessionRow.id_hash) == id_hash))


def end_sessions(session: Session, subject: str | None = None) -> int:
    """End all of a person, or of everybody; how many there were."""
    query = delete(SessionRow)
    if subject is not None:
        query = query.where(col(SessionRow.subject) == subject)
    return _count(session.execute(query))


def begin_way(session: Session, way: HostedWay) -> None:
    """Keep a new way to the hosted page. Those that took too long go, and the oldest beyond MOST_WAYS."""
    session.execute(delete(HostedWayRow).where(col(HostedWayRow.created_at) < way.created_at - LONGEST_WAY))
    oldest = select(HostedWayRow.state_hash).order_by(col(HostedWayRow.created_at).desc()).offset(MOST_WAYS - 1)
    session.execute(delete(HostedWayRow).where(col(HostedWayRow.state_hash).in_(oldest)))
    session.add(HostedWayRow(**way.model_dump()))
    session.flush()


def take_way(session: Session, state_hash: str) -> HostedWay | None:
    """The way of that state, for the one who asks first; None for everybody after, and for unknown ones."""
    taken = session.execute(
        delete(HostedWayRow).where(col(HostedWayRow.state_hash) == state_hash).returning(HostedWayRow)
    ).first()
    return HostedWay.model_validate(taken[0].model_dump()) if taken else None


def _count(result: object) -> int:
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
