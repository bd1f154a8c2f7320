"""Batch's events about jobs: one that no agent has told of is in the records all the same, as Batch says it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from activities.batch import BatchLookups
from activities.event_queue import Event, read_event
from activities.job_events import JOB_STATE_CHANGE, JobEvents
from activities.unseen_jobs import UnseenJobs
from perdure.domain.errors import CloudUnavailable
from perdure.domain.jobs import Job, JobState
from perdure.domain.standing import standing
from perdure.records.jobs.jobs import get_jobs, record_job
from perdure.records.jobs.unseen_jobs import quiet_unseen
from perdure.records.schema.database import migrate, open_engine, reading, writing

NOW = datetime.now(UTC)
QUEUE = "arn:aws:batch:us-east-1:123456789012:job-queue/"


class Cloud:
    """Batch's answers, and Temporal's place: which jobs' workflows were started."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.started: list[str] = []
        self.away = False

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        if self.away:
            raise CloudUnavailable("Batch is away")
        self.asked.append(jobs)
        of_queue = {"jobQueue": f"{QUEUE}ours", "jobName": "align", "createdAt": 1_700_000_000_000}
        return {"jobs": [{"jobId": one, "status": self.jobs[one], **of_queue} for one in jobs if one in self.jobs]}

    async def start_workflow(self, _: str, start: Any, **more: Any) -> None:
        assert more["id"] == f"batch-job/{start.job_id}"
        self.started.append(start.job_id)


def event(job_id: str, queue: str = "ours", **changes: Any) -> Event:
    """As AWS's guide shows it. Its status is of no importance."""
    detail = {"jobId": job_id, "jobQueue": QUEUE + queue, "status": "RUNNABLE", "attempts": [], "container": {}}
    found = {"id": "c8f9c4b5", "detail-type": JOB_STATE_CHANGE, "source": "aws.batch", "time": "2022-01-11T23:36:40Z"}
    read = read_event(json.dumps(found | {"detail": detail | changes}))
    assert read is not None
    return read


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    with writing(engine) as session:  # an agent has told of this one
        job = Job(job_id="seen", queue="ours", state=JobState.RUNNING, created_at=NOW, changed_at=NOW, epoch=1)
        record_job(session, job, [], 1)
    yield engine
    engine.dispose()


def recorded(engine: Engine, job_id: str) -> Job | None:
    with reading(engine) as session:
        return next(iter(get_jobs(session, [job_id])), None)


def reader(engine: Engine, cloud: Cloud, queues: str = "") -> JobEvents:
    return JobEvents(engine, UnseenJobs(engine, cloud, BatchLookups(cloud)), queues)  # type: ignore[arg-type]


async def test_a_job_that_no_agent_told_of_is_recorded_as_batch_says(engine: Engine) -> None:
    cloud = Cloud()
    events = reader(engine, cloud)
    cloud.jobs = {"waits": "RUNNABLE", "seen": "FAILED"}
    await events.read([event("waits"), event("seen"), event("forged")])
    waits = recorded(engine, "waits")
    assert waits is not None and (waits.state, waits.batch_status) == (JobState.CREATING, "RUNNABLE")
    assert (waits.name, waits.queue, waits.created_at.year) == ("align", "ours", 2023)
    assert recorded(engine, "forged") is None, "Batch does not know it"
    assert cloud.asked == [["waits", "forged"]], "of a job that an agent told of, its workflow hears"
    cloud.jobs["waits"] = "RUNNING"
    await events.read([event("waits")])
    runs = recorded(engine, "waits")
    assert runs is not None and (runs.state, runs.batch_status) == (JobState.RUNNING, "RUNNING")
    assert standing(runs, NOW).startswith("It runs. It is not protected: no agent has told of it")
    cloud.jobs["waits"] = "FAILED"
    await events.read([event("waits"), event("waits")])
    assert cloud.started == ["waits"], "its workflow tells how it ended"


async def test_the_first_word_of_a_workflow_replaces_batchs(engine: Engine) -> None:
    cloud = Cloud()
    cloud.jobs = {"late": "RUNNING"}
    await reader(engine, cloud).read([event("late")])
    with reading(engine) as session:
        assert quiet_unseen(session, NOW + timedelta(days=1), "", 9) == ["late"]
    with writing(engine) as session:
        protected = Job(job_id="late", queue="ours", state=JobState.CREATED, created_at=NOW, changed_at=NOW, epoch=1)
        assert record_job(session, protected, [], 1)
    await reader(engine, cloud).read([event("late")])
    job = recorded(engine, "late")
    assert job is not None and (job.state, job.unprotected) == (JobState.CREATED, "")
    with reading(engine) as session:
        assert quiet_unseen(session, NOW + timedelta(days=1), "", 9) == []


@pytest.mark.parametrize(
    ("queues", "held"),
    [("", {"ours"}), ("others", {"others"}), (f"ours, {QUEUE}oth*", {"ours", "others"}), ("nobodys", set[str]())],
)
async def test_jobs_of_other_queues_are_left_alone(engine: Engine, queues: str, held: set[str]) -> None:
    cloud = Cloud()
    await reader(engine, cloud, queues).read([event(queue, queue) for queue in ("ours", "others")])
    assert {one for asked in cloud.asked for one in asked} == held


@pytest.mark.parametrize(
    "other",
    [
        {"jobId": "../etc"},
        {"jobId": "job#0"},
        {"jobQueue": "ours"},
        {"jobQueue": QUEUE + "a b"},
        {"arrayProperties": {"size": 4, "statusSummary": {}}},
        {"arrayProperties": []},
    ],
)
async def test_what_is_no_job_with_a_container_is_left_alone(engine: Engine, other: dict[str, Any]) -> None:
    cloud = Cloud()
    await reader(engine, cloud, "*").read([event("job", **other)])
    assert cloud.asked == []
    await reader(engine, cloud, "*").read([event("job:7", arrayProperties={"index": 7, "size": 9})])
    assert cloud.asked == [["job:7"]], "an array's child is a job"


async def test_while_batch_is_away_events_stay(engine: Engine) -> None:
    cloud = Cloud()
    cloud.away = True
    with pytest.raises(CloudUnavailable):
        await reader(engine, cloud).read([event("waits")])
