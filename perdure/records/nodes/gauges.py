"""How everything stands now, for a monitoring system: unfinished jobs, their newest checkpoints, nodes, volumes.

Asked every half a minute or so. Nothing here reads finished jobs one by one: sums of the past are the rollups'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from sqlalchemy import func, select
from sqlmodel import Session, col

from perdure.domain.alerts import alerts
from perdure.domain.budget import BudgetColour, predicted
from perdure.domain.jobs import FINISHED_STATES, JobState
from perdure.domain.outages import CHECK_STEP, FREEZE_STEP
from perdure.domain.unprotected import shared_reason
from perdure.records.jobs.job_lists import JobFilter, list_jobs
from perdure.records.jobs.jobs import count_jobs, get_jobs
from perdure.records.schema.tables import CheckpointRow, JobRow, NodeRow, OutageRow, VolumeRow

_UNFINISHED = frozenset(JobState) - FINISHED_STATES
_OPEN = sorted(state.value for state in _UNFINISHED)
DUMP_STEP = "dump"
"""The engine's name for reading the memory (key of Checkpoint.phases)."""
MOST_REASONS = 30
_PAGE = 500
MOST_JOBS = 10_000
"""Unfinished jobs whose alerts are worked out; `alerts_of` says of how many they were."""


@dataclass(frozen=True)
class Gauges:
    """All counts at one instant. Seconds are of the newest restorable checkpoint of each unfinished job, or of the
    outages of unfinished jobs, in no order."""

    jobs: dict[str, int] = field(default_factory=dict)
    """By state; finished ones as long as their records are kept."""
    unprotected: dict[str, int] = field(default_factory=dict)
    """Unfinished jobs by the reason, without what only one job has; the commonest MOST_REASONS."""
    failing: dict[str, int] = field(default_factory=dict)
    """Unfinished jobs whose last checkpoint failed, by the error's class."""
    freeze_seconds: list[float] = field(default_factory=list)
    dump_seconds: list[float] = field(default_factory=list)
    checkpoint_bytes: list[int] = field(default_factory=list)
    checkpoint_ages: list[float] = field(default_factory=list)
    """Seconds since the freeze, of jobs in the state Running."""
    final_seconds: list[float] = field(default_factory=list)
    """That a final checkpoint would take now, as far as a checkpoint tells it (domain.budget), …"""
    budgets: dict[str, int] = field(default_factory=dict)
    """… and how many jobs are green, amber and red by that."""
    outage_seconds: list[float] = field(default_factory=list)
    unclean_volumes: int = 0
    """Outages of unfinished jobs whose volume was not unmounted, or was taken by force, and so was looked at first."""
    nodes: dict[tuple[str, str], int] = field(default_factory=dict)
    """By state and agent version; ended ones are left out."""
    noticed_nodes: int = 0
    volumes: int = 0
    volume_gib: int = 0
    alerts: dict[tuple[str, str], int] = field(default_factory=dict)
    """By level and code."""
    alerts_of: int = 0


