"""The reconciler's duties on a real database and a real Temporal server, AWS's answers scripted: who hears of what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.batch import BatchLookups
from activities.instances import InstanceLookups
from activities.reconciling import Reconciler
from activities.records import Records
from perdure.contracts import names
from perdure.contracts.protection import Doubt, JobProtectionInput
from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.records.jobs.jobs import record_job
from perdure.records.jobs.unseen_jobs import record_unseen
from perdure.records.nodes.nodes import get_node, record_node
from perdure.records.schema.database import migrate, open_engine, reading, writing
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working
from workflows.node_watch import NodeWatch

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Cloud:
    """EC2's and Batch's answers, and how often each was asked."""

    def __init__(self) -> None:
        self.instances: dict[str, str] = {}
        self.jobs: dict[str, str] = {}
        self.calls: list[int] = []

    def describe_instances(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        asked = Filters[0]["Values"]
        self.calls.append(len(asked))
        found = [
            {"InstanceId": one, "State": {"Name": self.instances[one]}, "LaunchTime": NOW - timedelta(days=1)}
            for one in asked
            if one in self.instances
        ]
        return {"Reservations": [{"Instances": found}]}

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        self.calls.append(len(jobs))
        return {"jobs": [{"jobId": one, "status": self.jobs[one]} for one in jobs if one in self.jobs]}


@workflow.defn(name=names.JOB_PROTECTION)
class ListeningJob:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.doubts: list[Doubt] = []

    @workflow.run
    async def run(self, start: JobProtectionInput) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def doubted(self, doubt: Doubt) -> None:
        self.doubts.append(doubt)

    @workflow.query
    def heard(self) -> list[Doubt]:
        return self.doubts


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path}/records.db")
    migrate(engine)
    return engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[Client]:
    async with await dev_server() as environment:
        worker = Worker(
            environment.client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[ListeningJob, NodeWatch],
            activities=[Records(engine).record_node],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with working(worker):
            yield environment.client


async def doubts(client: Client, job_id: str) -> list[Doubt]:
    handle = client.get_workflow_handle(names.job_workflow_id(job_id))
    heard: list[Doubt] = await handle.query("heard", result_type=list[Doubt])
    return heard


async def known_job(
    client: Client, engine: Engine, job_id: str, instance_id: str, quiet: timedelta, **more: object
) -> None:
    """A job that runs, as the records and Temporal have it."""
    attempts = [
        Attempt(epoch=1, attempt=1, instance_id="i-before", zone="z", container_id="a", accepted_at=NOW),
        Attempt(epoch=2, attempt=2, instance_id=instance_id, zone="z", container_id="b", accepted_at=NOW),
    ]
    fields = {"state": JobState.RUNNING, "interval_seconds": 900.0, "attempts": attempts, **more}
    job = Job.model_validate({"job_id": job_id, "created_at": NOW, "changed_at": NOW - quiet, "epoch": 2, **fields})
    with writing(engine) as session:
        record_job(session, job, [], 1)
    await client.start_workflow(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id=job_id),
        id=names.job_workflow_id(job_id),
        task_queue=names.CONTROL_QUEUE,
    )


def known_node(engine: Engine, instance_id: str, **more: object) -> None:
    fields = {"instance_id": instance_id, "zone": "z", "changed_at": NOW - timedelta(days=1), **more}
    with writing(engine) as session:
        record_node(session, Node.model_validate(fields))


def reconciler(engine: Engine, client: Client, cloud: Cloud) -> Reconciler:
    return Reconciler(engine, client, InstanceLookups(cloud), BatchLookups(cloud))


async def done(duty: Any) -> Reconciled:
    result: Reconciled = await asyncio.wait_for(ActivityEnvironment().run(duty, Reconcile(now=NOW)), PATIENCE)
    return result


async def until_recorded(engine: Engine, instance_id: str, state: NodeState) -> Node:
    async with asyncio.timeout(PATIENCE):
        while True:
            with reading(engine) as session:
                node = get_node(session, instance_id)
            if node.state is state and node.launched_at is not None:
                return node
            await asyncio.sleep(0.02)


async def test_a_node_that_went_and_the_jobs_on_it_are_told_and_nobody_else(engine: Engine, client: Client) -> None:
    cloud = Cloud()
    for instance in ("i-here", "i-gone", "i-long-gone"):
        known_node(engine, instance, launched_at=NOW - timedelta(days=1), pay_type="on-demand")
    known_node(engine, "i-long-gone", state=NodeState.GONE, changed_at=NOW)
    cloud.instances = {"i-here": "running", "i-gone": "terminated"}
    for job_id, instance in (("stays", "i-here"), ("lost", "i-gone")):
        await known_job(client, engine, job_id, instance, timedelta(0))
    found = await done(reconciler(engine, client, cloud).reconcile_instances)
    assert (found.looked_at, found.told) == (2, 2) and cloud.calls == [2]
    (doubt,) = await doubts(client, "lost")
    assert doubt.instance_id == "i-gone" and "gone" in doubt.reason
    assert await doubts(client, "stays") == []
    await until_recorded(engine, "i-gone", NodeState.GONE)  # although no workflow of that node was there
    again = await done(reconciler(engine, client, cloud).reconcile_instances)
    assert (again.looked_at, again.told) == (1, 0)


async def test_a_thousand_instances_are_asked_about_by_two_hundred(engine: Engine, client: Client) -> None:
    cloud = Cloud()
    for number in range(1001):
        known_node(engine, f"i-{number:04}", launched_at=NOW - timedelta(days=1), pay_type="on-demand")
        cloud.instances[f"i-{number:04}"] = "running"
    found = await done(reconciler(engine, client, cloud).reconcile_instances)
    assert (found.looked_at, found.told) == (1001, 0) and cloud.calls == [200] * 5 + [1]


async def test_what_ec2_says_for_the_first_time_is_recorded(engine: Engine, client: Client) -> None:
    cloud = Cloud()
    known_node(engine, "i-1")
    cloud.instances = {"i-1": "running"}
    assert (await done(reconciler(engine, client, cloud).reconcile_instances)).told == 1
    assert (await until_recorded(engine, "i-1", NodeState.READY)).pay_type == "on-demand"


async def test_quiet_jobs_are_held_against_batch(engine: Engine, client: Client) -> None:
    cloud = Cloud()
    quiet = timedelta(minutes=16)
    for job_id, silence, status, more in (
        ("heard-of", timedelta(minutes=1), "FAILED", {}),
        ("quiet-and-well", quiet, "RUNNING", {}),
        ("over", quiet, "FAILED", {}),
        ("taken-back", quiet, "RUNNABLE", {}),
        ("forgotten", quiet, "", {}),
        ("overdue", timedelta(minutes=36), "RUNNING", {}),
        ("no-rhythm", timedelta(days=3), "RUNNING", {"interval_seconds": 0.0}),
        ("unprotected", timedelta(days=3), "RUNNING", {"unprotected": "no CRIU"}),
        ("waits", quiet, "RUNNABLE", {"state": JobState.CHECKPOINT_SUCCEEDED}),
    ):
        if status:
            cloud.jobs[job_id] = status
        await known_job(client, engine, job_id, "i-1", silence, **more)
    unseen = Job(job_id="unseen", state=JobState.CREATING, created_at=NOW, changed_at=NOW - quiet)
    with writing(engine) as session:  # of this one Batch alone has told, and the event of its end was lost
        record_unseen(session, unseen)
        record_unseen(session, unseen.model_copy(update={"job_id": "unseen, heard of", "changed_at": NOW}))
    cloud.jobs["unseen"] = "FAILED"
    found = await done(reconciler(engine, client, cloud).reconcile_jobs)
    assert (found.looked_at, found.told) == (8, 4) and cloud.calls == [1, 7]
    for job_id, words in (
        ("over", "FAILED"),
        ("taken-back", "RUNNABLE"),
        ("forgotten", "does not know"),
        ("overdue", "36"),
    ):
        (doubt,) = await doubts(client, job_id)
        assert doubt.instance_id == "i-1" and words in doubt.reason
    # Its workflow was started, which tells its end.
    for job_id in ("heard-of", "quiet-and-well", "no-rhythm", "unprotected", "waits", "unseen"):
        assert await doubts(client, job_id) == []


async def test_a_job_whose_workflow_is_over_is_no_error(engine: Engine, client: Client) -> None:
    await known_job(client, engine, "over", "i-1", timedelta(hours=1))
    await client.get_workflow_handle(names.job_workflow_id("over")).terminate()
    assert (await done(reconciler(engine, client, Cloud()).reconcile_jobs)).told == 1
