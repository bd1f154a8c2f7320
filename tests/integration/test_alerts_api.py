"""Alerts, verdicts and run times as the API answers them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from api.app import create_app
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.retries import RetryRule, RetryStrategy
from perdure.domain.volumes import VolumeLife
from perdure.records.jobs.jobs import record_job
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings
from tests.integration.asking import Asker, asking

BASE = "http://127.0.0.1:8080"
RETRIED = RetryStrategy(attempts=5, rules=[RetryRule(action="RETRY", on_status_reason="Host EC2*")])


def job(number: int, now: datetime, **changes: object) -> Job:
    begun = now - timedelta(minutes=number)
    attempt = Attempt(
        epoch=1,
        attempt=1,
        instance_id="i-1",
        zone="us-east-1a",
        container_id="c",
        accepted_at=begun,
        started_at=begun,
        batch_started_at=begun,
    )
    known = Job(
        job_id=f"job-{number}",
        state=JobState.RUNNING,
        created_at=begun,
        retry=RETRIED,
        attempts_left=4,
        timeout_seconds=36_000,
        attempts=[attempt],
    )
    return known.model_copy(update=changes)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    url = f"sqlite:///{tmp_path_factory.mktemp('alerts') / 'perdure.db'}"
    engine, now = open_engine(url), datetime.now(UTC)
    migrate(engine)
    with writing(engine) as session:
        record_job(session, job(1, now, attempts_left=0), [], 1)
        record_job(session, job(2, now), [], 1)
        record_job(session, job(3, now, retry=RetryStrategy(), attempts_left=0, unprotected="Temporal was away"), [], 1)
        volume = VolumeLife(volume_id="vol-1", zone="us-east-1a", volume_type="gp3", size_gib=1, created_at=now)
        checkpoint = Checkpoint(number=3, kind=CheckpointKind.FINAL, epoch=1, frozen_at=now, committed_at=now)
        kept = job(4, now, state=JobState.FAILED, attempts_left=0, finished_at=now, volumes=[volume])
        record_job(session, kept.model_copy(update={"checkpoints": [checkpoint]}), [], 1)
    engine.dispose()
    with asking(create_app(ApiSettings(database_url=url, api_host="127.0.0.1")), BASE, "127.0.0.1") as asker:
        yield asker


def test_a_job_tells_what_would_become_of_it(api: Asker) -> None:
    told = api.get("/api/v1/jobs/job-1").json()
    assert [alert["code"] for alert in told["alerts"]] == ["last-attempt"]
    assert {verdict["ending"] for verdict in told["verdicts"]} == {
        "reclaim",
        "hand over",
        "failed start",
        "own failure",
    }
    assert told["verdicts"][0]["rule"] == "rule 1, `Host EC2*`" and told["attempts_left"] == 0
    assert 35_000 < told["timeout_left_seconds"] <= 35_940
    assert 60 <= told["run_seconds"] < 1000 and told["batch_run_seconds"] >= 60
    over = api.get("/api/v1/jobs/job-4").json()
    assert over["alerts"] == [] == over["verdicts"] and over["timeout_left_seconds"] is None


def test_alerts_of_all_jobs_come_worst_first(api: Asker) -> None:
    told = api.get("/api/v1/alerts").json()
    assert [(alert["job_id"], alert["code"], alert["level"]) for alert in told["items"]] == [
        ("job-3", "no-retry-on-reclaim", "error"),
        ("job-3", "unprotected", "warning"),
        ("job-1", "last-attempt", "warning"),
    ]
    assert (told["jobs"], told["next"]) == (3, None)


def test_ended_jobs_that_somebody_can_resume_come_with_the_first_page(api: Asker) -> None:
    told = api.get("/api/v1/alerts", params={"jobs": "1"}).json()
    assert [(one["job_id"], one["checkpoint"], one["ends_soon"]) for one in told["resumable"]] == [("job-4", 3, False)]
    assert api.get("/api/v1/alerts", params={"cursor": told["next"]}).json()["resumable"] == []
    assert api.get("/api/v1/jobs/job-4").json()["kept"]["until"] == told["resumable"][0]["until"]


def test_alerts_come_in_pages_of_jobs(api: Asker) -> None:
    seen, cursor, pages = 0, None, 0
    while cursor is not None or not pages:
        query = {"jobs": "1"} | ({"cursor": cursor} if cursor else {})
        told = api.get("/api/v1/alerts", params=query).json()
        seen, cursor, pages = seen + len(told["items"]), told["next"], pages + 1
    assert (seen, pages) == (3, 3)


@pytest.mark.parametrize("query", ["jobs=0", "jobs=501", "jobs=x", "cursor=nonsense"])
def test_a_bad_question_about_alerts_is_refused(api: Asker, query: str) -> None:
    answer = api.get(f"/api/v1/alerts?{query}")
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]
