"""Reconciling: what is known is held against what AWS says, in bulk, by one standing workflow.

Nodes and running jobs have no timers of their own. Each duty of the reconciler is one activity: it reads what is known
from the records, asks AWS about all of it by pages, and signals only the workflows of what is different. All duties
have the same shape, so that another one (volumes) is one more line.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from temporalio import activity

from perdure.domain.values import Frozen


class ReconciliationState(Frozen):
    """Start of the workflow; carried over continue-as-new. When each duty was last done (UTC), and what stood in the
    way of those that failed then, by name."""

    done_at: dict[str, datetime] = Field(default_factory=dict)
    problems: dict[str, str] = Field(default_factory=dict)


class Reconcile(Frozen):
    """Do a duty once. `now` (UTC) is the workflow's clock: what is old is decided by it."""

    now: datetime


class Reconciled(Frozen):
    """How many were looked at, and of how many a workflow was told."""

    looked_at: int = 0
    told: int = 0


class ReconcilingActivities:
    """The duties. Each is idempotent: done again, it tells again what is still different, and hearing that twice does
    no harm. CloudUnavailable when AWS does not answer: not knowing never looks like gone."""

    @activity.defn(name="reconcile_instances")
    async def reconcile_instances(self, request: Reconcile) -> Reconciled:
        """EC2's word on every instance that is not known to be gone. Its node's workflow hears what is different, and
        the workflows of the jobs on it hear when it is gone."""
        raise NotImplementedError

    @activity.defn(name="reconcile_jobs")
    async def reconcile_jobs(self, request: Reconcile) -> Reconciled:
        """Batch's word on every job that should run and of which nothing was heard for long. Its workflow hears when
        Batch says otherwise, or when a checkpoint is overdue."""
        raise NotImplementedError
