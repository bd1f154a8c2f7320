"""Jobs that are over and left a checkpoint: which of them wait for somebody, until when, and what is said of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.jobs import Attempt, Job, JobState, StoredUnder
from perdure.domain.standing import Kept, standing
from perdure.domain.volumes import VolumeLife
from perdure.records.jobs import kept_volumes, resumptions
from perdure.records.jobs.jobs import get_job, record_job
from perdure.records.jobs.kept_jobs import kept_of, waiting_jobs
from perdure.records.schema.database import reading, writing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
CHECKPOINT = Checkpoint(number=7, kind=CheckpointKind.FINAL, epoch=1, frozen_at=NOON, committed_at=NOON)
LAST = Attempt(
    epoch=1, attempt=1, instance_id="i-1", zone="us-east-1a", container_id="c", accepted_at=NOON, end="node lost"
)
STORE = StoredUnder(store=StoreConfiguration(kind="directory", directory="/shared"), job_id="in-store")


def over(job_id: str, minutes: float, **changes: Any) -> Job:
    """A job that failed so many minutes after noon, with its checkpoint on a volume."""
    volume = VolumeLife(
        volume_id=f"vol-{job_id}", zone="us-east-1a", volume_type="gp3", size_gib=1, created_at=NOON - WEEK
    )
    usual: dict[str, Any] = {
        "state": JobState.FAILED,
        "created_at": NOON - WEEK,
        "finished_at": NOON + timedelta(minutes=minutes),
        "epoch": 1,
        "attempts": [LAST],
        "checkpoints": [CHECKPOINT],
        "volume_id": volume.volume_id,
        "volumes": [volume],
    }
    return Job(job_id=job_id, **usual | changes)


@pytest.fixture
def filled(engine: Engine) -> Engine:
    nothing: dict[str, Any] = {"volumes": [], "volume_id": None}
    with writing(engine) as session:
        for job in (
            over("later", 20),
            over("sooner", 10),
            over("in-store", 15, **nothing, stored=STORE),
            over("succeeded", 1, state=JobState.SUCCEEDED),
            over("left-nothing", 2, checkpoints=[], **nothing),
            over("runs", 3, state=JobState.RUNNING, finished_at=None),
        ):
            record_job(session, job, [], 1)
    return engine


def waiting(engine: Engine, limit: int = 10) -> list[str]:
    with reading(engine) as session:
        return [job.job_id for job, _ in waiting_jobs(session, limit)]


def kept(engine: Engine, job_id: str) -> Kept | None:
    with reading(engine) as session:
        return kept_of(session, get_job(session, job_id))


def said(engine: Engine, job_id: str) -> str:
    with reading(engine) as session:
        job = get_job(session, job_id)
        return standing(job, NOON, kept_of(session, job))


def resume(engine: Engine, job_id: str, new: str | None, taken: bool = False) -> None:
    note = resumptions.Resumption(
        job_id=job_id,
        request_id="one",
        job_name="n",
        new_job_id=new,
        checkpoint=7,
        volume_id=f"vol-{job_id}",
        epoch=1,
        asked_at=NOON,
    )
    with writing(engine) as session:
        resumptions.begin(session, note)
        if taken:
            resumptions.taken(session, note, NOON)


def test_those_whose_time_is_over_first_come_first(filled: Engine) -> None:
    assert waiting(filled) == ["sooner", "in-store", "later"]
    assert waiting(filled, limit=1) == ["sooner"]
    assert kept(filled, "sooner") == Kept(checkpoint=7, until=NOON + timedelta(minutes=10) + WEEK)
    assert kept(filled, "succeeded") is not None, "in diagnosis mode, to be looked at"
    assert kept(filled, "left-nothing") is None is kept(filled, "runs")
    assert said(filled, "sooner").endswith("Checkpoint 7 is kept: `Resume` goes on from there in a new job.")
    assert said(filled, "left-nothing") == "A reclaim took its last attempt. No checkpoint of it is left."


def test_one_that_is_resumed_waits_no_more(filled: Engine) -> None:
    resume(filled, "sooner", None)
    assert waiting(filled) == ["in-store", "later"]
    assert kept(filled, "sooner") == Kept(checkpoint=7, resumed_as="")
    resume(filled, "sooner", "new", taken=True)
    assert kept(filled, "sooner") == Kept(checkpoint=7, resumed_as="new")
    assert said(filled, "sooner").endswith("It was resumed from checkpoint 7 as job new.")


def test_one_whose_successor_ended_before_it_took_anything_waits_again(filled: Engine) -> None:
    resume(filled, "sooner", "new")
    assert waiting(filled) == ["in-store", "later"]
    with writing(filled) as session:
        record_job(session, over("new", 30, checkpoints=[], volumes=[], volume_id=None), [], 1)
    assert waiting(filled) == ["sooner", "in-store", "later"]


def test_what_is_being_deleted_waits_for_nobody(filled: Engine) -> None:
    with writing(filled) as session:
        kept_volumes.claim(session, kept_volumes.find_volume(session, "vol-sooner"), NOON)
    assert waiting(filled) == ["in-store", "later"] and kept(filled, "sooner") is None
