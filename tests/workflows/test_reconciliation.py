"""The standing reconciler: each duty in its time, whatever another one meets, at a cost that no fleet makes larger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.contracts import names
from perdure.contracts.kept_volumes import KeptVolumeActivities
from perdure.contracts.orphans import OrphanActivities
from perdure.contracts.reconciling import Reconcile, Reconciled, ReconciliationState, ReconcilingActivities
from tests.temporal_server import working
from workflows.reconciliation import Reconciliation

EVENTS_OF_A_ROUND = 11


class Duties(ReconcilingActivities, KeptVolumeActivities, OrphanActivities):
    """AWS as the reconciler meets it."""

    def __init__(self) -> None:
        self.instances: list[datetime] = []
        self.jobs: list[datetime] = []
        self.volumes: list[datetime] = []
        self.orphans: list[datetime] = []
        self.stores: list[datetime] = []
        self.batch_is_away = False

    @activity.defn(name="reconcile_instances")
    async def reconcile_instances(self, request: Reconcile) -> Reconciled:
        self.instances.append(request.now)
        return Reconciled(looked_at=10_000)

    @activity.defn(name="reconcile_jobs")
    async def reconcile_jobs(self, request: Reconcile) -> Reconciled:
        self.jobs.append(request.now)
        if self.batch_is_away:
            raise ApplicationError("AWS did not answer.", type="CloudUnavailable", non_retryable=True)
        return Reconciled()

    @activity.defn(name="reconcile_volumes")
    async def reconcile_volumes(self, request: Reconcile) -> Reconciled:
        self.volumes.append(request.now)
        return Reconciled()

    @activity.defn(name="reconcile_snapshots")
    async def reconcile_orphans(self, request: Reconcile) -> Reconciled:
        self.orphans.append(request.now)
        return Reconciled()

    @activity.defn(name="reconcile_stores")
    async def reconcile_stores(self, request: Reconcile) -> Reconciled:
        self.stores.append(request.now)
        return Reconciled()


@asynccontextmanager
async def reconciler(
    environment: WorkflowEnvironment, duties: Duties, start: ReconciliationState
) -> AsyncIterator[WorkflowHandle[Reconciliation, None]]:
    worker = Worker(
        environment.client,
        task_queue=names.CONTROL_QUEUE,
        workflows=[Reconciliation],
        activities=[
            duties.reconcile_instances,
            duties.reconcile_jobs,
            duties.reconcile_volumes,
            duties.reconcile_orphans,
            duties.reconcile_stores,
        ],
    )
    async with working(worker):
        yield await environment.client.start_workflow(
            Reconciliation.run, start, id=names.RECONCILIATION_ID, task_queue=names.CONTROL_QUEUE
        )


async def test_each_duty_is_done_in_its_time(environment: WorkflowEnvironment) -> None:
    duties = Duties()
    async with reconciler(environment, duties, ReconciliationState()) as handle:
        await environment.sleep(timedelta(seconds=610))
        assert 29 <= len(duties.instances) <= 31 and len(duties.jobs) == 3
        assert len(duties.volumes) == len(duties.stores) == 2 and len(duties.orphans) == 1
        gaps = [b - a for a, b in zip(duties.instances, duties.instances[1:], strict=False)]
        assert all(gap >= timedelta(seconds=20) for gap in gaps)
        events = (await handle.describe()).history_length
        done = [*duties.instances, *duties.jobs, *duties.volumes, *duties.stores]
        assert events <= EVENTS_OF_A_ROUND * len(done) + 5


async def test_a_duty_that_fails_is_told_and_keeps_nobody_waiting(environment: WorkflowEnvironment) -> None:
    duties = Duties()
    duties.batch_is_away = True
    async with reconciler(environment, duties, ReconciliationState()) as handle:
        await environment.sleep(timedelta(seconds=310))
        assert len(duties.instances) >= 15
        assert (await handle.query(Reconciliation.state)).problems == {"jobs": "AWS did not answer."}
        duties.batch_is_away = False
        await environment.sleep(timedelta(seconds=310))
        assert (await handle.query(Reconciliation.state)).problems == {}


async def test_a_new_history_goes_on_where_the_old_one_was(environment: WorkflowEnvironment) -> None:
    duties = Duties()
    now = await environment.get_current_time()
    start = ReconciliationState(done_at={"jobs": now})
    async with reconciler(environment, duties, start) as handle:
        await environment.sleep(timedelta(seconds=50))
        assert len(duties.instances) == 3 and duties.jobs == []
        assert (await handle.query(Reconciliation.state)).done_at["jobs"] == now
