"""Interruption warnings that come as events: read from a real queue protocol, told to the jobs on the instance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from temporalio.testing import ActivityEnvironment

from activities.interruption_events import WARNING, InterruptionEvents, read_event
from activities.records import Records
from perdure.contracts.control import JobRecord
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Notice, NoticeKind
from perdure.records.schema.database import migrate, open_engine

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ENDS = "2026-11-29T12:02:00Z"


def event(instance_id: str = "i-0a1b", **changes: Any) -> str:
    """As AWS's guide shows it."""
    detail = {
        "instance-id": instance_id,
        "instance-action": "terminate",
        "instance-termination-time": ENDS,
        "azId": "use1-az1",
    }
    found = {"version": "0", "id": "1", "detail-type": WARNING, "source": "aws.ec2", "detail": detail}
    return json.dumps(found | changes)


def test_a_warning_is_a_notice_like_any_other() -> None:
    notice = read_event(event(), NOW)
    assert notice is not None and notice == read_event(event(), NOW)
    assert (notice.kind, notice.instance_id) == (NoticeKind.INTERRUPTION, "i-0a1b")
    assert notice.deadline == datetime(2026, 11, 29, 12, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        event(**{"detail-type": "EC2 Instance State-change Notification"}),
        event(source="somebody"),
        event("../etc"),
        event(detail={"instance-id": "i-1"}),
    ],
)
def test_what_is_none_is_none(body: str) -> None:
    assert read_event(body, NOW) is None


class Told:
    """Temporal's place: whom was told what."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, Notice]] = []

    def get_workflow_handle(self, workflow_id: str) -> Any:
        told = self

        class Handle:
            async def signal(self, name: str, notice: Notice) -> None:
                told.heard.append((workflow_id, name, notice))

        return Handle()


@pytest.fixture
def sqs() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("sqs", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")


async def test_every_job_on_the_instance_hears_it_and_the_message_goes(sqs: Any, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    records = Records(engine)
    for job_id, instance_id in (("job-1", "i-0a1b"), ("job-2", "i-0a1b"), ("job-3", "i-0c2d")):
        attempt = Attempt(
            epoch=1, attempt=1, instance_id=instance_id, zone="z", container_id="c", accepted_at=NOW, started_at=NOW
        )
        job = Job(job_id=job_id, state=JobState.RUNNING, created_at=NOW, changed_at=NOW, epoch=1)
        job = job.model_copy(update={"attempts": [attempt]})
        await ActivityEnvironment().run(records.record_job, JobRecord(job=job, revision=1))
    url = sqs.create_queue(QueueName="interruptions")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=event())
    sqs.send_message(QueueUrl=url, MessageBody="something else")
    told = Told()
    events = InterruptionEvents(engine, told, url, sqs)  # type: ignore[arg-type]
    seen = 0
    while seen < 2:
        seen += await events.look(0)
    assert sorted(workflow_id for workflow_id, _, _ in told.heard) == ["batch-job/job-1", "batch-job/job-2"]
    assert {name for _, name, _ in told.heard} == {"notice"}
    assert await events.look(0) == 0, "both messages are gone"
    engine.dispose()
