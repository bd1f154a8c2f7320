"""Pages of nodes: filtered, found by text, in several orders.

There are far fewer nodes than jobs, so no index helps with a text: it is looked for in the nodes that the filter
leaves, along the order, LOOKED_AT of them per page at most. So a page may be short while more follow.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlmodel import Session, col

from perdure.domain.nodes import Node, NodeState
from perdure.domain.values import Frozen
from perdure.records.jobs.job_lists import without_index
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import NodeRow

LOOKED_AT = 10_000


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
    name = order.removeprefix("-")
    asked = [sorted(value) if isinstance(value, frozenset) else value for _, value in where]
    keys = list(dict.fromkeys([name, "instance_id"]))
    keyset = Keyset(
        *(col(getattr(NodeRow, key)) for key in keys), down=order.startswith("-"), question=["nodes", order, *asked]
    )
    # SQLite would rather sort all nodes of a state than walk along the order.
    query = _matching(where, indexed=name == "instance_id" or session.get_bind().dialect.name != "sqlite")
    if name != "instance_id":
        query = query.where(col(getattr(NodeRow, name)).is_not(None))
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    walk = query.order_by(*keyset.directed())
    final: NodeRow | None = None
    if where.text:
        final = session.scalars(walk.offset(LOOKED_AT - 1).limit(1)).first()
        walk = _with_text(walk, where.text).order_by(*keyset.directed())
    page = keyset.page(session.scalars(walk.limit(limit + 1)).all(), limit, lambda row: [getattr(row, k) for k in keys])
    following = page.next or (keyset.write(*(getattr(final, key) for key in keys)) if final else None)
    return Page(items=[Node.model_validate(row.model_dump()) for row in page.items], next=following)


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
