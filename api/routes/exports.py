"""Nodes and jobs as CSV, read page by page: neither memory nor a transaction grows with their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import Engine
from starlette.responses import StreamingResponse

from api.dependencies import Database
from api.routes.jobs import Filtered, Sorted
from api.routes.nodes import Filtered as FilteredNodes
from api.serving.csv import DESCRIBED, csv_response
from perdure.domain.jobs import JobOrder
from perdure.domain.ledger import Figures
from perdure.domain.nodes import NodeState
from perdure.records.costs.job_costs import figures_of_jobs
from perdure.records.jobs.job_lists import JobFilter, JobLine, list_jobs
from perdure.records.nodes.node_lists import NodeFilter, list_nodes
from perdure.records.nodes.node_work import NodeWork, work_of_nodes
from perdure.records.schema.database import reading

router = APIRouter(tags=["exports"])
PER_PAGE = 500

NODE_COLUMNS = (
    "id", "ips", "hostName", "cloud", "arch", "cores", "cpuModel", "cpuVendor", "memoryInMB", "zone", "instanceId",
    "instanceType", "region", "createTime", "payType", "lastHeartbeat", "state", "firstSeenAt", "endTime", "endedBy",
    "jobsRun", "checkpoints", "costUsd", "costEstimated",
)  # fmt: skip
"""MMBatch's names of a node, then ours."""
JOB_COLUMNS = (
    *(name for name in JobLine._fields), "cpu_hours", "instance_cost_usd", "cost_share_usd", "on_demand_cost_usd",
    "saved_usd", "naive_saved_usd", "saved_hours",
)  # fmt: skip


@router.get("/nodes.csv", summary="Finished worker nodes as CSV", response_class=StreamingResponse, responses=DESCRIBED)
def nodes_csv(
    database: Database,
    where: FilteredNodes,
    state: Annotated[
        Literal["gone", "all"], Query(description="`gone`: nodes that are finished; `all`: every node.")
    ] = "gone",
) -> StreamingResponse:
    """MMBatch's columns of a node, and when and by whom it was ended (`aws` or `user`), how many jobs ran on it, how
    many checkpoints were taken there, and what the jobs' parts of it cost (USD). In the order of instance ids."""
    states = frozenset({NodeState.GONE}) if state == "gone" else frozenset[NodeState]()
    wanted = where.model_copy(update={"states": states})
    return csv_response("perdure-nodes.csv", NODE_COLUMNS, _nodes(database, wanted))


@router.get("/jobs.csv", summary="Jobs as CSV", response_class=StreamingResponse, responses=DESCRIBED)
def jobs_csv(database: Database, where: Filtered, sort: Sorted = JobOrder.NEWEST) -> StreamingResponse:
    """The same filters and orders as the list of jobs. CPU-hours are vCPUs asked for x (complete - start); money is
    USD: whole instances, the job's part of them, the same at on-demand prices, and what protection saved (net of what
    it cost in time, and as MMBatch counts it)."""
    return csv_response("perdure-jobs.csv", JOB_COLUMNS, _jobs(database, where, sort))


def _nodes(database: Engine, where: NodeFilter) -> Iterator[list[object]]:
    after = None
    while True:
        with reading(database) as session:
            page = list_nodes(session, limit=PER_PAGE, after=after, where=where)
            work = work_of_nodes(session, [node.instance_id for node in page.items])
        for node in page.items:
            done = work.get(node.instance_id, NodeWork())
            yield [
                node.instance_id, node.ips, node.host_name, "aws", node.arch, node.vcpus, node.cpu_model,
                node.cpu_vendor, node.memory_mib, node.zone, node.instance_id, node.instance_type, node.region,
                node.launched_at, node.pay_type, node.changed_at, node.state, node.first_seen_at, node.ended_at,
                node.ended_by, done.jobs, done.checkpoints, _usd(done.cost_micros), done.estimated,
            ]  # fmt: skip
        after = page.next
        if after is None:
            return


def _jobs(database: Engine, where: JobFilter, order: JobOrder) -> Iterator[list[object]]:
    after = None
    while True:
        with reading(database) as session:
            page = list_jobs(session, limit=PER_PAGE, after=after, where=where, order=order)
            known = figures_of_jobs(session, [line.job_id for line in page.items])
        for line in page.items:
            sums = known.get(line.job_id, Figures())
            yield [
                *(getattr(line, name) for name in JobLine._fields), round(sums.cpu_ms / 3_600_000, 4),
                _usd(sums.instance_micros), _usd(sums.share_micros), _usd(sums.on_demand_micros),
                _usd(sums.saved_micros), _usd(sums.naive_saved_micros), round(sums.saved_ms / 3_600_000, 4),
            ]  # fmt: skip
        after = page.next
        if after is None:
            return


def _usd(micros: int) -> str:
    """Exact, and never in scientific notation."""
    return f"{micros / 1_000_000:.6f}"
