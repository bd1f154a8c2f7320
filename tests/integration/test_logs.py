"""Kept bundles in both databases, and the API's bundles of jobs and nodes, with a real Temporal dev server."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Engine
from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import Worker

from activities.logs import LogRecords
from activities.worker import worker_options
from api.app import create_app
from perdure.contracts import names
from perdure.contracts.logs import LARGEST_KEPT, CollectedLogs, CollectLogs, KeepLogs, KeptKind, LogActivities
from perdure.domain.configuration import LogConfiguration
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.log_files import MISSING, Archive, members
from perdure.logs import ACCESS, RotatedFile, apply_log_settings
from perdure.records.jobs import log_bundles
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.settings import ApiSettings
from perdure.tracing import Tracing
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working
from workflows.log_collection import LogCollection

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
in_one_loop = pytest.mark.asyncio(loop_scope="module")
"""The Temporal server is the module's, and so is its client's loop."""
HOSTILE = "job:3_with.dots..and:colons"


def bundle(**files: str) -> bytes:
    file = io.BytesIO()
    archive = Archive(file, 1 << 20)
    for name, text in files.items():
        archive.add(name.replace("__", "/").replace("_log", ".log"), text)
    archive.finish()
    return file.getvalue()


def kept(number: int = 0, job_id: str = "job-1", **changes: object) -> KeepLogs:
    return KeepLogs.model_validate(
        {
            "key": f"i-1/{job_id}-{number}",
            "job_id": job_id,
            "instance_id": "i-1",
            "epoch": 1,
            "kind": KeptKind.EXIT,
            "at": NOON + timedelta(minutes=number),
            "content": bundle(container__dump_log=f"dump {number}", agent_log="agent"),
            **changes,
        }
    )


# ------------------------------------------------------------------------------------------------- the records


async def test_a_bundle_is_kept_once_and_only_the_newest_of_a_job_stay(engine: Engine) -> None:
    records, run = LogRecords(engine), ActivityEnvironment().run
    for number in range(log_bundles.MOST_PER_JOB + 3):
        await run(records.keep_logs, kept(number))
        await run(records.keep_logs, kept(number, content=b"another under the same key"))
    await run(records.keep_logs, kept(0, "job-2"))
    for number in range(log_bundles.MOST_PER_NODE + 2):
        await run(records.keep_logs, kept(number, "", key=f"i-1/notice-{number}", epoch=0, kind=KeptKind.NOTICE))
    await run(records.keep_logs, kept(99, content=b"x" * (LARGEST_KEPT + 1)))
    with reading(engine) as session:
        found = list(log_bundles.of_job(session, "job-1"))
        assert [one.at for one, _ in found] == [NOON + timedelta(minutes=number) for number in range(14, 2, -1)]
        assert dict(members(found[0][1]))["container/dump.log"] == b"dump 14"
        assert found[0][0].size == len(found[0][1])
        assert len(list(log_bundles.of_job(session, "job-2"))) == 1
        of_node = [one for one, _ in log_bundles.of_node(session, "i-1")]
        assert len(of_node) == log_bundles.MOST_PER_JOB
    with writing(engine) as session:
        assert log_bundles.forget(session, before=NOON + timedelta(minutes=4), job_ids=["job-2"]) == 4
    with reading(engine) as session:
        assert list(log_bundles.of_job(session, "job-2")) == []


# ----------------------------------------------------------------------------------------------------- the API


class AgentOfI1(LogActivities):
    @activity.defn(name="collect_logs")
    async def collect_logs(self, request: CollectLogs) -> CollectedLogs:
        assert request.containers == (["c-1"] if request.job_id else [])
        said = f"of {request.job_id or 'the node'}"
        return CollectedLogs(
            content=bundle(
                agent_log=said, containers__c__runtime_log="runc", containers__c__output_log="line 1\nline 2\n"
            )
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with await dev_server() as environment:
        yield environment


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest_asyncio.fixture(loop_scope="module")
async def api(
    tmp_path: Path, temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch, spans: InMemorySpanExporter
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", str(temporal.client.service_client.config.target_host))
    settings = ApiSettings(database_url=f"sqlite:///{tmp_path}/perdure.db", log_file=tmp_path / "api.log")
    _fill(settings.database_url)
    (tmp_path / "api.log").write_text(
        "".join(
            json.dumps({"event": event, "timestamp": at.isoformat()}) + "\n"
            for event, at in (("long before", NOON - timedelta(hours=3)), ("while it ran", NOON + timedelta(minutes=5)))
        )
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing = Tracing(provider)
    app: FastAPI = create_app(settings, tracing)
    traced = await Client.connect(
        temporal.client.service_client.config.target_host,
        data_converter=pydantic_data_converter,
        interceptors=tracing.interceptors(),
    )
    control = Worker(traced, task_queue=names.CONTROL_QUEUE, workflows=[LogCollection], **worker_options(10))
    node = Worker(traced, task_queue=names.node_queue("i-1"), activities=[AgentOfI1().collect_logs])
    async with working(control, node), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=PATIENCE) as client:
            yield client


def _fill(url: str) -> None:
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as session:
        for job_id, instance_id in (("job-1", "i-1"), (HOSTILE, "i-gone"), ("never-started", "")):
            attempts = [
                Attempt(epoch=1, attempt=1, instance_id=instance_id, zone="z", container_id="c-1", accepted_at=NOON)
            ]
            job = Job(
                job_id=job_id,
                state=JobState.RUNNING if job_id == "never-started" else JobState.SUCCEEDED,
                created_at=NOON,
                finished_at=NOON + timedelta(minutes=10),
                attempts=attempts if instance_id else [],
            )
            events = [JobEvent(sequence=1, at=NOON, kind="attached", message="here")]
            record_job(session, job, events, 1)
        for instance_id, state in (("i-1", NodeState.READY), ("i-gone", NodeState.GONE)):
            record_node(session, Node(instance_id=instance_id, zone="z", state=state, changed_at=NOON))
        for one in (kept(1), kept(2, HOSTILE, instance_id="i-gone", key="hostile"), kept(3, "job-1", content=b"junk")):
            fields = one.model_dump(exclude={"content"}) | {"size": len(one.content)}
            log_bundles.keep(session, log_bundles.KeptBundle.model_validate(fields), one.content)
    engine.dispose()


def unpacked(answer: httpx.Response) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist()}
    for name in found:
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert ":" not in name
    return found


@in_one_loop
async def test_a_jobs_bundle_has_what_was_kept_and_what_its_node_says_now(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/v1/jobs/job-1/logs")
    assert answer.headers["content-disposition"] == 'attachment; filename="perdure-job-job-1-logs.zip"'
    found = unpacked(answer)
    assert found["live/i-1/agent.log"] == b"of job-1"
    assert found["kept/20260301T120100Z-exit-i-1-job-1-epoch-1/container/dump.log"] == b"dump 1"
    assert json.loads(found["job.json"])["job_id"] == "job-1"
    assert [line["message"] for line in json.loads(found["timeline.json"])] == ["here"]
    assert json.loads(found["checkpoints.json"]) == []
    assert isinstance(json.loads(found["ledger.json"]), list)
    assert b"while it ran" in found["server/server.log"]
    assert b"long before" not in found["server/server.log"]
    assert b"not a readable zip archive" in found[MISSING]


@in_one_loop
async def test_a_node_that_is_gone_and_an_id_full_of_signs(api: httpx.AsyncClient) -> None:
    answer = await api.get(f"/api/v1/jobs/{HOSTILE}/logs")
    assert ".." not in answer.headers["content-disposition"]
    found = unpacked(answer)
    assert b"i-gone is gone." in found[MISSING]
    assert [text for name, text in found.items() if name.endswith("container/dump.log")] == [b"dump 2"]
    missing = unpacked(await api.get("/api/v1/jobs/never-started/logs"))[MISSING].decode()
    assert "no node has had a container of this job yet" in missing
    assert "no node has sent logs" in missing


@in_one_loop
async def test_a_nodes_bundle_to_look_at(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/v1/nodes/i-1/logs", params={"format": "json"})
    assert answer.status_code == 200, answer.text
    files = {file["name"]: file for file in answer.json()["files"]}
    assert files["live/i-1/agent.log"] == {
        "name": "live/i-1/agent.log",
        "size": 11,
        "text": "of the node",
        "cut": False,
    }
    assert "node.json" in files
    assert unpacked(await api.get("/api/v1/nodes/i-1/logs"))["live/i-1/agent.log"] == b"of the node"


@in_one_loop
async def test_one_request_is_one_trace_from_the_api_through_the_workflow_to_the_node(
    api: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    for path in ("/api/v1/health", "/api/v1/auth?code=secret", "/metrics", "/"):
        await api.get(path)
    assert spans.get_finished_spans() == ()
    answer = await api.get("/api/v1/nodes/i-1/logs", headers={"baggage": "stranger=here"})
    assert answer.status_code == 200
    found = {span.context.span_id: span for span in spans.get_finished_spans() if span.context is not None}
    below = next(span for span in found.values() if span.name == "RunActivity:collect_logs")
    way = [below.name]
    while below.parent is not None:
        below = found[below.parent.span_id]
        way.append(below.name)
    assert way == [
        "RunActivity:collect_logs",
        "StartActivity:collect_logs",
        "StartWorkflow:LogCollection",
        "GET /api/v1/nodes/{instance_id}/logs",
    ]
    assert "RunWorkflow:LogCollection" in {span.name for span in found.values()}


@in_one_loop
async def test_what_is_refused_has_the_one_shape(api: httpx.AsyncClient) -> None:
    for path, status in (
        ("/api/v1/jobs/nobody/logs", 404),
        ("/api/v1/nodes/i-unknown/logs", 404),
        ("/api/v1/nodes/..%2f..%2fetc/logs", 404),
        ("/api/v1/nodes/i_1/logs", 422),
        ("/api/v1/jobs/job-1/logs?format=tar", 422),
        ("/nodes/i-1/agent.log", 422),
        ("/api/v1/nodes/i-1/..%2f..%2fetc%2fpasswd", 404),
        ("/nodes/i-1/shadow", 422),
        ("/nodes/i-gone/mmrunc.log", 404),
        ("/api/v1/nodes/i-unknown/files", 404),
    ):
        answer = await api.get(path)
        assert answer.status_code == status, f"{path}: {answer.text}"
        assert set(answer.json()["error"]) == {"code", "message", "details"}


@in_one_loop
async def test_the_reference_products_paths(api: httpx.AsyncClient) -> None:
    listed = {file["name"]: file["size"] for file in (await api.get("/api/v1/nodes/i-1/files")).json()}
    assert set(listed) == {"pagent.log", "mmrunc.log", "output.log"}
    for name, said in (("pagent.log", "of the node"), ("mmrunc.log", "runc"), ("output.log", "line 2")):
        answer = await api.get(f"/nodes/i-1/{name}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert said in answer.text
        assert len(answer.content) == listed[name]
    assert "while it ran" in (await api.get("/mmab.log")).text
    lines = [json.loads(line) for line in (await api.get("/mmab-access.log")).text.splitlines()]
    assert [(line["path"], line["status"], line["who"]) for line in lines][-1] == ("/mmab.log", 200, "local")


@in_one_loop
async def test_viewers_do_not_get_the_servers_own_logs(api: httpx.AsyncClient) -> None:
    made = await api.post("/api/v1/tokens", json={"name": "looks", "role": "viewer"})
    as_viewer = {"Authorization": f"Bearer {made.json()['token']}"}
    found = unpacked(await api.get("/api/v1/jobs/job-1/logs", headers=as_viewer))
    assert found["live/i-1/agent.log"] == b"of job-1"
    assert not [name for name in found if name.startswith("server/")]
    assert b"only admins get the server's own logs" in found[MISSING]
    assert not [text for text in found.values() if b"while it ran" in text]
    for path in ("/mmab.log", "/mmab-access.log"):
        assert (await api.get(path, headers=as_viewer)).json()["error"]["code"] == "not_allowed"


@in_one_loop
async def test_the_access_log_has_one_line_a_request_and_no_secrets(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.get("/api/v1/jobs?q=s3cr3t", headers={"Authorization": "Bearer prd_s3cr3t"})
    await api.get("/api/v1/jobs/x%0a{%22forged%22:1}%0a/logs")
    text = (tmp_path / "api-access.log").read_text()
    assert "s3cr3t" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines] == [401, 404]
    assert lines[1]["path"] == '/api/v1/jobs/x\n{"forged":1}\n/logs'
    apply_log_settings(LogConfiguration(max_size_mb=3, max_backups=2), 1, level_fixed=True)
    (writer,) = [one for one in logging.getLogger(ACCESS).handlers if isinstance(one, RotatedFile)]
    assert (writer.maxBytes, writer.backupCount) == (3_000_000, 2)
    assert set(lines[0]) == {"timestamp", "client", "who", "via", "method", "path", "status", "bytes", "ms"}


@in_one_loop
async def test_what_cannot_be_resumed_is_refused_before_anybody_is_asked(api: httpx.AsyncClient) -> None:
    for job_id, key, status, code in (
        ("nobody", "k", 404, "unknown_job"),
        ("never-started", "k", 409, "not_resumable"),
        ("job-1", "a b", 422, "invalid_request"),
        ("job-1", "k" * 65, 422, "invalid_request"),
    ):
        answer = await api.post(f"/api/v1/jobs/{job_id}/resume", headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
