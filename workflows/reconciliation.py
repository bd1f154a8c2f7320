"""Holds what is known against what AWS says, for ever. One workflow, `reconciler`, which the control worker starts.

A node or a job that is silent costs its own workflow nothing: this one asks about all of them together, and signals
those of which AWS says something else (perdure/contracts/reconciling.py). A duty is one line of DUTIES.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.kept_volumes import KeptVolumeActivities
    from perdure.contracts.orphans import OrphanActivities
    from perdure.contracts.reconciling import Reconcile, Reconciled, ReconciliationState, ReconcilingActivities
    from perdure.contracts.stores import StoreActivities
    from workflows.job_questions import in_words
    from workflows.options import RECONCILE


class Duty(NamedTuple):
    """Something that is held against AWS's word every so often. `since`: the patch that brought it, so that a history
    from before is replayed without it (docs.temporal.io/develop/python/versioning)."""

    name: str
    activity: Callable[[Any, Reconcile], Awaitable[Reconciled]]
    every: timedelta
    since: str = ""


DUTIES = (
    # A node that died without notice is found within this time.
    Duty("instances", ReconcilingActivities.reconcile_instances, timedelta(seconds=20)),
    Duty("jobs", ReconcilingActivities.reconcile_jobs, timedelta(minutes=5)),
    Duty("volumes", KeptVolumeActivities.reconcile_volumes, timedelta(minutes=10), since="kept volumes"),
    Duty("orphans", OrphanActivities.reconcile_orphans, timedelta(hours=1), since="left snapshots"),
    Duty("stores", StoreActivities.reconcile_stores, timedelta(minutes=10), since="kept in stores"),
)
ROUNDS = 500
"""After so many it begins a new history."""


@workflow.defn(name=names.RECONCILIATION)
class Reconciliation:
    """Never ends."""

    @workflow.init
    def __init__(self, start: ReconciliationState) -> None:
        self._done_at = dict(start.done_at)
        self._problems = dict(start.problems)

    @workflow.run
    async def run(self, start: ReconciliationState) -> None:
        """Each duty in its time, one after another: a slow answer of AWS delays the next question."""
        duties = [duty for duty in DUTIES if not duty.since or workflow.patched(duty.since)]
        for _ in range(ROUNDS):
            for duty in duties:
                if self._left(duty) <= timedelta(0):
                    await self._do(duty)
            pause = max(min(map(self._left, duties)), timedelta(seconds=1))
            await workflow.sleep(pause, summary="next look")
        workflow.continue_as_new(self.state())

    @workflow.query
    def state(self) -> ReconciliationState:
        """When each duty was last done, and what stood in the way."""
        return ReconciliationState(done_at=self._done_at, problems=self._problems)

    def _left(self, duty: Duty) -> timedelta:
        """How long until it is due again."""
        done_at = self._done_at.get(duty.name)
        return timedelta(0) if done_at is None else done_at + duty.every - workflow.now()

    async def _do(self, duty: Duty) -> None:
        now = workflow.now()
        try:
            await workflow.execute_activity_method(duty.activity, Reconcile(now=now), summary=duty.name, **RECONCILE)
            self._problems.pop(duty.name, None)
        except ActivityError as problem:
            self._problems[duty.name] = in_words(problem)
            workflow.logger.warning("%s were not reconciled: %s", duty.name, in_words(problem))
        self._done_at[duty.name] = now
