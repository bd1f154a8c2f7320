"""Nodes: written as their workflows tell, read one at a time. Pages: node_lists."""

from __future__ import annotations

from sqlmodel import Session, select

from perdure.domain.errors import UnknownNode
from perdure.domain.nodes import Node, as_told
from perdure.records.jobs.changes import take_positions
from perdure.records.schema.database import lock
from perdure.records.schema.tables import NodeRow


def record_node(session: Session, node: Node) -> bool:
    """Store the node, with what is known of it beside (`as_told`). Key: (instance_id, changed_at). False: what is
    stored is newer, and stays."""
    lock(session, f"node/{node.instance_id}")
    known = session.get(NodeRow, node.instance_id)
    if known is not None and known.changed_at and node.changed_at and node.changed_at < known.changed_at:
        return False
    if known is not None:
        node = as_told(Node.model_validate(known.model_dump()), node)
    values = node.model_dump(exclude={"notice", "state"})
    notice = node.notice.model_dump(mode="json") if node.notice else None
    position = take_positions(session, 1)[0]
    session.merge(NodeRow(**values, state=node.state.value, notice=notice, position=position))
    return True


def get_node(session: Session, instance_id: str) -> Node:
    """One node. Raises UnknownNode."""
    row = session.get(NodeRow, instance_id)
    if row is None:
        raise UnknownNode(f"There is no node {instance_id[:80]!r} in Perdure's records")
    return Node.model_validate(row.model_dump())


def cpu_features_seen(session: Session) -> dict[str, list[str]]:
    """By instance type, the different CPU features (words) that nodes of it reported."""
    query = select(NodeRow.instance_type, NodeRow.cpu_features).where(NodeRow.cpu_features != "").distinct()
    seen: dict[str, list[str]] = {}
    for instance_type, features in session.exec(query).all():
        seen.setdefault(instance_type, []).append(features)
    return seen
