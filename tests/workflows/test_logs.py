"""Logs asked of a node, and sent by one, on a real worker."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.contracts import names
from perdure.contracts.logs import (
    LARGEST_BUNDLE,
    CollectedLogs,
    CollectLogs,
    KeepLogs,
    KeptKind,
    LogActivities,
    LogKeepingActivities,
)
from perdure.contracts.outputs import (
    LARGEST_OUTPUT,
    JobOutput,
    OutputActivities,
    OutputLine,
    OutputStream,
    ReadOutput,
    StreamOutput,
)
from tests.patience import PATIENCE
from tests.temporal_server import working
from workflows import options
from workflows.job_output import OutputReading
from workflows.log_collection import LogCollection
from workflows.log_keeping import LogKeeping


class Node(LogActivities):
    def __init__(self, content: bytes) -> None:
        self._content = content

    @activity.defn(name="collect_logs")
    async def collect_logs(self, request: CollectLogs) -> CollectedLogs:
        if request.job_id == "broken":
            raise ApplicationError("the disk is broken")
        return CollectedLogs(content=self._content)


class Records(LogKeepingActivities):
    def __init__(self) -> None:
        self.kept: list[KeepLogs] = []
        self.calls = 0

    @activity.defn(name="keep_logs")
    async def keep_logs(self, bundle: KeepLogs) -> None:
        self.calls += 1
        if self.calls < 3:
            raise ApplicationError("the database is away")
        self.kept.append(bundle)


async def ask(environment: WorkflowEnvironment, instance_id: str, job_id: str = "") -> CollectedLogs:
    runner = UnsandboxedWorkflowRunner()  # or a test could not make it less patient
    async with working(
        Worker(environment.client, task_queue=names.CONTROL_QUEUE, workflows=[LogCollection], workflow_runner=runner)
    ):
        answer: CollectedLogs = await environment.client.execute_workflow(
            names.LOG_COLLECTION,
            CollectLogs(instance_id=instance_id, job_id=job_id),
            id=names.log_collection_id(uuid.uuid4().hex),
            task_queue=names.CONTROL_QUEUE,
            result_type=CollectedLogs,
        )
    return answer


async def test_the_largest_bundle_comes_through_and_a_fault_is_told(
    environment: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "LOG_PATIENCE", timedelta(seconds=PATIENCE))
    content = bytes(range(256)) * (LARGEST_BUNDLE // 256)
    node = Worker(environment.client, task_queue=names.node_queue("i-1"), activities=[Node(content).collect_logs])
    async with working(node):
        assert (await ask(environment, "i-1")).content == content
        broken = await ask(environment, "i-1", "broken")
    assert (broken.content, broken.failure) == (b"", "the disk is broken.")


async def test_a_dead_node_is_an_answer_within_seconds(
    environment: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(seconds=10) >= options.LOG_PATIENCE
    monkeypatch.setattr(options, "LOG_PATIENCE", timedelta(seconds=1))  # the server does not skip this wait
    answer = await ask(environment, "i-gone")
    assert answer.content == b""
    assert "i-gone did not answer within 1 s" in answer.failure


class Printed(OutputActivities):
    @activity.defn(name="read_output")
    async def read_output(self, request: ReadOutput) -> JobOutput:
        if request.job_id == "broken":
            raise ApplicationError("the disk is broken")
        lines = [OutputLine(at=datetime(2026, 1, 1, tzinfo=UTC), text="x" * 1023)] * (LARGEST_OUTPUT // 1024)
        return JobOutput(streams=[StreamOutput(epoch=1, lines=lines)])


async def test_the_largest_output_comes_through_and_a_fault_is_told(environment: WorkflowEnvironment) -> None:
    async with working(
        Worker(
            environment.client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[OutputReading],
            activities=[Printed().read_output],
        )
    ):
        found, broken = [
            await environment.client.execute_workflow(
                names.JOB_OUTPUT,
                ReadOutput(job_id=job_id, group="/aws/batch/job", streams=[OutputStream(epoch=1, name="a")]),
                id=names.job_output_id(uuid.uuid4().hex),
                task_queue=names.CONTROL_QUEUE,
                result_type=JobOutput,
            )
            for job_id in ("whole", "broken")
        ]
    assert len(found.streams[0].lines) == LARGEST_OUTPUT // 1024
    assert broken == JobOutput(failure="the disk is broken.")


async def test_a_bundle_is_kept_once_the_database_is_back(environment: WorkflowEnvironment) -> None:
    records = Records()
    bundle = KeepLogs(
        key="i-1/c-1-exit",
        job_id="job",
        instance_id="i-1",
        epoch=1,
        kind=KeptKind.EXIT,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        content=b"\x00\xff zip",
    )
    async with working(
        Worker(
            environment.client, task_queue=names.CONTROL_QUEUE, workflows=[LogKeeping], activities=[records.keep_logs]
        )
    ):
        kept = await environment.client.execute_workflow(
            names.LOG_KEEPING, bundle, id=names.log_keeping_id(bundle.key), task_queue=names.CONTROL_QUEUE
        )
    assert kept is True
    assert records.kept == [bundle]
