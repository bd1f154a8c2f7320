"""Nodes: written as their workflows tell, read one at a time or as pages."""

from __future__ import annotations

from collections.abc import Collection

from sqlmodel import Session, col, select

from perdure.domain.errors import UnknownNode
from perdure.domain.nodes import Node, NodeState
from perdure.records.pages import Page, decode_cursor, encode_cursor
from perdure.records.tables import NodeRow


def record_node(session: Session, node: Node) -> bool:
    """Store the node. Key: (instance_id, changed_at). False: what is stored is newer, and stays."""
    known = session.get(NodeRow, node.instance_id)
    if known is not None and known.changed_at and node.changed_at and node.changed_at < known.changed_at:
        return False
    values = node.model_dump(exclude={"notice", "state"})
    notice = node.notice.model_dump(mode="json") if node.notice else None
    session.merge(NodeRow(**values, state=node.state.value, notice=notice))
    return True


def get_node(session: Session, instance_id: str) -> Node:
    """One node. Raises UnknownNode."""
    row = session.get(NodeRow, instance_id)
    if row is None:
        raise UnknownNode(f"There is no node {instance_id[:80]!r} in Perdure's records")
    return Node.model_validate(row.model_dump())


def list_nodes(
    session: Session, *, limit: int = 200, after: str | None = None, states: Collection[NodeState] = ()
) -> Page[Node]:
    """Nodes by instance id that are in one of `states` (empty: any). `after`: the `next` of the page before."""
    query = select(NodeRow).order_by(col(NodeRow.instance_id)).limit(limit + 1)
    if states:
        query = query.where(col(NodeRow.state).in_([state.value for state in states]))
    if after is not None:
        query = query.where(col(NodeRow.instance_id) > decode_cursor(after, str)[0])
    rows = session.exec(query).all()
    more = encode_cursor(rows[limit - 1].instance_id) if len(rows) > limit else None
    return Page(items=[Node.model_validate(row.model_dump()) for row in rows[:limit]], next=more)


def cpu_features_seen(session: Session) -> dict[str, list[str]]:
    """By instance type, the different CPU features (words) that nodes of it reported."""
    query = select(NodeRow.instance_type, NodeRow.cpu_features).where(NodeRow.cpu_features != "").distinct()
    seen: dict[str, list[str]] = {}
    for instance_type, features in session.exec(query).all():
        seen.setdefault(instance_type, []).append(features)
    return seen
