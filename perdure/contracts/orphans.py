"""Orphans in AWS: a duty of the reconciler, and a look for a person that changes nothing."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from temporalio import activity

from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.orphans import KnownOrphan, OrphanSums
from perdure.domain.values import Frozen


class FindOrphans(Frozen):
    """Look at AWS now. Key: `now` (UTC). Read-only."""

    now: datetime


class OrphansFound(Frozen):
    """`items`: the dearest first, and not more than a page can show; `totals` are of all. `problem`: why there is no
    answer, a sentence for people; empty: there is one."""

    items: list[KnownOrphan] = Field(default_factory=list)
    totals: OrphanSums = OrphanSums()
    problem: str = ""


class OrphanActivities:
    """The control worker's part."""

    # The name is that of the duty's beginning, snapshots alone: histories that go on know it by that.
    @activity.defn(name="reconcile_snapshots")
    async def reconcile_orphans(self, request: Reconcile) -> Reconciled:
        """Note what nobody owns, and delete what nobody has owned for the configured grace (`told`: how many).
        Idempotent. CloudUnavailable."""
        raise NotImplementedError

    @activity.defn(name="find_orphans")
    async def find_orphans(self, request: FindOrphans) -> OrphansFound:
        """What nobody owns, as AWS says now. CloudUnavailable."""
        raise NotImplementedError
