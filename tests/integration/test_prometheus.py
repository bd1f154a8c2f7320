"""GET /metrics, and the rules and the dashboard that are made for it: every name in them is one that is scraped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from localcloud.stack.waiting import free_port
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.retries import RetryStrategy
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings
from perdure.waiting import until
from tests.integration.asking import Asker, asking
from tests.integration.debian_programs import unpacked
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/perdure.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/perdure.json"
NOW = datetime.now(UTC)
Scraped = dict[tuple[str, tuple[str, ...]], float]


def checkpoint(number: int, minutes_ago: float, freeze: float, dump: float) -> Checkpoint:
    at = NOW - timedelta(minutes=minutes_ago)
    return Checkpoint(
        number=number,
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        frozen_at=at,
        committed_at=at + timedelta(seconds=1),
        image_bytes=1000 * number,
        phases={"pause": freeze, "dump": dump},
    )


def job(number: int, **changes: object) -> Job:
    begun = NOW - timedelta(hours=2)
    attempt = Attempt(
        epoch=1, attempt=1, instance_id="i-1", zone="us-east-1a", container_id="c", accepted_at=begun, started_at=begun
    )
    known = Job(
        job_id=f"job-{number}",
        queue="genomics",
        state=JobState.RUNNING,
        created_at=begun,
        retry=RetryStrategy(attempts=5),
        attempts_left=4,
        attempts=[attempt],
        checkpoints_committed=2,
    )
    return known.model_copy(update=changes)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    url = f"sqlite:///{tmp_path_factory.mktemp('prometheus') / 'perdure.db'}"
    engine = open_engine(url)
    migrate(engine)
    outage = Outage(epoch=1, kind="notice", started_at=NOW - timedelta(hours=1), ended_at=NOW, seconds=42.0)
    two = [checkpoint(1, 40, 0.2, 5.0), checkpoint(2, 20, 0.05, 2.0)]
    notice = Notice(
        notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id="i-1", seen_at=NOW, deadline=NOW + timedelta(minutes=2)
    )
    with writing(engine) as session:
        record_node(session, Node(instance_id="i-1", zone="us-east-1a", agent_version="0.1.0", notice=notice))
        record_node(session, Node(instance_id="i-2", zone="us-east-1a", agent_version="0.2.0"))
        gone = Node(instance_id="i-3", zone="us-east-1a", state=NodeState.GONE, ended_at=NOW)
        record_node(session, gone)
        record_job(session, job(1, checkpoints=two, protections=1, outages=[outage]), [], 1)
        record_job(session, job(2, unprotected="Temporal was away for 3 s"), [], 1)
        record_job(session, job(3, unprotected="Temporal was away for 9 s", attempts_left=0), [], 1)
        failing = {"checkpoint_failures_in_a_row": 2, "checkpoint_error": "NotCheckpointable"}
        record_job(session, job(4, checkpoints=[checkpoint(1, 110, 4.0, 50.0)], **failing), [], 1)
        record_job(session, job(5, state=JobState.SUCCEEDED, finished_at=NOW), [], 1)
    engine.dispose()
    settings = ApiSettings(database_url=url, api_host="127.0.0.1")
    with asking(create_app(settings), "http://127.0.0.1:8080", "127.0.0.1") as asker:
        yield asker


def scrape(api: Asker) -> Scraped:
    answer = api.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain"), answer.text
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_is_scraped_is_what_is_recorded(api: Asker) -> None:
    found = scrape(api)
    age = (datetime.now(UTC) - NOW).total_seconds() + 110 * 60
    assert found["perdure_jobs_now", ("Running",)] == 4 and found["perdure_jobs_now", ("Succeeded",)] == 1
    assert found["perdure_unprotected_jobs", ("Temporal was away for N s",)] == 2, "one reason, whatever the seconds"
    assert found["perdure_failing_jobs", ("NotCheckpointable",)] == 1
    assert found["perdure_checkpoint_freeze_seconds_count", ()] == 2, "the newest of each job alone"
    assert found["perdure_checkpoint_freeze_seconds_sum", ()] == pytest.approx(4.05)
    assert found["perdure_checkpoint_dump_seconds_bucket", ("3.0",)] == 1
    assert [found["perdure_budget_jobs", (colour,)] for colour in ("green", "amber", "red")] == [1, 1, 0]
    assert found["perdure_final_checkpoint_seconds_count", ()] == 2
    assert found["perdure_oldest_checkpoint_seconds", ()] == pytest.approx(age, abs=60)
    assert found["perdure_outage_seconds_sum", ()] == 42
    assert found["perdure_nodes", ("0.2.0", "ready")] == 1 and found["perdure_noticed_nodes", ()] == 1
    assert sum(value for (name, _), value in found.items() if name == "perdure_nodes") == 2
    assert found["perdure_alerts_jobs_looked_at", ()] == 4
    assert any(name == "perdure_alerts" for name, _ in found)
    assert found["perdure_jobs_total", ("genomics",)] == 5


def test_strangers_get_nothing(api: Asker) -> None:
    passed_on = api.get("/metrics", headers={"X-Forwarded-For": "192.0.2.9"})
    assert passed_on.status_code in {401, 403} and "perdure_" not in passed_on.text


def expressions() -> dict[str, str]:
    rules = yaml.safe_load(RULES.read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        found |= {f"{panel['title']} {each['refId']}": each["expr"] for each in panel["targets"]}
    return found


def test_rules_and_dashboard_ask_for_metrics_that_there_are(api: Asker) -> None:
    there = {name for name, _ in scrape(api)} | {"perdure_spool_messages", "perdure_control_workers"}  # Temporal's
    asked = {name for text in expressions().values() for name in re.findall(r"\bperdure_\w+", text)}
    assert asked <= there, asked - there
    unused = {name for name in there if name.endswith("_bucket")} - asked
    assert not unused, "every distribution is on the dashboard"


def test_prometheus_takes_the_rules() -> None:
    promtool = unpacked("prometheus") / "usr/bin/promtool"
    done = subprocess.run(
        [promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells


_SERVES = """
import sys
from perdure.telemetry import set_up
gauge = set_up(sys.argv[1]).metric_meter.create_gauge("perdure_spool_messages", "")
gauge.set(3)
sys.stdin.read()
"""


def test_a_process_serves_temporals_metrics_and_ours_where_it_is_told_to() -> None:
    address = f"127.0.0.1:{free_port()}"
    serving = subprocess.Popen([sys.executable, "-c", _SERVES, address], stdin=subprocess.PIPE, cwd=ROOT)
    try:

        def text() -> str:
            try:
                return httpx.get(f"http://{address}/metrics").text
            except httpx.HTTPError:
                return ""

        assert "perdure_spool_messages" in until(text, PATIENCE, 0.1, "metrics are served")
        assert re.search(r"^perdure_spool_messages\S* 3$", text(), re.MULTILINE), text()
    finally:
        serving.communicate(timeout=PATIENCE)
