"""Pages of nodes: filtered, found by text, in several orders.

There are far fewer nodes than jobs, so no index helps with a text: it is looked for in the nodes that the filter
leaves, along the order, LOOKED_AT of them per page at most. So a page may be short while more follow.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Select, String, func, literal, or_, select, tuple_, type_coerce
from sqlmodel import Session, col

from perdure.domain.nodes import Node, NodeState
from perdure.domain.values import Frozen
from perdure.records.jobs.job_lists import without_index
from perdure.records.schema.pages import Page, decode_bound_cursor, encode_cursor, fingerprint
from perdure.records.schema.tables import NodeRow

LOOKED_AT = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NodeFilter(Frozen):
    """Which nodes. Empty: all. A time range holds its beginning but not its end."""

    states: frozenset[NodeState] = frozenset()
    zones: frozenset[str] = frozenset()
    instance_types: frozenset[str] = frozenset()
    text: str = ""
    """Part of the instance id, host name, type or zone, whatever its case."""
    seen_after: datetime | None = None
    seen_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None


class NodeOrder(StrEnum):
    """What a list is sorted by; `-`: the largest first. Nodes without such a time are not in a list sorted by it."""

    ID = "instance_id"
    ID_DOWN = "-instance_id"
    NEWEST = "-first_seen_at"
    OLDEST = "first_seen_at"
    LAST_ENDED = "-ended_at"
    FIRST_ENDED = "ended_at"


def list_nodes(
    session: Session,
    *,
    limit: int = 100,
    after: str | None = None,
    where: NodeFilter = NodeFilter(),  # noqa: B008 - immutable
    order: NodeOrder = NodeOrder.ID,
) -> Page[Node]:
    """The nodes that `where` asks for, in `order`; those alike by their ids.

    `after` is the `next` of the page before; ConfigurationInvalid when it is anything else, or of another list.
    """
    question = fingerprint("nodes", order, *(sorted(x) if isinstance(x, frozenset) else x for _, x in where))
    name, down = order.removeprefix("-"), order.startswith("-")
    column, identity = col(getattr(NodeRow, name)), col(NodeRow.instance_id)
    # SQLite would rather sort all nodes of a state than walk along the order.
    query = _matching(where, indexed=name == "instance_id" or session.get_bind().dialect.name != "sqlite")
    if name == "instance_id":
        sort = [identity]
        if after is not None:
            last = str(decode_bound_cursor(after, question, str)[0])
            query = query.where(identity < last if down else identity > last)
    else:
        sort = [column, identity]
        query = query.where(column.is_not(None))
        if after is not None:
            micros, last_id = decode_bound_cursor(after, question, int, str)
            here = tuple_(type_coerce(column, BigInteger), identity)
            there = tuple_(literal(micros, BigInteger()), literal(last_id, String()))
            query = query.where(here < there if down else here > there)
    ordered = [one.desc() if down else one for one in sort]
    walk = query.order_by(*ordered)

    def cursor(row: NodeRow) -> str:
        value = getattr(row, name)
        key = [(value - _EPOCH) // timedelta(microseconds=1)] if isinstance(value, datetime) else []
        return encode_cursor(question, *key, row.instance_id)

    final: NodeRow | None = None
    if where.text:
        final = session.scalars(walk.offset(LOOKED_AT - 1).limit(1)).first()
        walk = _with_text(walk, where.text).order_by(*ordered)
    rows = session.scalars(walk.limit(limit + 1)).all()
    if len(rows) > limit:
        final = rows[limit - 1]
    nodes = [Node.model_validate(row.model_dump()) for row in rows[:limit]]
    return Page(items=nodes, next=cursor(final) if final else None)


def _with_text(walk: Select[Any], words: str) -> Select[Any]:
    """Those of the next LOOKED_AT nodes that have the text."""
    looked_at = walk.with_only_columns(col(NodeRow.instance_id)).limit(LOOKED_AT).subquery()
    texts = (NodeRow.instance_id, NodeRow.host_name, NodeRow.instance_type, NodeRow.zone)
    has_it = or_(*(func.lower(col(one)).contains(words.lower(), autoescape=True) for one in texts))
    return select(NodeRow).join(looked_at, looked_at.c.instance_id == col(NodeRow.instance_id)).where(has_it)


def _matching(where: NodeFilter, indexed: bool) -> Select[Any]:
    query = select(NodeRow)
    for column, values in (
        (col(NodeRow.state) if indexed else without_index(col(NodeRow.state)), where.states),
        (col(NodeRow.zone), where.zones),
        (col(NodeRow.instance_type), where.instance_types),
    ):
        if values:
            query = query.where(column.in_(sorted(map(str, values))))
    if where.seen_after is not None:
        query = query.where(col(NodeRow.first_seen_at) >= where.seen_after)
    if where.seen_before is not None:
        query = query.where(col(NodeRow.first_seen_at) < where.seen_before)
    if where.ended_after is not None:
        query = query.where(col(NodeRow.ended_at) >= where.ended_after)
    if where.ended_before is not None:
        query = query.where(col(NodeRow.ended_at) < where.ended_before)
    return query
