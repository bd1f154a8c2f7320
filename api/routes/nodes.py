"""Nodes: the instances that have, or had, an agent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import StringConstraints

from api.dependencies import Cursor, Limit, Reading
from api.parameters import NAME, Text, Time, time
from api.responses import NodeView, PageOf
from perdure.domain.nodes import NodeState
from perdure.records.node_lists import NodeFilter, NodeOrder, list_nodes

router = APIRouter(prefix="/nodes", tags=["nodes"])

Names = list[Annotated[str, StringConstraints(pattern=NAME)]]


def node_filter(
    q: Text = "",
    state: Annotated[list[NodeState] | None, Query(max_length=3, description="In these states; repeatable.")] = None,
    zone: Annotated[Names | None, Query(max_length=20, description="In these zones; repeatable.")] = None,
    instance_type: Annotated[Names | None, Query(max_length=20, description="Of these types; repeatable.")] = None,
    seen_after: Annotated[Time, time("First seen then or later")] = None,
    seen_before: Annotated[Time, time("First seen earlier")] = None,
    ended_after: Annotated[Time, time("Ended then or later")] = None,
    ended_before: Annotated[Time, time("Ended earlier")] = None,
) -> NodeFilter:
    """Which nodes a list holds, from its query."""
    return NodeFilter(
        text=q.strip(),
        states=frozenset(state or ()),
        zones=frozenset(zone or ()),
        instance_types=frozenset(instance_type or ()),
        seen_after=seen_after,
        seen_before=seen_before,
        ended_after=ended_after,
        ended_before=ended_before,
    )


Filtered = Annotated[NodeFilter, Depends(node_filter)]
Sorted = Annotated[
    NodeOrder, Query(description="`-`: the largest first. Nodes without such a time are not in a list sorted by it.")
]


@router.get("", summary="List nodes, by instance id")
def nodes(
    session: Reading, where: Filtered, limit: Limit = 100, cursor: Cursor = None, sort: Sorted = NodeOrder.ID
) -> PageOf[NodeView]:
    page = list_nodes(session, limit=limit, after=cursor, where=where, order=sort)
    return PageOf(items=[NodeView.model_validate(node) for node in page.items], next=page.next)
