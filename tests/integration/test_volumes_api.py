"""The list of volumes that exist: whose they are, what they cost, and that pages hold each of them once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.volumes import VolumeLife
from perdure.records.costs.prices import save_storage
from perdure.records.jobs.jobs import record_job
from perdure.records.jobs.volume_lists import list_volumes, sum_volumes
from perdure.records.schema.database import reading, writing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = datetime(2026, 4, 1, tzinfo=UTC)


def a_job(number: int, *, zone: str = "us-east-1a", finished: bool = False, deleted: bool = False) -> Job:
    made = NOON + timedelta(minutes=number)
    attempt = Attempt(
        epoch=1, attempt=1, instance_id=f"i-{number}", zone=zone, container_id="c", accepted_at=made, started_at=made
    )
    return Job(
        job_id=f"job-{number}",
        name=f"align-{number}",
        queue="spot",
        state=JobState.FAILED if finished else JobState.RUNNING,
        created_at=made,
        finished_at=made if finished else None,
        epoch=1,
        attempts=[attempt],
        volume_id=f"vol-{number}",
        volumes=[
            VolumeLife(
                volume_id=f"vol-{number}",
                zone=zone,
                volume_type="gp3",
                size_gib=100,
                throughput_mib_per_second=250 if zone.startswith("us") else 0,
                created_at=made,
                deleted_at=NOW if deleted else None,
            )
        ],
    )


@pytest.fixture
def filled(engine: Engine) -> Engine:
    jobs = [*(a_job(number) for number in range(5)), a_job(5, finished=True), a_job(6, deleted=True, finished=True)]
    jobs.append(a_job(7, zone="mars-north-1a"))
    with writing(engine) as session:
        for job in jobs:
            record_job(session, job, [], 1)
        save_storage(session, "us-east-1", {"gp3": 80_000, "gp3-throughput": 8_000}, at=NOON)
    return engine


def test_each_volume_that_exists_with_its_job_and_price(filled: Engine) -> None:
    with reading(filled) as session:
        found = {each.volume_id: each for each in list_volumes(session, now=NOW).items}
    assert set(found) == {f"vol-{number}" for number in (0, 1, 2, 3, 4, 5, 7)}
    running, kept, unpriced = found["vol-1"], found["vol-5"], found["vol-7"]
    assert (running.job_id, running.job_name, running.instance_id, running.kept) == ("job-1", "align-1", "i-1", False)
    assert running.month_micros == 9_000_000 and not running.estimated
    march = (NOW - running.created_at) / timedelta(days=31)
    assert running.cost_micros == pytest.approx(march * 9_000_000, abs=2)
    assert kept.kept and kept.instance_id is None and kept.job_state is JobState.FAILED
    assert unpriced.month_micros is None and unpriced.cost_micros is None


def test_sums_are_of_all_and_say_what_they_leave_out(filled: Engine) -> None:
    with reading(filled) as session:
        sums = sum_volumes(session, now=NOW)
    assert (sums.volumes, sums.size_gib, sums.month_micros, sums.unpriced) == (7, 700, 54_000_000, 1)
    assert (sums.kept, sums.kept_month_micros, sums.estimated) == (1, 9_000_000, False)


@pytest.mark.parametrize("kept", [None, True, False])
def test_pages_hold_each_once(filled: Engine, kept: bool | None) -> None:
    found: list[str] = []
    after = None
    with reading(filled) as session:
        whole = [each.volume_id for each in list_volumes(session, now=NOW, kept=kept).items]
        while True:
            page = list_volumes(session, now=NOW, limit=2, after=after, kept=kept)
            found += [each.volume_id for each in page.items]
            after = page.next
            if after is None:
                break
    assert found == whole and len(set(found)) == {None: 7, True: 1, False: 6}[kept]


def test_a_cursor_of_another_list_is_refused(filled: Engine) -> None:
    with reading(filled) as session:
        cursor = list_volumes(session, now=NOW, limit=1).next
        for other, kept in (("x", None), (cursor, False)):
            with pytest.raises(ConfigurationInvalid):
                list_volumes(session, now=NOW, after=other, kept=kept)
