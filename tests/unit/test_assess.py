"""`perdure assess` on a played account with a week behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from localcloud.aws.batch.jobs import Attempt
from localcloud.aws.batch.retry import Ending
from localcloud.aws.cloud_config import CREDENTIALS
from localcloud.aws.prices import price_changes
from perdure.account.assessment import redone_ms
from perdure.cli.main import run
from tests.documents.book import told, typed
from tests.patience import PATIENCE
from tests.unit.cloud_bed import CloudBed, cloud_bed

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
KIND: Any = "c5.xlarge"
ZONE = "us-east-1a"
LOST, DONE, BROKEN = (
    Ending(status_reason="Host EC2 (instance {}) terminated."),
    Ending(exit_code=0, status_reason="Essential container in task exited"),
    Ending(exit_code=1, status_reason="Essential container in task exited"),
)
RULES = [{"onStatusReason": "Host EC2*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]


class Week:
    """Enters jobs that are over, as AWS Batch would remember them."""

    def __init__(self, bed: CloudBed) -> None:
        self._bed = bed
        run = bed.aws.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, InstanceType=KIND)
        self.known = run["Instances"][0]["InstanceId"]
        self.known_zone = run["Instances"][0]["Placement"]["AvailabilityZone"]

    def job(
        self, name: str, status: str, *lives: tuple[float, float, str, Ending], attempts: int = 5, days: float = 6
    ) -> str:
        """`lives`: (hours ago, hours long, instance, ending) of each attempt."""
        strategy = {"attempts": attempts, "evaluateOnExit": RULES}
        job_id = self._bed.submit(jobName=name, retryStrategy=strategy)
        job = self._bed.cloud.engine.job(job_id)
        assert job is not None
        job.created_at = _ms(NOW - timedelta(days=days))
        for number, (ago, long, instance, ending) in enumerate(lives, start=1):
            began = NOW - ago * HOUR
            reason = (ending.status_reason or "").format(instance)
            job.attempts.append(
                Attempt(
                    number=number,
                    instance_id=instance,
                    zone=ZONE,
                    container_id=f"{name}{number}",
                    task_arn="arn:aws:ecs:us-east-1:1:task/c/t",
                    container_instance_arn="arn:aws:ecs:us-east-1:1:container-instance/other/x",
                    log_stream="",
                    started_at=_ms(began),
                    stopped_at=_ms(began + long * HOUR),
                    ending=Ending(ending.exit_code, ending.reason, reason),
                )
            )
        job.started_at, job.stopped_at, job.status = job.attempts[0].started_at, job.attempts[-1].stopped_at, status
        return job_id


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        bed.http.post("/_local/capacity", json={"zones": []}).raise_for_status()
        yield bed


@pytest.fixture(scope="module")
def ids(bed: CloudBed) -> dict[str, str]:
    week = Week(bed)
    return {
        "twice": week.job(
            "twice",
            "SUCCEEDED",
            (40, 5, week.known, LOST),
            (34, 3, week.known, LOST),
            (30, 8, week.known, DONE),
        ),
        "forgotten": week.job(
            "forgotten", "SUCCEEDED", (50, 2, "i-0123456789abcdef0", LOST), (47, 4, week.known, DONE)
        ),
        "given up": week.job("given-up", "FAILED", (60, 6, week.known, LOST), attempts=1),
        "short": week.job("short", "SUCCEEDED", (20, 0.02, week.known, LOST), (19, 0.1, week.known, DONE)),
        "broken": week.job("broken", "FAILED", (70, 3, week.known, BROKEN), attempts=1),
        "well": week.job("well", "SUCCEEDED", (80, 3, week.known, DONE)),
        "long ago": week.job("long-ago", "SUCCEEDED", (300, 9, week.known, LOST), days=13),
        "zone": week.known_zone,
    }


@pytest.fixture(autouse=True)
def at_the_desk(bed: CloudBed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": bed.aws.endpoint_url, "AWS_REGION": bed.aws.region}.items():
        monkeypatch.setenv(name, value)


def paid(zone: str, began: datetime, ended: datetime) -> float:
    """Dollars for an instance, second by second of AWS's own history."""
    changes = list(price_changes(KIND, zone, began, ended))  # newest first
    total, until = 0.0, ended
    for at, dollars in changes:
        since = max(at, began)
        total += float(dollars) * max(0.0, (until - since).total_seconds()) / 3600
        until = min(until, since)
    return total


