"""What nodes did: the jobs that ran on them, the checkpoints taken there, and what the jobs' parts of them cost."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, String, and_, cast, func, literal, select
from sqlmodel import Session, col

from perdure.domain.jobs import Attempt, JobState
from perdure.domain.values import Frozen
from perdure.records.schema.ledger_tables import ledger
from perdure.records.schema.tables import AttemptRow, CheckpointRow, JobRow

MOST_RUNS = 200


class NodeWork(Frozen):
    """What one node did. Micro-dollars."""

    jobs: int = 0
    attempts: int = 0
    checkpoints: int = 0
    cost_micros: int = 0
    """The jobs' parts of the instance, by their vCPUs and time: what nobody used is not in it."""
    estimated: bool = False


class NodeRun(Frozen):
    """One container that ran on a node, and its job."""

    job_id: str
    name: str
    queue: str
    state: JobState
    epoch: int
    attempt: int
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    end: str | None
    restored_from: int | None


def work_of_nodes(session: Session, ids: Collection[str]) -> dict[str, NodeWork]:
    """By instance id. Nodes that did nothing are left out."""
    here = col(AttemptRow.instance_id)
    counted = (
        select(here, func.count(col(AttemptRow.job_id).distinct()), func.count()).where(here.in_(ids)).group_by(here)
    )
    work = {row[0]: {"jobs": row[1], "attempts": row[2]} for row in session.execute(counted)}
    for instance_id, checkpoints in session.execute(_checkpoints(ids)):
        work[instance_id]["checkpoints"] = checkpoints
    for instance_id, micros, estimated in session.execute(_costs(ids)):
        work[instance_id] |= {"cost_micros": int(micros), "estimated": bool(estimated)}
    return {instance_id: NodeWork(**values) for instance_id, values in work.items()}


def _checkpoints(ids: Collection[str]) -> Any:
    same = and_(col(CheckpointRow.job_id) == col(AttemptRow.job_id), col(CheckpointRow.epoch) == col(AttemptRow.epoch))
    here = col(AttemptRow.instance_id)
    return select(here, func.count()).join(CheckpointRow, same).where(here.in_(ids)).group_by(here)


def _costs(ids: Collection[str]) -> Any:
    here = col(AttemptRow.instance_id)
    # A job's lines about its container of an epoch are called instance/<epoch>/<hour> (domain.ledger).
    lines = literal("instance/") + cast(col(AttemptRow.epoch), String) + "/%"
    same = and_(ledger.c.job_id == col(AttemptRow.job_id), ledger.c.key.like(lines))
    estimated = func.max(cast(ledger.c.estimated, Integer))
    return (
        select(here, func.sum(ledger.c.share_micros), estimated)
        .select_from(AttemptRow)
        .join(ledger, same)
        .where(here.in_(ids))
        .group_by(here)
    )


def runs_of_node(session: Session, instance_id: str, limit: int = MOST_RUNS) -> list[NodeRun]:
    """The node's containers, newest first."""
    query = (
        select(AttemptRow, col(JobRow.name), col(JobRow.queue), col(JobRow.state))
        .join(JobRow, col(JobRow.job_id) == col(AttemptRow.job_id))
        .where(col(AttemptRow.instance_id) == instance_id)
        .order_by(col(AttemptRow.accepted_at).desc(), col(AttemptRow.job_id), col(AttemptRow.epoch).desc())
        .limit(limit)
    )
    kept = set(NodeRun.model_fields) & set(Attempt.model_fields)
    return [
        NodeRun(job_id=row.job_id, name=name, queue=queue, state=JobState(state), **row.model_dump(include=kept))
        for row, name, queue, state in session.execute(query)
    ]
