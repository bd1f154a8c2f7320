"""The audit log: who did what, and who was refused. Lines are appended; old ones are deleted by age."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from perdure.domain.access import AuditLine
from perdure.records.schema.access_tables import AuditRow
from perdure.records.schema.pages import Keyset, Page

_LONGEST_TEXT, _LONGEST_DETAIL, _MOST_VALUES, _DEEPEST = 200, 2000, 20, 3


def note(
    session: Session,
    *,
    at: datetime,
    who: str,
    via: str,
    action: str,
    target: str,
    outcome: int,
    address: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append a line. `action`: a method and a route's template, or a command's name. `target`: what it was done to.
    `outcome`: an HTTP status. Whatever a client may have written is cut short and stripped of what no line can hold."""
    row = AuditRow(
        at=at,
        who=_line(who),
        via=_line(via),
        action=_line(action),
        target=_line(target),
        outcome=outcome,
        address=_line(address),
        detail=_small(detail or {}),
    )
    session.add(row)


def list_audit(
    session: Session,
    *,
    limit: int = 50,
    after: str | None = None,
    who: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
) -> Page[AuditLine]:
    """Lines, newest first; `since` is included, `before` is not. `after`: the `next` of the page
    before; ConfigurationInvalid when it is anything else, or of another list."""
    asked = ["audit", who, action, since, before]
    keyset = Keyset(col(AuditRow.at), col(AuditRow.number), down=True, question=asked)
    query = select(AuditRow).order_by(*keyset.directed()).limit(limit + 1)
    if who is not None:
        query = query.where(col(AuditRow.who) == who)
    if action is not None:
        query = query.where(col(AuditRow.action) == action)
    if since is not None:
        query = query.where(col(AuditRow.at) >= since)
    if before is not None:
        query = query.where(col(AuditRow.at) < before)
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    found = [AuditLine.model_validate(row.model_dump()) for row in session.exec(query)]
    return keyset.page(found, limit, lambda line: (line.at, line.number))


def forget_before(session: Session, before: datetime, limit: int = 5000) -> int:
    """Delete lines from before that instant, at most `limit` of them; how many there were."""
    oldest = select(AuditRow.number).where(col(AuditRow.at) < before).order_by(col(AuditRow.at)).limit(limit)
    numbers = list(session.exec(oldest))
    session.execute(delete(AuditRow).where(col(AuditRow.number).in_(numbers)))
    return len(numbers)


def _line(text: str) -> str:
    """Short and printable: no control characters, no halves of characters."""
    cut = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)


def _small(detail: Mapping[str, Any]) -> dict[str, Any]:
    small = {_line(str(name)): _value(value, _DEEPEST) for name, value in list(detail.items())[:_MOST_VALUES]}
    return small if len(json.dumps(small)) <= _LONGEST_DETAIL else {"too_long": True}


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_value(one, depth - 1) for one in list(value)[:_MOST_VALUES]]
    if depth and isinstance(value, Mapping):
        return {_line(str(name)): _value(one, depth - 1) for name, one in list(value.items())[:_MOST_VALUES]}
    return _line(str(value))
