"""Jobs without protection in reports: counted from their first record on, by what their reasons share, on both
databases, and still counted when their records are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from perdure.domain.configuration import ServerConfiguration
from perdure.domain.errors import UnknownJob
from perdure.domain.jobs import Job, JobState
from perdure.domain.rollups import cover_span
from perdure.domain.unprotected import shared_reason
from perdure.records.costs.reports import sum_span, unprotected_reason, unprotected_reasons
from perdure.records.jobs.jobs import record_job
from perdure.records.jobs.retention import retire_jobs
from perdure.records.schema.database import reading, writing

NOW = datetime.now(UTC)
OFF = "checkpoints are turned off"
SILENT = "The container on i-0{0}aaaaaaaaaaaaaaa runs unprotected: the agent did not answer within 20 s"


def a_job(number: int, unprotected: str, *, queue: str = "spot", finished: bool = False) -> Job:
    made = NOW - timedelta(hours=1, minutes=number)
    return Job(
        job_id=f"job-{number}",
        queue=queue,
        state=JobState.SUCCEEDED if finished else JobState.RUNNING,
        created_at=made,
        changed_at=made,
        finished_at=made if finished else None,
        unprotected=unprotected,
    )


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with writing(engine) as session:
        for job in (
            a_job(1, ""),
            a_job(2, OFF),
            a_job(3, SILENT.format(3)),
            a_job(4, SILENT.format(4), finished=True),
            a_job(5, SILENT.format(5), queue="other"),
        ):
            record_job(session, job, [], 1)
    return engine


def counted(engine: Engine, queue: str | None = None) -> int:
    with reading(engine) as session:
        return sum_span(session, cover_span(None, None, NOW), queue).jobs_unprotected


def reasons(engine: Engine, **where: datetime | str | None) -> list[tuple[str, int, int, list[str]]]:
    asked = {"start": None, "end": None, "queue": None} | where
    with reading(engine) as session:
        found = unprotected_reasons(session, **asked)  # type: ignore[arg-type]
    return [(one.reason, one.jobs, one.running, one.job_ids) for one in found]


def test_by_reason_with_the_running_ones_first(filled: Engine) -> None:
    assert counted(filled) == 4 and counted(filled, "other") == 1
    silent = "the agent did not answer within N s"
    assert reasons(filled) == [(silent, 3, 2, ["job-3", "job-5", "job-4"]), (OFF, 1, 1, ["job-2"])]
    assert reasons(filled, queue="spot") == [(silent, 2, 1, ["job-3", "job-4"]), (OFF, 1, 1, ["job-2"])]
    assert reasons(filled, start=NOW - timedelta(hours=1, minutes=2)) == [(OFF, 1, 1, ["job-2"])]
    assert reasons(filled, end=NOW - timedelta(hours=1, minutes=4)) == [(silent, 1, 1, ["job-5"])]


def test_a_single_job_says_its_own_reason_in_full(filled: Engine) -> None:
    with reading(filled) as session:
        (one,) = unprotected_reason(session, "job-3")
        assert (one.reason, one.running) == (SILENT.format(3), 1)
        assert unprotected_reason(session, "job-1") == []
        with pytest.raises(UnknownJob):
            unprotected_reason(session, "job-99")


def test_a_job_that_is_protected_after_all_counts_no_longer(filled: Engine) -> None:
    with writing(filled) as session:
        record_job(session, a_job(2, ""), [], 2)
    assert counted(filled) == 3
    assert OFF not in {reason for reason, *_ in reasons(filled)}


def test_the_total_outlives_the_records(filled: Engine) -> None:
    with writing(filled) as session:
        assert retire_jobs(session, ServerConfiguration(keep_succeeded_seconds=60), NOW) == 1
    assert counted(filled) == 4
    assert [jobs for _, jobs, *_ in reasons(filled)] == [2, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("volume vol-0123456789abcdef0 is busy.", "volume vol-0aaaaaaaaaaaaaaa0 is busy"),
        ("process 41 is traced by strace", "process 7 is traced by strace"),
        (
            "the job 5b3f1d0e-8a0c-4c8e-9f0e-2d6c8a1b7e55 has others",
            "the job 00000000-8a0c-4c8e-9f0e-2d6c8a1b7e55 has others",
        ),
        ("The container runs unprotected: no", "The container on i-0123456789abcdef0 runs unprotected: no"),
    ],
)
def test_what_only_one_job_has_is_no_reason_of_its_own(one: str, other: str) -> None:
    assert shared_reason(one) == shared_reason(other)


def test_different_causes_stay_apart() -> None:
    assert shared_reason("its volume is full") != shared_reason("its root file system is no overlay")
    assert shared_reason("") == "no reason was given"
