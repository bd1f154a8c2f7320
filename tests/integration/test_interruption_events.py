"""What AWS announces by events: read from a real queue protocol, told to the jobs on the instance and to its agent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from sqlalchemy import Engine
from temporalio.testing import ActivityEnvironment

from activities.event_queue import EventQueue, read_event
from activities.interruption_events import (
    ANNOUNCEMENTS,
    REBALANCE,
    RESERVATION_INTERRUPTIONS,
    SPOT_INTERRUPTION,
    InterruptionEvents,
    read_notice,
)
from activities.records import Records
from perdure.contracts.control import JobRecord
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.records.schema.database import migrate, open_engine

NOW = datetime(2022, 1, 11, 23, 36, 40, tzinfo=UTC)
ENDS = NOW + timedelta(seconds=118)


def event(kind: str = SPOT_INTERRUPTION, instance_id: str = "i-0a1b", **changes: Any) -> str:
    """As AWS's guide shows it."""
    detail = {"instance-id": instance_id}
    if kind != REBALANCE:
        detail["instance-action"] = "terminate"
    if kind in RESERVATION_INTERRUPTIONS:
        detail |= {"instance-termination-time": f"{ENDS:%Y-%m-%dT%H:%M:%SZ}", "azId": "use1-az1"}
    found = {"version": "0", "id": "1e5527d7-bb36", "detail-type": kind, "source": "aws.ec2", "detail": detail}
    return json.dumps(found | {"time": f"{NOW:%Y-%m-%dT%H:%M:%SZ}", "region": "us-east-1"} | changes)


def just_now(kind: str = SPOT_INTERRUPTION, instance_id: str = "i-0a1b", *, ago: timedelta = timedelta(0)) -> str:
    """One that was announced so long ago."""
    return event(kind, instance_id, time=f"{datetime.now(UTC) - ago:%Y-%m-%dT%H:%M:%SZ}")


def notice(body: str) -> Notice | None:
    found = read_event(body)
    return read_notice(found) if found else None


@pytest.mark.parametrize("kind", ANNOUNCEMENTS)
def test_an_announcement_is_a_notice_like_any_other(kind: str) -> None:
    found = notice(event(kind))
    assert found is not None and found == notice(event(kind)), "told again, it is the same"
    assert found.notice_id != getattr(notice(event(kind, id="another")), "notice_id", "")
    assert (found.instance_id, found.seen_at) == ("i-0a1b", NOW)
    if kind == REBALANCE:
        assert (found.kind, found.deadline) == (NoticeKind.REBALANCE, None)
    else:
        ends = ENDS if kind in RESERVATION_INTERRUPTIONS else NOW + timedelta(seconds=120)
        assert (found.kind, found.deadline) == (NoticeKind.INTERRUPTION, ends)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        event() + " " * 300_000,
        event(id="x" * 65),
        event(time="soon"),
        event("EC2 Instance State-change Notification"),
        event(source="somebody"),
        event(instance_id="../etc"),
        event(detail={}),
        event(RESERVATION_INTERRUPTIONS[0], detail={"instance-id": "i-1", "instance-termination-time": "x"}),
    ],
)
def test_what_is_none_is_none(body: str) -> None:
    assert notice(body) is None


class Told:
    """Temporal's place: whom was told what."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, Notice]] = []
        self.away = False

    def get_workflow_handle(self, workflow_id: str) -> Any:
        told = self

        class Handle:
            async def signal(self, name: str, notice: Notice) -> None:
                if told.away:
                    raise RuntimeError("away")
                told.heard.append((workflow_id, name, notice))

        return Handle()

    async def start_workflow(self, _: str, start: Any, *, id: str, start_signal: str, **more: Any) -> None:
        assert start.instance_id == id.removeprefix("node/")
        await self.get_workflow_handle(id).signal(start_signal, more["start_signal_args"][0])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def queue() -> Iterator[tuple[Any, str]]:
    with mock_aws():
        sqs: Any = boto3.client("sqs", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        # What fails is there again at once.
        attributes = {"VisibilityTimeout": "0"}
        yield sqs, sqs.create_queue(QueueName="interruptions", Attributes=attributes)["QueueUrl"]


async def recorded(engine: Engine) -> None:
    """Two jobs on i-0a1b, one on i-0c2d, none on i-0e3f."""
    records = Records(engine)
    for job_id, instance_id in (("job-1", "i-0a1b"), ("job-2", "i-0a1b"), ("job-3", "i-0c2d")):
        attempt = Attempt(
            epoch=1, attempt=1, instance_id=instance_id, zone="z", container_id="c", accepted_at=NOW, started_at=NOW
        )
        job = Job(job_id=job_id, state=JobState.RUNNING, created_at=NOW, changed_at=NOW, epoch=1, attempts=[attempt])
        await ActivityEnvironment().run(records.record_job, JobRecord(job=job, revision=1))
    for instance_id, state in (("i-0a1b", NodeState.READY), ("i-0e3f", NodeState.READY), ("i-0000", NodeState.GONE)):
        node = Node(instance_id=instance_id, zone="z", state=state, changed_at=NOW)
        await ActivityEnvironment().run(records.record_node, node)


async def read_all(events: EventQueue, messages: int) -> None:
    seen = 0
    while seen < messages:
        seen += await events.look(0)
    assert await events.look(0) == 0, "all are gone"


async def test_jobs_and_agent_hear_of_it_and_the_messages_go(engine: Engine, queue: tuple[Any, str]) -> None:
    await recorded(engine)
    sqs, address = queue
    for body in (
        just_now(),
        just_now(REBALANCE, "i-0e3f"),
        just_now(instance_id="i-0fff"),
        just_now(instance_id="i-0000"),
        just_now(instance_id="i-0e3f", ago=timedelta(minutes=4)),
    ):
        sqs.send_message(QueueUrl=address, MessageBody=body)
    told = Told()
    await read_all(EventQueue(address, "warnings", InterruptionEvents(engine, told).read, sqs), 5)  # type: ignore[arg-type]
    assert sorted((to, signal, about.kind.value) for to, signal, about in told.heard) == [
        ("batch-job/job-1", "notice", "interruption"),
        ("batch-job/job-2", "notice", "interruption"),
        ("node/i-0a1b", "announced", "interruption"),
        ("node/i-0e3f", "announced", "rebalance"),
    ], "nobody hears of instances that are not ours, or gone, nor of what is long over"


async def test_what_is_no_event_is_told_of_seldom_and_what_cannot_be_told_stays(
    engine: Engine, queue: tuple[Any, str], caplog: pytest.LogCaptureFixture
) -> None:
    await recorded(engine)
    sqs, address = queue
    caplog.set_level(logging.WARNING)
    told = Told()
    events = EventQueue(address, "warnings", InterruptionEvents(engine, told).read, sqs)  # type: ignore[arg-type]
    for number in range(20):
        sqs.send_message(QueueUrl=address, MessageBody=f"something else {number} " + "x" * 1000)
    await read_all(events, 20)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5 and all(len(line) < 400 for line in lines), "at 1, 2, 4, 8 and 16"
    told.away = True
    for instance_id in ("i-0a1b", "i-0fff"):
        sqs.send_message(QueueUrl=address, MessageBody=just_now(instance_id=instance_id))
    with pytest.raises(RuntimeError, match="away"):
        while True:
            assert await events.look(0)
    told.away = False
    await read_all(events, 1)
    assert {to for to, _, _ in told.heard} == {"batch-job/job-1", "batch-job/job-2", "node/i-0a1b"}
