"""The agent's rhythm: when the next checkpoint is due, by this machine's monotonic clock and nobody else's."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.contracts.node import CheckpointSettings
from perdure.contracts.protection import AttachReply, Verdict
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import (
    CheckpointConfiguration,
    EffectiveConfiguration,
    JobVolumeConfiguration,
    StoreConfiguration,
)
from perdure.settings import AgentSettings
from worker_agent.container.protected_jobs import ContainerRecord, ProtectedJob, ProtectedJobs
from worker_agent.node.this_node import ThisNode
from worker_agent.save.checkpointing import beside_neighbours
from worker_agent.save.rhythm import left_until_due

INTERVAL = 1000.0
SLOW = 60.0
"""Seconds that this test may take on a loaded machine."""


def running_job(
    folder: Path, *, started: timedelta, frozen: timedelta | None = None, epoch: int = 2, **settings: object
) -> ProtectedJob:
    """A container that started, and whose newest checkpoint (of `epoch`) was frozen, so long ago."""
    checkpoint = CheckpointConfiguration.model_validate({"interval_seconds": INTERVAL, **settings})
    configuration = EffectiveConfiguration(checkpoint=checkpoint, job_volume=JobVolumeConfiguration())
    now = datetime.now(UTC)
    newest = None
    if frozen is not None:
        at = now - frozen
        newest = Checkpoint(
            number=1, kind=CheckpointKind.PERIODIC, epoch=epoch, frozen_at=at, committed_at=at, image_bytes=1
        )
    record = ContainerRecord(
        container_id="c0ffee",
        job_id="a-job",
        attempt=2,
        bundle=folder,
        runc_root="",
        rootfs=folder,
        lower_layers=[],
        started_at=now - started,
        newest=newest,
        plan=AttachReply(verdict=Verdict.FRESH, epoch=2, configuration=configuration, settings_number=3),
    )
    return ProtectedJobs(ThisNode(AgentSettings(run_dir=folder / "run", state_dir=folder / "state"))).add(record)


def new_settings(number: int, **changes: object) -> CheckpointSettings:
    fields = {"interval_seconds": INTERVAL, **changes}
    return CheckpointSettings(
        job_id="a-job", epoch=2, number=number, checkpoint=CheckpointConfiguration.model_validate(fields)
    )


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=SLOW)


async def test_the_first_is_due_an_interval_after_the_start(tmp_path: Path) -> None:
    assert left_until_due(running_job(tmp_path, started=timedelta(seconds=300))) == about(INTERVAL - 300)


async def test_the_next_is_due_an_interval_after_the_last_was_begun_whatever_became_of_it(tmp_path: Path) -> None:
    job = running_job(tmp_path, started=timedelta(days=1))
    assert left_until_due(job) < 0
    job.beat_at = time.monotonic() - 100
    assert left_until_due(job) == about(INTERVAL - 100)
    job.beat_at = time.monotonic() - INTERVAL - 100
    assert left_until_due(job) < 0


async def test_a_new_agent_goes_on_in_its_predecessors_rhythm(tmp_path: Path) -> None:
    assert left_until_due(running_job(tmp_path, started=timedelta(days=1), frozen=timedelta(seconds=400))) == about(
        INTERVAL - 400
    )


async def test_a_checkpoint_of_another_container_does_not_count(tmp_path: Path) -> None:
    job = running_job(tmp_path, started=timedelta(seconds=300), frozen=timedelta(days=1), epoch=1)
    assert left_until_due(job) == about(INTERVAL - 300)


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=3000)])
async def test_a_wall_clock_that_was_set_back_does_not_stop_the_rhythm(tmp_path: Path, ahead: timedelta) -> None:
    job = running_job(tmp_path, started=timedelta(days=1), frozen=-ahead)
    assert left_until_due(job) == about(INTERVAL)


@pytest.mark.parametrize("name", ["interval_seconds", "enabled"])
async def test_without_a_rhythm_nothing_is_ever_due(tmp_path: Path, name: str) -> None:
    off: dict[str, Any] = {name: 0}
    assert left_until_due(running_job(tmp_path, started=timedelta(days=1), **off)) == float("inf")


async def test_new_settings_hold_at_once_and_older_ones_change_nothing(tmp_path: Path) -> None:
    job = running_job(tmp_path, started=timedelta(seconds=90))
    job.follow(new_settings(5, interval_seconds=60.0, keep=7))
    assert left_until_due(job) < 0, "90 s are more than the new interval"
    assert job.settings.keep == 7
    job.follow(new_settings(4, interval_seconds=10_000.0))
    assert job.settings.interval_seconds == 60
    job.follow(new_settings(6, interval_seconds=0.0))
    assert left_until_due(job) == float("inf")
    kept = ContainerRecord.model_validate_json((job.folder / "container.json").read_text())
    assert kept.plan is not None and kept.plan.settings_number == 6, "a new agent goes by them too"


async def test_on_a_rebalance_recommendation_one_is_due_at_once(tmp_path: Path) -> None:
    job = running_job(tmp_path, started=timedelta(seconds=1), interval_seconds=0.0)
    job.hurried = True
    assert left_until_due(job) <= 0


def following(number: int, full: int, job: ProtectedJob, seconds: float, **phases: float) -> Checkpoint:
    """One that was frozen so many seconds after the newest."""
    assert job.record.newest is not None
    at = job.record.newest.frozen_at + timedelta(seconds=seconds)
    kind = CheckpointKind.PERIODIC
    return Checkpoint(
        number=number, kind=kind, epoch=2, frozen_at=at, committed_at=at, full=full, phases={"dump": 1.0, **phases}
    )


async def test_the_interval_is_shortened_to_what_can_be_written_in_time(tmp_path: Path) -> None:
    started, frozen = timedelta(seconds=2000), timedelta(seconds=1000)
    job = running_job(tmp_path, started=started, frozen=frozen, shortest_interval_seconds=60.0)
    assert job.interval_seconds == INTERVAL
    job.learn(following(2, 2, job, 1000, writing=500.0))
    assert job.interval_seconds == INTERVAL, "a full one writes everything, whatever had changed"
    job.learn(following(2, 1, job, 1000, writing=500.0))
    assert job.interval_seconds == pytest.approx(86, rel=0.05), "43 s of a notice are for writing"
    job.learn(following(3, 1, job, 1000, writing=5.0))
    assert job.interval_seconds == INTERVAL
    fixed = running_job(tmp_path / "other", started=started, frozen=frozen)
    fixed.learn(following(2, 1, fixed, 1000, writing=500.0))
    assert fixed.interval_seconds == INTERVAL, "unless it is allowed, it stays"


async def test_other_jobs_on_the_way_to_the_same_store_are_counted(tmp_path: Path) -> None:
    store = StoreConfiguration(kind="s3", bucket="checkpoints")
    jobs = []
    for number, where in enumerate((store, store, None)):
        job = running_job(tmp_path / str(number), started=timedelta(hours=1), frozen=timedelta(minutes=1))
        assert job.record.plan is not None and job.record.newest is not None
        newest = job.record.newest.model_copy(update={"phases": {"upload": 7.0 + number}})
        job.note(plan=job.record.plan.model_copy(update={"store": where}), newest=newest)
        job.started.set()
        jobs.append(job)
    first, _, with_volume = jobs
    taken = following(2, 0, first, 60)
    assert beside_neighbours(first, jobs, taken).phases["neighbours"] == 8.0
    assert beside_neighbours(with_volume, jobs, taken).phases == taken.phases
