"""The API over a real socket, a real SQLite file and a real Temporal dev server."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from api.app import create_app
from api.auth.door import is_loopback
from api.serving.guards import LARGEST_BODY
from api.wire.responses import (
    AttemptView,
    CheckpointView,
    EventView,
    JobDetail,
    JobSummary,
    NodeView,
    NoticeView,
    OutageView,
)
from api.workflows import JobWorkflows
from perdure.cli.main import run
from perdure.contracts import names
from perdure.contracts.protection import CheckpointTaken, TakeCheckpoint
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import FINISHED_STATES, Attempt, Job, JobEvent, JobState, Outage
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.values import Frozen
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings
from perdure.waiting import until_async
from tests.documents.book import arguments, told
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        number=number,
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        frozen_at=NOON,
        committed_at=NOON,
        image_bytes=5,
        cpu_features="avx avx512f",
    )


def job(job_id: str, *, state: JobState = JobState.RUNNING, minute: int = 0, queue: str = "default") -> Job:
    outage = Outage(epoch=1, kind="notice", started_at=NOON, seconds=3.5, phases={"frozen": 0.1, "dumped": 3.4})
    attempt = Attempt(epoch=1, attempt=1, instance_id="i-1", zone="us-east-1a", container_id="c", accepted_at=NOON)
    return Job(
        job_id=job_id,
        name=f"name of {job_id}",
        queue=queue,
        state=state,
        created_at=NOON + timedelta(minutes=minute),
        finished_at=NOON + timedelta(hours=1) if state in FINISHED_STATES else None,
        epoch=1,
        attempts=[attempt],
        checkpoints=[checkpoint(7)],
        outages=[outage],
        shared_mounts=["/data"],
    )


@workflow.defn(name=names.JOB_PROTECTION)
class StubJob:
    """Answers as a job's workflow would: how is said by its id."""

    def __init__(self) -> None:
        self._told = 0
        self._over = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self._over)
        return self._told

    @workflow.update
    async def take_checkpoint(self, wish: TakeCheckpoint) -> CheckpointTaken:
        word = workflow.info().workflow_id.rsplit("-", 1)[-1]
        if word == "traced":
            return CheckpointTaken(failure="a process is being traced")
        if word == "refusing":
            raise ApplicationError("the update was refused")
        if word == "silent":
            await workflow.wait_condition(lambda: self._over)
        return CheckpointTaken(checkpoint=checkpoint(8))

    @workflow.signal
    def configuration_changed(self) -> None:
        self._told += 1

    @workflow.signal
    def end(self) -> None:
        self._over = True

    @workflow.query
    def told(self) -> int:
        return self._told


@contextmanager
def served(app: FastAPI, listener: socket.socket | None = None) -> Iterator[str]:
    """Base URL of the app on a real server, in a thread of its own. `listener`: on a socket that listens already."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        # The listener is bound already: the first request waits until the application is ready.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('api')}/perdure.db"
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as session:
        for number in range(5):
            state = JobState.SUCCEEDED if number == 0 else JobState.RUNNING
            queue = "spot" if number % 2 else "default"
            events = [JobEvent(sequence=line, at=NOON, kind="attached", message=f"line {line}") for line in (1, 2, 3)]
            record_job(session, job(f"job-{number}", state=state, minute=number, queue=queue), events, 1)
        for word in ("traced", "refusing", "silent", "gone"):
            record_job(session, job(f"job-{word}", minute=-60), [], 1)
        notice = Notice(notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id="i-2", seen_at=NOON, deadline=NOON)
        record_node(
            session,
            Node(
                instance_id="i-1",
                zone="us-east-1a",
                instance_type="m5.large",
                cpu_features="avx avx512f aes",
                changed_at=NOON,
            ),
        )
        noticed = Node(instance_id="i-2", zone="us-east-1b", state=NodeState.NOTICED, changed_at=NOON, notice=notice)
        record_node(session, noticed)
    yield url, engine
    engine.dispose()


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, for Temporal's client and the stub worker."""
    with start_blocking_portal() as portal:
        yield portal


@asynccontextmanager
async def jobs_at_work() -> AsyncIterator[Client]:
    """Open stub workflows for job-1, job-2 and the odd ones; job-unrecorded has a workflow but no record yet."""
    async with await dev_server(dev_server_log_level="error") as environment:
        client = environment.client
        runner = UnsandboxedWorkflowRunner()
        async with working(Worker(client, task_queue="stub", workflows=[StubJob], workflow_runner=runner)):
            for word in ("1", "2", "traced", "refusing", "silent", "unrecorded"):
                workflow_id = names.job_workflow_id(f"job-{word}")
                await client.start_workflow(names.JOB_PROTECTION, id=workflow_id, task_queue="stub")
            yield client


