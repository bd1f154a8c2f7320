"""The control worker of the bench: the product's workflows and records, an AWS that answers at once.

`python -m bench.lifecycle.control PORT FOLDER CACHED`; ends at SIGTERM. Each checkpoint and hand-over that has come
into the database is a line of FOLDER/recorded.jsonl.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.__main__ import register_search_attributes
from activities.batch import BatchLookups
from activities.instances import InstanceLookups
from activities.reconciling import Reconciler
from activities.records import Records
from activities.worker import worker_options
from perdure.contracts import names
from perdure.contracts.control import (
    AttachVolume,
    BatchActivities,
    BatchJob,
    CreateVolume,
    DetachVolume,
    JobRecord,
    JobRef,
    VolumeActivities,
    VolumeRef,
)
from perdure.contracts.kept_volumes import KeptVolumeActivities
from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.retries import RetryStrategy
from perdure.domain.volumes import JobVolume
from perdure.records.schema.database import migrate, open_engine
from workflows.job_protection import JobProtection
from workflows.node_watch import NodeWatch
from workflows.reconciliation import Reconciliation
from workflows.volume_migration import VolumeMigration

RETRY = RetryStrategy(attempts=50)


class Cloud(BatchActivities, VolumeActivities, KeptVolumeActivities):
    """AWS, which answers at once: every job runs, every volume is there."""

    @activity.defn(name="describe_job")
    async def describe_job(self, job: JobRef) -> BatchJob:
        return BatchJob(job_id=job.job_id, name="bench", queue="bench", status="RUNNING", retry=RETRY)

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        return JobVolume(volume_id=f"vol-{request.job_id}", zone=request.zone, size_gib=request.size_gib)

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        return JobVolume(volume_id=request.volume_id, zone="z", size_gib=1, attached_to=request.instance_id)

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        return JobVolume(volume_id=request.volume_id, zone="z", size_gib=1)

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        pass

    @activity.defn(name="reconcile_volumes")
    async def reconcile_volumes(self, request: Reconcile) -> Reconciled:
        return Reconciled(looked_at=0, told=0)

    @activity.defn(name="reconcile_stores")
    async def reconcile_stores(self, request: Reconcile) -> Reconciled:
        return Reconciled(looked_at=0, told=0)

    # What boto3's clients answer.
    def describe_instances(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        found = [{"InstanceId": one, "State": {"Name": "running"}} for one in Filters[0]["Values"]]
        return {"Reservations": [{"Instances": found}]}

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": [{"jobId": one, "status": "RUNNING"} for one in jobs]}


class TimedRecords(Records):
    """The product's own, and a line for each checkpoint and hand-over that has come into the database."""

    def __init__(self, engine: Any, log: Any) -> None:
        super().__init__(engine)
        self._log = log

    @activity.defn(name="record_job")
    async def record_job(self, record: JobRecord) -> None:
        await super().record_job(record)
        for event in record.events:
            if event.kind in {"checkpoint", "handed over"}:
                newest = record.job.checkpoints[-1].committed_at.timestamp() if record.job.checkpoints else 0.0
                print(json.dumps([event.kind, record.job.job_id, newest, time.time()]), file=self._log, flush=True)


async def control(port: int, folder: Path, cached_workflows: int) -> None:
    """The control worker, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = open_engine(f"sqlite:///{folder}/records.db")
    migrate(engine)
    client = await Client.connect(f"127.0.0.1:{port}", data_converter=pydantic_data_converter)
    await register_search_attributes(client)
    cloud = Cloud()
    with (folder / "recorded.jsonl").open("a") as log:
        records = TimedRecords(engine, log)
        reconciler = Reconciler(engine, client, InstanceLookups(cloud), BatchLookups(cloud))
        worker = Worker(
            client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[JobProtection, VolumeMigration, NodeWatch, Reconciliation],
            activities=[
                *(cloud.describe_job, cloud.create_volume, cloud.attach_volume, cloud.detach_volume),
                *(cloud.delete_volume, records.record_job, records.record_node, records.load_configuration),
                *(
                    records.load_log_settings,
                    cloud.reconcile_volumes,
                    cloud.reconcile_stores,
                    reconciler.reconcile_instances,
                    reconciler.reconcile_jobs,
                ),
            ],
            **worker_options(cached_workflows),
        )
        async with worker:
            (folder / "ready").touch()
            await stop.wait()


if __name__ == "__main__":
    asyncio.run(control(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