def test_it_counts_reclaims_and_what_protection_would_have_saved(
    bed: CloudBed, ids: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["assess", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jobs = {one["id"]: one for one in told["jobs"]}
    assert set(jobs) == {ids[name] for name in ("twice", "forgotten", "given up", "short")}
    assert (told["jobs_seen"], told["attempts_seen"], told["reclaims"]) == (6, 10, 5)
    assert told["lost_seconds"] == pytest.approx((5 + 3 + 2 + 6 + 0.02) * 3600)

    twice = jobs[ids["twice"]]
    redone = redone_ms(512, 900) / 1000
    assert 120 < redone < 150
    assert twice["saved_seconds"] == pytest.approx(8 * 3600 - 2 * redone)
    spans = [(NOW - 40 * HOUR, NOW - 35 * HOUR), (NOW - 34 * HOUR, NOW - 31 * HOUR)]
    share = 1 / 4  # one vCPU of c5.xlarge's four
    assert twice["lost_usd"] == pytest.approx(sum(paid(ids["zone"], *span) for span in spans) * share, abs=1e-5)
    assert twice["lost_usd_estimated"] == 0
    assert twice["saved_usd"] == pytest.approx(twice["lost_usd"] * (8 * 3600 - 2 * redone) / (8 * 3600), rel=0.02)

    assert jobs[ids["forgotten"]]["remark"] == "instance forgotten"
    assert jobs[ids["forgotten"]]["lost_usd_estimated"] == jobs[ids["forgotten"]]["lost_usd"] > 0
    assert jobs[ids["given up"]]["remark"] == "is not run again" and jobs[ids["given up"]]["saved_usd"] == 0
    assert jobs[ids["short"]]["saved_seconds"] == 0, "it had run for less than what protection costs"
    assert told["net_usd"] == pytest.approx(told["saved_usd"] - told["volumes_usd"])
    assert told["volumes_usd"] > 0 and told["refused"] == {}


def test_a_person_reads_it(ids: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assess", "--queue", "default", "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "6 jobs, 10 attempts; a reclaim ended 5 of them, of 4 jobs." in out
    assert "1 jobs more could have been saved" in out and "What this rests on:" in out
    assert "and 3 more (--top)" in out


def test_a_profile_is_all_it_needs(
    bed: CloudBed, ids: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "".join(f"{name.lower()} = {value}\n" for name, value in CREDENTIALS.items())
    (tmp_path / "config").write_text(f"[profile genomics]\nregion = {bed.aws.region}\n{keys}")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    line = told("docs/account.md", "AWS_PROFILE=genomics perdure assess")
    at = bed.aws.endpoint_url
    said = typed(line, PATIENCE, AWS_CONFIG_FILE=str(tmp_path / "config"), AWS_ENDPOINT_URL=at)
    assert "a reclaim ended 5 of them" in said and ids["twice"] in said, said


def test_less_is_looked_at_when_asked_and_nothing_that_is_not_there(
    ids: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["assess", "--queue", "nowhere"]) == 2 and run(["assess", "--days", "30"]) == 2
    assert "seven days" not in capsys.readouterr().out
    assert run(["assess", "--days", "0.01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reclaims"] == 0


def test_memory_that_does_not_fit_into_the_notice_costs_half_an_interval() -> None:
    small, large = redone_ms(8 * 1024, 900), redone_ms(64 * 1024, 900)
    assert small == pytest.approx((120 + 14 + 8 * 2**30 / 125e6) * 1000, abs=1)
    assert large == pytest.approx((120 + 14 + 64 * 2**30 / 125e6 + 450) * 1000, abs=1)
