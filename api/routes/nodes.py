"""Nodes: the instances that have, or had, an agent."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints
from sqlmodel import Session

from api.dependencies import Cursor, InstanceId, Limit
from api.serving.errors import described
from api.serving.parameters import NAME, Text, Time, time
from api.serving.reading import reads
from api.wire.responses import NodeView, PageOf, Wire
from perdure.domain.jobs import JobState
from perdure.domain.nodes import Node, NodeState
from perdure.records.nodes.node_lists import NodeFilter, NodeOrder, list_nodes
from perdure.records.nodes.node_work import NodeWork, runs_of_node, work_of_nodes
from perdure.records.nodes.nodes import get_node

router = APIRouter(prefix="/nodes", tags=["nodes"])

Names = list[Annotated[str, StringConstraints(pattern=NAME)]]


async def node_filter(
    q: Text = "",
    zone: Annotated[Names | None, Query(max_length=20, description="In these zones; repeatable.")] = None,
    instance_type: Annotated[Names | None, Query(max_length=20, description="Of these types; repeatable.")] = None,
    seen_after: Annotated[Time, time("First seen then or later")] = None,
    seen_before: Annotated[Time, time("First seen earlier")] = None,
    ended_after: Annotated[Time, time("Ended then or later")] = None,
    ended_before: Annotated[Time, time("Ended earlier")] = None,
) -> NodeFilter:
    """Which nodes a list holds, from its query; of any state."""
    return NodeFilter(
        text=q.strip(),
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


class NodeRunView(Wire):
    """A container that ran on the node, and its job."""

    job_id: str = Field(description="AWS Batch's job id.")
    name: str
    queue: str
    state: JobState = Field(description="The job's state now.")
    epoch: int
    attempt: int
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    end: str | None = Field(description="Why it ended: exited, handed over, node lost, replaced.")
    restored_from: int | None = Field(
        description="Number of the checkpoint it went on from; null: a clean start, or not started (see started_at)."
    )


class NodeWithWork(NodeView):
    """A node, and what ran on it and cost."""

    jobs: int = Field(description="Jobs that ran on it.")
    attempts: int = Field(description="Containers of these jobs.")
    checkpoints: int = Field(description="Checkpoints that were taken on it.")
    cost_usd: float = Field(description="What the jobs' parts of it cost, by vCPUs and time.", examples=[0.0421])
    cost_estimated: bool = Field(description="Does that rest on a price that is estimated?")


class NodeDetail(NodeWithWork):
    """A node, what ran on it and what that cost."""

    runs: list[NodeRunView] = Field(description="The containers, newest first; at most the last 200.")


@router.get("", summary="List nodes, by instance id")
@reads
def nodes(
    session: Session,
    where: Filtered,
    state: Annotated[list[NodeState] | None, Query(max_length=3, description="In these states; repeatable.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    sort: Sorted = NodeOrder.ID,
) -> PageOf[NodeWithWork]:
    """With `q`, a page may be short, even empty, while `next` is not null: 10,000 nodes are looked at per page."""
    wanted = where.model_copy(update={"states": frozenset(state or ())})
    page = list_nodes(session, limit=limit, after=cursor, where=wanted, order=sort)
    work = work_of_nodes(session, [node.instance_id for node in page.items])
    return PageOf(items=[_with_work(node, work.get(node.instance_id)) for node in page.items], next=page.next)


@router.get(
    "/{instance_id}",
    summary="One node, the jobs that ran on it and what they cost",
    responses=described(HTTPStatus.NOT_FOUND),
)
@reads
def node(session: Session, instance_id: InstanceId) -> NodeDetail:
    known = get_node(session, instance_id)
    work = work_of_nodes(session, [instance_id]).get(instance_id)
    runs = [NodeRunView.model_validate(run) for run in runs_of_node(session, instance_id)]
    return NodeDetail(**dict(_with_work(known, work)), runs=runs)


def _with_work(node: Node, work: NodeWork | None) -> NodeWithWork:
    done = work or NodeWork()
    return NodeWithWork(
        **dict(NodeView.model_validate(node)),
        jobs=done.jobs,
        attempts=done.attempts,
        checkpoints=done.checkpoints,
        cost_usd=done.cost_micros / 1_000_000,
        cost_estimated=done.estimated,
    )