@pytest.fixture(scope="module")
def temporal(portal: BlockingPortal) -> Iterator[Client]:
    with portal.wrap_async_context_manager(jobs_at_work()) as client:
        yield client


@pytest.fixture(scope="module")
def address(temporal: Client) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
        yield


@pytest.fixture(scope="module")
def api(database: tuple[str, Engine], address: None) -> Iterator[httpx.Client]:
    app = create_app(ApiSettings(database_url=database[0], temporal_ui_url="http://127.0.0.1:8233"))
    with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


def assert_error(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    for word in words:
        assert word in response.text
    assert set(error) == {"code", "message", "details"}


# Reading


def test_jobs_come_newest_first_and_in_pages(api: httpx.Client) -> None:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get("/api/v1/jobs", params={"limit": 2, **cursor}).json()
        assert len(page["items"]) <= 2
        seen += [item["job_id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen[:5] == ["job-4", "job-3", "job-2", "job-1", "job-0"]
    assert len(seen) == len(set(seen)) == 9


def test_jobs_are_filtered_by_state_and_queue(api: httpx.Client) -> None:
    succeeded = api.get("/api/v1/jobs", params={"status": "Succeeded"}).json()["items"]
    assert [item["job_id"] for item in succeeded] == ["job-0"]
    spot = api.get("/api/v1/jobs", params={"queue": "spot", "status": ["Running", "Failed"]}).json()["items"]
    assert [item["job_id"] for item in spot] == ["job-3", "job-1"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "status=running", "queue=%00", "queue=", "cursor=nonsense"]
)
def test_a_bad_filter_is_named(api: httpx.Client, query: str) -> None:
    assert_error(api.get(f"/api/v1/jobs?{query}"), 422, "invalid_request")


def test_a_bad_state_names_the_allowed_ones(api: httpx.Client) -> None:
    assert_error(api.get("/api/v1/jobs?status=up"), 422, "invalid_request", "query.status.0", "Restore Succeeded")


def test_a_job_comes_with_everything(api: httpx.Client) -> None:
    answer = api.get("/api/v1/jobs/job-1").json()
    assert answer["attempts"][0]["zone"] == "us-east-1a"
    assert answer["checkpoints"][0]["number"] == 7
    assert answer["outages"][0]["phases"] == {"frozen": 0.1, "dumped": 3.4}
    assert answer["shared_mounts"] == ["/data"]
    assert [event["message"] for event in answer["events"]] == ["line 1", "line 2", "line 3"]


def test_the_timeline_goes_on_after_a_line(api: httpx.Client) -> None:
    lines = api.get("/api/v1/jobs/job-1/events", params={"after": 1, "limit": 1}).json()
    assert [line["sequence"] for line in lines] == [2]
    assert_error(api.get("/api/v1/jobs/job-x/events"), 404, "unknown_job")


@pytest.mark.parametrize("job_id", ["nobody", "..%2f..%2fetc%2fpasswd", "%00", "a" * 500, "%ff%fe", "x;rm%20-rf"])
def test_an_unknown_job_is_404(api: httpx.Client, job_id: str) -> None:
    assert api.get(f"/api/v1/jobs/{job_id}").status_code == 404
    assert api.post(f"/api/v1/jobs/{job_id}/checkpoints").status_code == 404


def test_checkpoints_of_the_past_stay_listed(api: httpx.Client, database: tuple[str, Engine]) -> None:
    with writing(database[1]) as session:
        record_job(session, job("job-2", minute=2).model_copy(update={"checkpoints": [checkpoint(8)]}), [], 2)
    listed = api.get("/api/v1/jobs/job-2/checkpoints").json()
    assert [(each["number"], each["offered"]) for each in listed] == [(7, False), (8, True)]
    assert_error(api.get("/api/v1/jobs/job-x/checkpoints"), 404, "unknown_job")


def test_nodes(api: httpx.Client) -> None:
    nodes = api.get("/api/v1/nodes").json()["items"]
    assert [(node["instance_id"], node["state"]) for node in nodes] == [("i-1", "ready"), ("i-2", "noticed")]
    assert nodes[1]["notice"]["kind"] == "interruption"
    assert api.get("/api/v1/nodes", params={"state": "gone"}).json() == {"items": [], "next": None}


def test_what_can_restore_a_job(api: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    answer = api.get("/api/v1/jobs/job-1/compatible-instance-types").json()
    assert (answer["checkpoint"], answer["needs"]) == (7, ["avx", "avx512f"])
    by_name = {fit["instance_type"]: fit for fit in answer["instance_types"]}
    assert by_name["m5.large"] == {"instance_type": "m5.large", "basis": "seen", "fits": True, "missing": []}
    assert by_name["m6a.*"]["missing"] == ["avx512f"] and by_name["m6a.*"]["basis"] == "expected"
    server = ["--server", str(api.base_url)]
    compatible = arguments(told("docs/rehearsal.md", "perdure nodes compatible"))
    assert run([*compatible, "--job", "job-1", *server]) == 0
    shown = capsys.readouterr().out
    assert "m5.large" in shown and "m7i.*" in shown and "m6a.*" not in shown
    assert run(["nodes", "compatible", "--job", "job-1", "--json", "--all", *server]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    assert run(["nodes", "compatible", "--job", "job-x", *server]) == 3
    assert "no job" in capsys.readouterr().err
    assert run(["nodes", "compatible", "--job", "job-1", "--server", "http://127.0.0.1:9"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


# Checkpoints on request


def test_a_checkpoint_is_taken(api: httpx.Client) -> None:
    response = api.post("/api/v1/jobs/job-1/checkpoints")
    assert response.status_code == 201
    assert response.json()["number"] == 8
    assert response.json()["checkpoint"]["kind"] == "periodic"


def test_a_job_that_is_not_recorded_yet_is_checkpointed(api: httpx.Client) -> None:
    assert api.post("/api/v1/jobs/job-unrecorded/checkpoints").json()["number"] == 8


def test_why_there_is_no_checkpoint(api: httpx.Client) -> None:
    post = [api.post(f"/api/v1/jobs/job-{word}/checkpoints") for word in ("0", "gone", "x")]
    assert_error(post[0], 409, "not_running", "finished")
    assert_error(post[1], 409, "not_running")
    assert_error(post[2], 404, "unknown_job")
    traced = api.post("/api/v1/jobs/job-traced/checkpoints")
    assert_error(traced, 409, "checkpoint_failed", "a process is being traced")
    refused = api.post("/api/v1/jobs/job-refusing/checkpoints")
    assert_error(refused, 409, "checkpoint_failed", "the update was refused")


def test_a_checkpoint_that_does_not_come_is_504(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.workflows.JobWorkflows.take_checkpoint.__defaults__", (1.0,))
    silent = api.post("/api/v1/jobs/job-silent/checkpoints")
    assert_error(silent, 504, "no_answer", "It may still be taken")


CHANGE = ("PATCH", "/api/v1/configuration/checkpoint")


# What stands before the endpoints


def test_large_bodies_are_refused_however_they_come(api: httpx.Client) -> None:
    body = b" " * (LARGEST_BODY + 1)
    assert_error(api.request(*CHANGE, content=body), 413, "body_too_large")
    chunks = api.request(*CHANGE, content=iter([body]), headers={"Content-Type": "application/json"})
    assert chunks.status_code == 413 and "error" in chunks.json()


def test_other_sites_pages_are_refused(api: httpx.Client) -> None:
    assert_error(api.get("/", headers={"Host": "evil.example"}), 421, "wrong_host")
    post = api.post("/api/v1/jobs/job-1/checkpoints", headers={"Sec-Fetch-Site": "cross-site"})
    assert_error(post, 403, "cross_site")


@pytest.mark.parametrize("path", ["/", "/docs", "/api/v1/jobs", "/nowhere", "/api/v1/jobs?limit=0"])
def test_every_answer_carries_the_security_headers(api: httpx.Client, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_unknown_paths_and_methods_have_the_common_shape(api: httpx.Client) -> None:
    assert_error(api.get("/api/v1/nowhere"), 404, "not_found")
    assert_error(api.delete("/api/v1/jobs"), 405, "method_not_allowed")


def test_the_pages_need_no_other_server(api: httpx.Client) -> None:
    home = api.get("/").text
    assert "Perdure" in home and "http://" not in home and "https://" not in home
    page = api.get("/docs").text
    assert "cdn" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/assets/{asset}" in page
        assert len(api.get(f"/docs/assets/{asset}").content) > 100_000


def test_openapi_describes_every_call(api: httpx.Client) -> None:
    document = api.get("/api/v1/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) >= 10
    assert all(operation["summary"] for operation in operations)
    durations = document["components"]["schemas"]["CheckpointChange"]["properties"]["interval_seconds"]
    assert {"type": "string"} in durations["anyOf"]


# When something is away


def test_health(api: httpx.Client) -> None:
    answer = api.get("/api/v1/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    control = answer.json()["control_worker"]
    assert not control["ok"] and "python -m activities" in control["message"]


@asynccontextmanager
async def control_worker(client: Client) -> AsyncIterator[None]:
    runner = UnsandboxedWorkflowRunner()
    async with working(Worker(client, task_queue=names.CONTROL_QUEUE, workflows=[StubJob], workflow_runner=runner)):
        await until_async(JobWorkflows(client).control_workers, PATIENCE)
        yield


def test_a_control_worker_is_known_by_what_it_asks(api: httpx.Client, temporal: Client, portal: BlockingPortal) -> None:
    with portal.wrap_async_context_manager(control_worker(temporal)):
        assert api.get("/api/v1/health").json()["control_worker"] == {"ok": True, "message": ""}
        assert re.search(r"^perdure_control_workers 1\.0$", api.get("/metrics").text, re.MULTILINE)


def test_without_temporal_reading_goes_on_and_asking_is_503(
    database: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{closed}")
    with served(create_app(ApiSettings(database_url=database[0]))) as url, httpx.Client(base_url=url) as api:
        health = api.get("/api/v1/health", timeout=PATIENCE)
        assert health.status_code == 503
        assert health.json()["database"]["ok"] and not health.json()["temporal"]["ok"]
        assert api.get("/api/v1/jobs/job-1").status_code == 200
        assert_error(api.post("/api/v1/jobs/job-1/checkpoints", timeout=PATIENCE), 503, "temporal_unavailable")
        stored = api.request(*CHANGE, json={"keep": 2}, timeout=PATIENCE)
        assert stored.status_code == 200 and stored.json()["warnings"] and stored.json()["jobs_told"] is None


def test_a_broken_database_is_503(tmp_path: Path, address: None) -> None:
    file = tmp_path / "perdure.db"
    with served(create_app(ApiSettings(database_url=f"sqlite:///{file}"))) as url, httpx.Client(base_url=url) as api:
        assert api.get("/api/v1/jobs").status_code == 200
        with sqlite3.connect(file) as connection:
            listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            listed += " AND name NOT LIKE 'job_texts_search_%'"  # the search's own, which go with it
            for (table,) in connection.execute(listed).fetchall():
                connection.execute(f"DROP TABLE {table}")
        connection.close()
        assert_error(api.get("/api/v1/jobs"), 503, "database_unavailable")
        assert api.get("/api/v1/health").json()["database"]["ok"] is False


def test_only_loopback_counts_as_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "perdure.example", "")] == [False] * 5


# Anything at all

PRINTABLE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FUZZ
@given(
    query=st.dictionaries(
        st.sampled_from(["limit", "cursor", "status", "queue", "after", "state"]), st.text(), max_size=3
    ),
    path=st.sampled_from(["jobs", "jobs/job-1", "jobs/job-1/events", "nodes", "jobs/{}", "{}"]),
    piece=PRINTABLE,
)
def test_no_query_is_a_server_error(api: httpx.Client, query: dict[str, str], path: str, piece: str) -> None:
    url = "/api/v1/" + quote(path.format(piece)) + "?" + urlencode(query)
    assert api.get(url).status_code < 500


# Four models, one meaning


@pytest.mark.parametrize(
    ("wire", "domain"),
    [
        (JobDetail, Job),
        (AttemptView, Attempt),
        (CheckpointView, Checkpoint),
        (OutageView, Outage),
        (EventView, JobEvent),
        (NodeView, Node),
        (NoticeView, Notice),
    ],
)
def test_the_wire_keeps_step_with_the_domain(wire: type[Frozen], domain: type[Frozen]) -> None:
    added = {"log_url"} if "log_url" in wire.model_fields else set[str]()  # made of what the domain holds
    assert set(wire.model_fields) - added == set(domain.model_fields)


def test_a_summary_shows_nothing_that_a_job_lacks() -> None:
    assert set(JobSummary.model_fields) < set(Job.model_fields)
