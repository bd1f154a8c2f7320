"""The control worker, `python -m activities`: workflows and control-plane activities on the queue `control`.

Waits for Temporal as long as it takes; brings the database up to date first. SIGTERM or SIGINT ends it gracefully.
"""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Engine
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.batch import BatchLookups
from activities.ec2_calls import Mutations
from activities.event_queue import EventQueue
from activities.instances import InstanceLookups
from activities.interruption_events import InterruptionEvents
from activities.job_events import JobEvents
from activities.kept_volumes import KeptVolumes
from activities.leaving import ContainerInstances
from activities.logs import LogRecords
from activities.orphans import Orphans
from activities.output import Outputs
from activities.pricing import Pricing
from activities.reconciling import Reconciler
from activities.records import Records
from activities.resumption import Resumptions
from activities.retention import OldRecords
from activities.stores import Stores
from activities.unseen_jobs import UnseenJobs
from activities.volumes import Volumes
from activities.worker import worker_options
from perdure.contracts import names
from perdure.contracts.prices import PriceKeepingInput
from perdure.contracts.reconciling import ReconciliationState
from perdure.leaving import leave
from perdure.logs import apply_log_settings, configure_logs
from perdure.records.jobs.orphans import installation_name
from perdure.records.schema.database import migrate, open_engine, reading
from perdure.records.settings.log_settings import follow_log_settings
from perdure.settings import ControlSettings, connect_temporal
from perdure.telemetry import set_up
from perdure.tracing import Tracing, begin_tracing
from workflows.job_output import OutputReading
from workflows.job_protection import JobProtection
from workflows.log_collection import LogCollection
from workflows.log_keeping import LogKeeping
from workflows.node_watch import NodeWatch
from workflows.orphan_search import OrphanSearch
from workflows.price_keeping import PriceKeeping
from workflows.reconciliation import Reconciliation
from workflows.resumption import Resumption
from workflows.retention import Retention
from workflows.volume_migration import VolumeMigration
from workflows.volume_removal import VolumeRemoval

log = structlog.get_logger("control")

WORKFLOWS = [
    JobProtection,
    VolumeMigration,
    NodeWatch,
    LogCollection,
    LogKeeping,
    OutputReading,
    Retention,
    Resumption,
    PriceKeeping,
    Reconciliation,
    VolumeRemoval,
    OrphanSearch,
]