def count(session: Session, now: datetime) -> Gauges:
    """Look now."""
    running = {
        row.job_id: row.state
        for row in session.execute(select(col(JobRow.job_id), col(JobRow.state)).where(col(JobRow.state).in_(_OPEN)))
    }
    offered = _offered(session)
    newest, budgets = [those[-1] for those in offered], [predicted(those) for those in offered]
    found, looked_at = _alerts(session, now)
    outages = _outages(session)
    volumes = session.execute(
        select(func.count(), func.coalesce(func.sum(VolumeRow.size_gib), 0)).where(col(VolumeRow.deleted_at).is_(None))
    ).one()
    nodes = session.execute(
        select(col(NodeRow.state), col(NodeRow.agent_version), func.count())
        .where(col(NodeRow.ended_at).is_(None))
        .group_by(col(NodeRow.state), col(NodeRow.agent_version))
    )
    noticed = select(func.count()).where(col(NodeRow.ended_at).is_(None), col(NodeRow.notice).is_not(None))
    return Gauges(
        jobs={state.value: number for state, number in count_jobs(session).items()},
        unprotected=_unprotected(session),
        failing=_failing(session),
        freeze_seconds=[float(one.phases.get(FREEZE_STEP, 0.0)) for one in newest],
        dump_seconds=[float(one.phases[DUMP_STEP]) for one in newest if DUMP_STEP in one.phases],
        checkpoint_bytes=[one.image_bytes for one in newest],
        checkpoint_ages=[
            (now - one.frozen_at).total_seconds() for one in newest if running.get(one.job_id) == JobState.RUNNING
        ],
        final_seconds=[one.seconds for one in budgets if one is not None],
        budgets={colour: sum(one is not None and one.colour is colour for one in budgets) for colour in BudgetColour},
        outage_seconds=[seconds for seconds, _ in outages],
        unclean_volumes=sum(CHECK_STEP in phases for _, phases in outages),
        nodes={(state, version): int(number) for state, version, number in nodes},
        noticed_nodes=int(session.scalar(noticed) or 0),
        volumes=int(volumes[0]),
        volume_gib=int(volumes[1]),
        alerts=found,
        alerts_of=looked_at,
    )


def _outages(session: Session) -> list[tuple[float, dict[str, float]]]:
    """Those of unfinished jobs that are over: seconds, and seconds by phase."""
    rows = session.execute(
        select(col(OutageRow.seconds), col(OutageRow.phases))
        .join(JobRow, col(JobRow.job_id) == col(OutageRow.job_id))
        .where(col(JobRow.state).in_(_OPEN), col(OutageRow.seconds).is_not(None))
    )
    return [(float(seconds), phases) for seconds, phases in rows if seconds is not None]


def _unprotected(session: Session) -> dict[str, int]:
    rows = session.execute(
        select(col(JobRow.unprotected), func.count())
        .where(col(JobRow.unprotected) != "", col(JobRow.finished_at).is_(None))
        .group_by(col(JobRow.unprotected))
    )
    found: dict[str, int] = {}
    for reason, number in rows:
        found[shared_reason(reason)] = found.get(shared_reason(reason), 0) + int(number)
    return dict(sorted(found.items(), key=lambda one: -one[1])[:MOST_REASONS])


def _failing(session: Session) -> dict[str, int]:
    rows = session.execute(
        select(col(JobRow.checkpoint_error), func.count())
        .where(col(JobRow.state).in_(_OPEN), col(JobRow.checkpoint_failures_in_a_row) > 0)
        .group_by(col(JobRow.checkpoint_error))
    )
    return {error or "unknown": int(number) for error, number in rows}


def _offered(session: Session) -> list[list[CheckpointRow]]:
    """The checkpoints of each unfinished job that can be restored, oldest first."""
    rows = session.scalars(
        select(CheckpointRow)
        .join(JobRow, col(JobRow.job_id) == col(CheckpointRow.job_id))
        .where(col(JobRow.state).in_(_OPEN), col(CheckpointRow.offered).is_(True))
        .order_by(col(CheckpointRow.job_id), col(CheckpointRow.epoch), col(CheckpointRow.number))
    )
    return [list(those) for _, those in groupby(rows, key=lambda one: one.job_id)]


def _alerts(session: Session, now: datetime) -> tuple[dict[tuple[str, str], int], int]:
    found: dict[tuple[str, str], int] = {}
    looked_at, cursor = 0, None
    while looked_at < MOST_JOBS:
        page = list_jobs(session, limit=_PAGE, after=cursor, where=JobFilter(states=_UNFINISHED))
        for job in get_jobs(session, [line.job_id for line in page.items]):
            looked_at += 1
            for alert in alerts(job, now):
                found[alert.level, alert.code] = found.get((alert.level, alert.code), 0) + 1
        cursor = page.next
        if cursor is None:
            break
    return found, looked_at
