"""What jobs asked of their store, and what it held of them: kept as it was told, read for the ledger."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from perdure.domain.store_costs import StoreUse
from perdure.records.schema.tables import StoreUseRow, plain

_USES = plain(StoreUseRow)
_FIELDS = [_USES.c[name] for name in StoreUse.model_fields]


def add_uses(session: Session, job_id: str, uses: Collection[StoreUse]) -> None:
    """Keep these uses of a recorded job's store. Key: (job_id, use_id): told twice, the first word stays."""
    if not uses:
        return
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = [{"job_id": job_id, **use.model_dump()} for use in uses]
    session.connection().execute(insert(_USES).on_conflict_do_nothing(), rows)


def uses_of(session: Session, job_id: str, since: datetime | None = None) -> list[StoreUse]:
    """All of them; or from `since` on, and the one before that says what was held then."""
    wanted = sa.select(*_FIELDS).where(_USES.c.job_id == job_id)
    if since is not None:
        before = _newest_held(job_id).where(_USES.c.at < since).with_only_columns(_USES.c.use_id)
        wanted = wanted.where(sa.or_(_USES.c.at >= since, _USES.c.use_id == before.scalar_subquery()))
    # Not validated again: there may be hundreds.
    return [StoreUse.model_construct(**row._mapping) for row in session.connection().execute(wanted)]


def newest_held(session: Session, job_id: str, but: str = "") -> StoreUse | None:
    """The newest that says how many bytes lie there, `but` that one."""
    row = session.connection().execute(_newest_held(job_id).where(_USES.c.use_id != but)).first()
    return None if row is None else StoreUse.model_validate(dict(row._mapping))


def last_use_at(session: Session, job_id: str) -> datetime | None:
    """When the store was last used for the job."""
    found: datetime | None = session.scalar(sa.select(sa.func.max(_USES.c.at)).where(_USES.c.job_id == job_id))
    return found


def _newest_held(job_id: str) -> sa.Select[Any]:
    held = (_USES.c.job_id == job_id, _USES.c.held_bytes.is_not(None))
    return sa.select(*_FIELDS).where(*held).order_by(_USES.c.at.desc(), _USES.c.use_id.desc()).limit(1)
