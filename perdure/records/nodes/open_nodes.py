"""Nodes that are not known to be gone, for whoever asks EC2 about all of them or has something to tell them all."""

from __future__ import annotations

from sqlmodel import Session, col, select

from perdure.domain.nodes import Node, NodeState
from perdure.records.schema.tables import NodeRow


def open_nodes(session: Session, after: str, limit: int) -> list[Node]:
    """At most `limit` of them by instance id, those above `after`."""
    query = (
        select(NodeRow)
        .where(col(NodeRow.instance_id) > after, col(NodeRow.state) != NodeState.GONE.value)
        .order_by(col(NodeRow.instance_id))
        .limit(limit)
    )
    return [Node.model_validate(row.model_dump()) for row in session.exec(query).all()]


def open_node_ids(session: Session) -> list[str]:
    """All of them."""
    query = select(NodeRow.instance_id).where(col(NodeRow.state) != NodeState.GONE.value)
    return list(session.exec(query).all())
