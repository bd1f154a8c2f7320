"""Nodes: the instances that have, or had, an agent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Cursor, Limit, Reading
from api.responses import NodeView, PageOf
from perdure.domain.nodes import NodeState
from perdure.records.nodes import list_nodes

router = APIRouter(prefix="/nodes", tags=["nodes"])


@router.get("", summary="List nodes, by instance id")
def nodes(
    session: Reading,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[list[NodeState] | None, Query(description="Only nodes in these states; repeatable.")] = None,
) -> PageOf[NodeView]:
    page = list_nodes(session, limit=limit, after=cursor, states=state or ())
    return PageOf(items=[NodeView.model_validate(node) for node in page.items], next=page.next)