async def serve(settings: ControlSettings) -> None:
    """Serve until a signal asks to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = open_engine(settings.database_url)
    await asyncio.to_thread(migrate, engine)
    client = await wait_for_temporal(stop, begin_tracing(settings.tracing, "control"))
    if client is None:
        return
    await register_search_attributes(client)
    batch = BatchLookups()
    installation = await asyncio.to_thread(read_installation, engine)
    worker = Worker(
        client,
        task_queue=names.CONTROL_QUEUE,
        workflows=WORKFLOWS,
        activities=control_activities(settings, engine, client, batch, installation),
        **worker_options(settings.cached_workflows),
    )
    apply = partial(apply_log_settings, level_fixed=settings.log_level_fixed)
    beside = [asyncio.create_task(follow_log_settings(engine, apply))]
    beside += [asyncio.create_task(queue.run()) for queue in event_queues(settings, engine, client, batch)]
    async with worker:
        await start_standing_workflows(client)
        log.info(
            "The control worker serves", queue=names.CONTROL_QUEUE, temporal=client.service_client.config.target_host
        )
        await stop.wait()
    for task in beside:
        task.cancel()
    log.info("The control worker has stopped")


def control_activities(
    settings: ControlSettings, engine: Engine, client: Client, batch: BatchLookups, installation: str
) -> list[Callable[..., Any]]:
    """All that workflows may ask of the control worker. `installation`: whose volumes it may touch."""
    mutations = Mutations(settings.ec2_mutations_per_second)
    volumes = Volumes(settings.volume_poll, mutations=mutations, installation=installation)
    records, pricing = Records(engine), Pricing(engine)
    reconciler = Reconciler(engine, client, InstanceLookups(), batch)
    stores, kept = Stores(engine, settings.store_key_file, batch), KeptVolumes(engine, volumes, batch)
    resuming, orphans = Resumptions(engine, stores), Orphans(engine, volumes, batch)
    return [
        batch.describe_job,
        reconciler.reconcile_instances,
        reconciler.reconcile_jobs,
        kept.reconcile_volumes,
        kept.remove_volume,
        orphans.reconcile_orphans,
        orphans.find_orphans,
        ContainerInstances().leave_instance,
        volumes.create_volume,
        volumes.attach_volume,
        volumes.detach_volume,
        volumes.create_snapshot,
        volumes.delete_volume,
        volumes.delete_snapshot,
        volumes.refresh_snapshots,
        volumes.grow_volume,
        records.record_job,
        records.record_node,
        records.load_configuration,
        records.load_log_settings,
        LogRecords(engine).keep_logs,
        Outputs().read_output,
        resuming.submit_resumption,
        resuming.take_over,
        OldRecords(engine).forget_old_records,
        stores.forget_checkpoints,
        stores.reconcile_stores,
        pricing.refresh_prices,
        pricing.work_out_ledgers,
    ]


def event_queues(
    settings: ControlSettings, engine: Engine, client: Client, batch: BatchLookups
) -> Iterator[EventQueue]:
    """The queues with AWS's events that are to be read."""
    if settings.interruption_queue:
        announcements = InterruptionEvents(engine, client)
        yield EventQueue(settings.interruption_queue, "interruption warnings", announcements.read)
    if settings.job_event_queue:
        jobs = JobEvents(engine, UnseenJobs(engine, client, batch), settings.job_queues)
        yield EventQueue(settings.job_event_queue, "job events", jobs.read)


def read_installation(engine: Engine) -> str:
    """The name of this installation, by which its tags tell it from others."""
    with reading(engine) as session:
        return installation_name(session)


async def wait_for_temporal(stop: asyncio.Event, tracing: Tracing) -> Client | None:
    """A connected client, however long Temporal takes to answer; None when asked to stop before it did."""
    tries = 0
    while not stop.is_set():
        try:
            return await connect_temporal(lazy=False, interceptors=tracing.interceptors())
        except RuntimeError as problem:
            if tries % 30 == 0:
                log.warning("Temporal does not answer; waiting for it", problem=str(problem)[:300])
        tries += 1
        await asyncio.sleep(1)
    return None


async def start_standing_workflows(client: Client) -> None:
    """Start what runs for ever, unless it does. Raises RPCError when Temporal refuses."""
    await client.start_workflow(
        Retention.run,
        id=names.RETENTION_ID,
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="forgets old records",
    )
    await client.start_workflow(
        PriceKeeping.run,
        PriceKeepingInput(),
        id=names.PRICE_KEEPING_ID,
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="keeps prices and ledgers",
    )
    await client.start_workflow(
        Reconciliation.run,
        ReconciliationState(),
        id=names.RECONCILIATION_ID,
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="holds nodes and jobs against what AWS says",
    )


async def register_search_attributes(client: Client) -> None:
    """Make sure that Temporal knows our search attributes: without them the workflows' first tasks would fail.

    A server that does not let us is not fatal here, its operator may have registered them.
    """
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = {
            name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}")
            for name, kind in names.SEARCH_ATTRIBUTES.items()
            if name not in known.custom_attributes
        }
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
            )
            log.info("Search attributes registered", names=sorted(missing))
    except RPCError as problem:
        log.error(
            "Search attributes could not be registered; do it with `temporal operator search-attribute create`",
            problem=problem.message,
        )


def main() -> None:
    """Entry of `python -m activities`."""
    settings = ControlSettings()
    configure_logs(settings.log_level, settings.log_file)
    set_up(settings.metrics_address)
    for chatty in ("botocore", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    main()
    leave(0)
