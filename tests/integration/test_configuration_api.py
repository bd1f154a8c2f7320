"""The configuration over the API: on both databases, with a real Temporal server to tell running jobs and nodes."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from api.app import create_app
from api.configuration.models import CHANGES
from api.configuration.server_section import validate_server
from localcloud.stack.waiting import free_port
from perdure.contracts import names
from perdure.domain.access import USUAL_LIFE, Role
from perdure.domain.configuration import CheckpointConfiguration, ServerConfiguration, SystemConfiguration
from perdure.domain.jobs import Job, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.domain.volumes import VolumeLife
from perdure.records.access.tokens import create_token, revoke_token
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.tables import ConfigurationRow
from perdure.records.settings.configuration import current_configuration, save_configuration
from perdure.settings import ApiSettings
from perdure.waiting import until
from tests.documents.book import told
from tests.integration.agent_bed import Node as RealNode
from tests.integration.postgres_bed import running_postgres
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@workflow.defn(name=names.JOB_PROTECTION)
class ToldJob:
    """A job's workflow, as far as it hears of the configuration."""

    def __init__(self) -> None:
        self._told = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def configuration_changed(self) -> None:
        self._told += 1

    @workflow.query
    def told(self) -> int:
        return self._told


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, for Temporal's client."""
    with start_blocking_portal() as portal:
        yield portal


@asynccontextmanager
async def a_job_at_work() -> AsyncIterator[Client]:
    async with await dev_server(dev_server_log_level="error") as environment:
        client = environment.client
        runner = UnsandboxedWorkflowRunner()
        async with working(Worker(client, task_queue="stub", workflows=[ToldJob], workflow_runner=runner)):
            await client.start_workflow(names.JOB_PROTECTION, id=names.job_workflow_id("job-1"), task_queue="stub")
            yield client


@pytest.fixture(scope="module")
def temporal(portal: BlockingPortal) -> Iterator[Client]:
    with portal.wrap_async_context_manager(a_job_at_work()) as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
        patch.delenv("PERDURE_LOG_LEVEL", raising=False)
        yield client


on_both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True, scope="module")
"""For tests of what is stored and how; the others take SQLite."""


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('configuration')}/perdure.db"
    else:
        with running_postgres() as server:
            yield server.new_database()


@pytest.fixture(scope="module")
def engine(database: str) -> Iterator[Engine]:
    engine = open_engine(database)
    migrate(engine)
    yield engine
    engine.dispose()


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """The application on a real server, in a thread of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            # The listener is bound already: the first request waits until the application is ready.
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def serving(engine: Engine, database: str, temporal: Client) -> Iterator[httpx.Client]:
    level = logging.getLogger().level
    with served(create_app(ApiSettings(database_url=database))) as client:
        yield client
    logging.getLogger().setLevel(level)  # the application follows the configured one


@pytest.fixture
def api(serving: httpx.Client, engine: Engine) -> httpx.Client:
    """With the defaults, whatever a test before has left."""
    with writing(engine) as session:
        if current_configuration(session) != SystemConfiguration():
            save_configuration(session, SystemConfiguration(), at=datetime.now(UTC), by="a test")
    return serving


def change(api: httpx.Client, section: str, fields: dict[str, Any], **headers: str) -> httpx.Response:
    return api.patch(f"/api/v1/configuration/{section}", json=fields, headers=headers)


def assert_refused(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code and set(error) == {"code", "message", "details"}
    for word in words:
        assert word in response.text, response.text


# Reading and changing


@on_both
def test_all_sections_are_read_with_their_defaults(api: httpx.Client) -> None:
    answer = api.get("/api/v1/configuration")
    whole = answer.json()
    assert answer.headers["ETag"] == f'"{whole["number"]}"'
    for section in CHANGES:
        one = api.get(f"/api/v1/configuration/{section}")
        assert one.json() == whole[section] and one.headers["ETag"] == answer.headers["ETag"]
    assert whole["checkpoint"]["interval_seconds"] == 900 and whole["job_volume"]["volume_type"] == "gp3"
    assert whole["log"] == {
        "level": "info", "max_size_mb": 10, "max_backups": 10, "node_max_size_mb": 2, "node_total_mb": 1024
    }  # fmt: skip
    assert whole["server"]["address"] == "127.0.0.1" and whole["cognito"]["admin_groups"] == ["admin"]


@on_both
def test_patch_merges_null_resets_and_put_replaces(api: httpx.Client) -> None:
    first = change(api, "checkpoint", {"interval_seconds": "15s", "keep": 3}).json()
    assert first["changes"] == [
        {"field": "checkpoint.interval_seconds", "old": 900.0, "new": 15.0},
        {"field": "checkpoint.keep", "old": 2, "new": 3},
    ]
    merged = change(api, "checkpoint", {"keep": None}).json()["configuration"]["checkpoint"]
    assert (merged["interval_seconds"], merged["keep"]) == (15.0, 2)
    replaced = api.put("/api/v1/configuration/checkpoint", json={"diagnosis": True}).json()["configuration"]
    assert (replaced["checkpoint"]["interval_seconds"], replaced["checkpoint"]["diagnosis"]) == (900.0, True)
    same = api.put("/api/v1/configuration/checkpoint", json={"diagnosis": True}).json()
    assert same["changes"] == [] and same["number"] == replaced["number"]


@on_both
def test_many_sections_change_at_once_or_not_at_all(api: httpx.Client) -> None:
    before = api.get("/api/v1/configuration").json()
    wish: dict[str, Any] = {"checkpoint": {"keep": 5}, "job_volume": {"tags": {"team": "science"}, "size_gib": -1}}
    assert_refused(api.patch("/api/v1/configuration", json=wish), 422, "invalid_request", "body.job_volume.size_gib")
    assert api.get("/api/v1/configuration").json() == before
    wish["job_volume"]["size_gib"] = 20
    assert api.patch("/api/v1/configuration", json=wish).json()["configuration"]["job_volume"]["size_gib"] == 20
    reset = api.patch("/api/v1/configuration", json={"job_volume": None}).json()["configuration"]
    assert reset["job_volume"] == before["job_volume"] and reset["checkpoint"]["keep"] == 5
    whole = {section: reset[section] for section in CHANGES} | {"checkpoint": {}}
    assert api.put("/api/v1/configuration", json=whole).json()["configuration"]["checkpoint"] == before["checkpoint"]
    del whole["cognito"]
    assert_refused(api.put("/api/v1/configuration", json=whole), 422, "invalid_request", "body.cognito", "required")


@on_both
def test_an_etag_guards_against_overwriting(api: httpx.Client) -> None:
    etag = api.get("/api/v1/configuration/checkpoint").headers["ETag"]
    first = change(api, "checkpoint", {"keep": 4}, **{"If-Match": etag})
    assert first.status_code == 200 and first.headers["ETag"] != etag
    assert_refused(change(api, "checkpoint", {"keep": 5}, **{"If-Match": etag}), 412, "out_of_date", "read it again")
    assert api.get("/api/v1/configuration/checkpoint").json()["keep"] == 4
    assert change(api, "log", {"max_backups": 3}, **{"If-Match": f'"x", {first.headers["ETag"]}'}).status_code == 200
    assert change(api, "log", {"max_backups": 4}, **{"If-Match": "*"}).status_code == 200
    assert change(api, "log", {"max_backups": 5}).status_code == 200


@on_both
def test_of_writers_at_the_same_time_one_wins(api: httpx.Client) -> None:
    etag = api.get("/api/v1/configuration").headers["ETag"]

    def write(keep: int) -> int:
        return change(api, "checkpoint", {"keep": keep}, **{"If-Match": etag}).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(write, range(3, 9)))
    assert statuses == [200, 412, 412, 412, 412, 412]
    with ThreadPoolExecutor(3) as pool:  # without the guard all are stored, one after another
        fields = [("log", {"max_backups": 1}), ("job_volume", {"size_gib": 7}), ("checkpoint", {"diagnosis": True})]
        assert [answer.status_code for answer in pool.map(lambda wish: change(api, *wish), fields)] == [200] * 3
    now = api.get("/api/v1/configuration").json()
    assert (now["log"]["max_backups"], now["job_volume"]["size_gib"], now["checkpoint"]["diagnosis"]) == (1, 7, True)


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("checkpoint", {"interval_seconds": "-5m"}, ["body.interval_seconds", "write for example 15m"]),
        ("checkpoint", {"interval_seconds": "banana"}, ["body.interval_seconds", "write for example 15m"]),
        ("checkpoint", {"interval_seconds": 0.5}, ["body.interval_seconds", "at least 1 second"]),
        ("checkpoint", {"interval_seconds": -1}, ["body.interval_seconds", "greater than or equal to 0"]),
        ("checkpoint", {"interval_seconds": True}, ["body.interval_seconds", "number of seconds"]),
        ("checkpoint", {"keep": 0}, ["body.keep", "greater than or equal to 1"]),
        ("checkpoint", {"keep": "2"}, ["body.keep", "valid integer"]),
        ("checkpoint", {"enabled": "yes"}, ["body.enabled", "valid boolean"]),
        ("checkpoint", {"mode": "on"}, ["body.mode", "not permitted"]),
        ("checkpoint", {"reserve_mib": 10**40}, ["body.reserve_mib"]),
        ("job_volume", {"volume_type": "floppy"}, ["body.volume_type", "'io1' or 'io2'"]),
        ("job_volume", {"mount_path": "/etc"}, ["body.mount_path", "folder of its own"]),
        ("job_volume", {"tags": {"aws:x": "y"}}, ["body.tags", "taken"]),
        ("job_volume", {"tags": {"a\nb": "y"}}, ["body.tags", "letters"]),
        ("job_volume", {"scratch": ["../x"]}, ["body.scratch", "absolute"]),
        ("log", {"level": "loud"}, ["body.level", "'debug', 'info', 'warning'"]),
        ("log", {"max_size_mb": 0}, ["body.max_size_mb", "greater than or equal to 1"]),
        ("server", {"address": "example.com"}, ["body.address", "IP address"]),
        ("server", {"port": 70000}, ["body.port", "less than or equal to 65535"]),
        ("server", {"cert_file": "/x"}, ["go together"]),
        ("server", {"cert_file": "x", "key_file": "/y"}, ["body.cert_file", "absolute path"]),
        ("cognito", {"enabled": True}, ["cannot be enabled without region, user_pool_id, client_id"]),
        ("cognito", {"region": "moon"}, ["body.region"]),
        ("cognito", {"admin_groups": ["a b"]}, ["body.admin_groups.0"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    api: httpx.Client, section: str, fields: dict[str, Any], words: list[str]
) -> None:
    number = api.get("/api/v1/configuration").json()["number"]
    assert_refused(change(api, section, fields), 422, "invalid_request", *words)
    assert api.get("/api/v1/configuration").json()["number"] == number


def test_zero_turns_periodic_checkpoints_off(api: httpx.Client) -> None:
    assert (
        change(api, "checkpoint", {"interval_seconds": "0"}).json()["configuration"]["checkpoint"]["interval_seconds"]
        == 0
    )


@on_both
def test_history_tells_who_changed_what(api: httpx.Client) -> None:
    for keep in (3, 4, 5):
        change(api, "checkpoint", {"keep": keep, "diagnosis": keep == 5})
    first = api.get("/api/v1/configuration/history", params={"limit": 2}).json()
    newest, before = first["items"]
    assert newest["by"] == "local" and newest["number"] > before["number"]
    assert newest["changes"] == [
        {"field": "checkpoint.diagnosis", "old": False, "new": True},
        {"field": "checkpoint.keep", "old": 4, "new": 5},
    ]
    assert before["changes"] == [{"field": "checkpoint.keep", "old": 3, "new": 4}]
    seen, cursor = [newest["number"], before["number"]], first["next"]
    while cursor is not None:
        page = api.get("/api/v1/configuration/history", params={"limit": 2, "cursor": cursor}).json()
        seen, cursor = seen + [item["number"] for item in page["items"]], page["next"]
    assert seen == list(range(seen[0], 0, -1))
    assert_refused(api.get("/api/v1/configuration/history?cursor=nonsense"), 422, "invalid_request", "cursor")


@on_both
def test_what_older_versions_stored_still_loads(api: httpx.Client, engine: Engine) -> None:
    number = api.get("/api/v1/configuration").json()["number"]
    old = {"checkpoint": {"interval_seconds": 60.0, "gone_since": 1}, "job_volume": {"size_gib": 50}, "later": {}}
    with writing(engine) as session:
        session.add(ConfigurationRow(number=number + 1, at=NOON, by="an old one", configuration=old))
    now = api.get("/api/v1/configuration").json()
    assert (now["checkpoint"]["interval_seconds"], now["job_volume"]["size_gib"]) == (60.0, 50)
    assert now["log"]["level"] == "info" and now["changed_by"] == "an old one"
    assert change(api, "checkpoint", {"keep": 7}).json()["configuration"]["job_volume"]["size_gib"] == 50


def test_what_a_stricter_release_refuses_has_its_default_and_can_be_set_anew(api: httpx.Client, engine: Engine) -> None:
    number = api.get("/api/v1/configuration").json()["number"]
    stored = SystemConfiguration().model_dump(mode="json")
    stored["job_volume"] |= {"mount_path": "/proc/jobs", "volume_type": "io2", "tags": {"team": "genomics"}}
    stored["checkpoint"]["keep"] = 1000
    with writing(engine) as session:
        session.add(ConfigurationRow(number=number + 1, at=NOON, by="an old release", configuration=stored))
    held = api.get("/api/v1/configuration").json()
    assert (held["number"], held["checkpoint"]["keep"]) == (number + 1, 2)
    volume = held["job_volume"]
    assert (volume["mount_path"], volume["volume_type"], volume["tags"]) == (
        "/mnt/perdure",
        "gp3",
        {"team": "genomics"},
    )
    assert api.get("/api/v1/configuration/history").status_code == 200
    assert change(api, "checkpoint", {"keep": 3}).json()["configuration"]["checkpoint"]["keep"] == 3


def test_running_jobs_hear_of_checkpoints_only(api: httpx.Client, temporal: Client, portal: BlockingPortal) -> None:
    handle = temporal.get_workflow_handle(names.job_workflow_id("job-1"))
    before = portal.call(handle.query, ToldJob.told)
    answer = change(api, "checkpoint", {"interval_seconds": 20}).json()
    assert (answer["jobs_told"], answer["nodes_told"], answer["warnings"]) == (1, None, [])
    assert portal.call(handle.query, ToldJob.told) == before + 1
    answer = change(api, "job_volume", {"size_gib": 20}).json()
    assert answer["jobs_told"] is None and "volumes made from now on" in answer["notes"][0]
    assert portal.call(handle.query, ToldJob.told) == before + 1


def test_nodes_that_are_there_hear_how_to_log(
    api: httpx.Client, engine: Engine, temporal: Client, portal: BlockingPortal
) -> None:
    with writing(engine) as session:
        record_node(session, Node(instance_id="i-here", zone="z", changed_at=NOON))
        record_node(session, Node(instance_id="i-gone", zone="z", changed_at=NOON, state=NodeState.GONE))
    answer = change(api, "log", {"level": "debug"}).json()
    assert (answer["jobs_told"], answer["nodes_told"], answer["warnings"]) == (None, 1, [])
    handle = temporal.get_workflow_handle(names.node_workflow_id("i-here"))
    first, heard = portal.call(handle.fetch_history).events[:2]
    assert first.workflow_execution_started_event_attributes.workflow_type.name == names.NODE_WATCH
    assert heard.workflow_execution_signaled_event_attributes.signal_name == "log_settings_changed"
    portal.call(handle.terminate)


# One job


def test_each_value_of_a_job_names_its_source(api: httpx.Client, engine: Engine) -> None:
    environment = {
        "PERDURE_CHECKPOINT_INTERVAL": "15m",
        "MMC_CHECKPOINT_DIAGNOSIS": "perhaps",
        "MMC_CHECKPOINT_IMAGE_PATH": "/mmc-checkpoint",
    }
    with writing(engine) as session:
        record_job(session, Job(job_id="job-c", created_at=NOON, environment=environment), [], 1)
    change(api, "checkpoint", {"keep": 3})
    answer = api.get("/api/v1/jobs/job-c/configuration").json()
    found = {each["field"]: each for each in answer["settings"]}
    interval = found["checkpoint.interval_seconds"]
    assert (interval["value"], interval["source"]) == (900.0, "environment")
    assert interval["words"] == "15m, from the job's environment (PERDURE_CHECKPOINT_INTERVAL)"
    assert found["checkpoint.keep"]["words"] == "3, from the system's configuration"
    assert found["checkpoint.predump"]["words"] == "on, the default"
    assert found["checkpoint.diagnosis"]["source"] == "default"
    assert "MMC_CHECKPOINT_DIAGNOSIS is not usable: 'perhaps'" in found["checkpoint.diagnosis"]["words"]
    assert [each["name"] for each in answer["without_effect"]] == ["MMC_CHECKPOINT_IMAGE_PATH"]
    assert answer["as_of"] is None
    assert_refused(api.get("/api/v1/jobs/job-x/configuration"), 404, "unknown_job")


@on_both
def test_a_finished_job_is_shown_with_what_held_then(api: httpx.Client, engine: Engine) -> None:
    number = api.get("/api/v1/configuration").json()["number"]
    for later, keep in enumerate((6, 8)):
        with writing(engine) as session:
            version = SystemConfiguration(checkpoint=CheckpointConfiguration(keep=keep))
            at = NOON + timedelta(days=later, hours=later)
            row = ConfigurationRow(number=number + 1 + later, at=at, by="x", configuration=version.model_dump())
            session.add(row)
    end = NOON + timedelta(hours=5)
    volume = VolumeLife(volume_id="vol-1", zone="a", volume_type="gp3", size_gib=9, created_at=NOON)
    done = Job(job_id="job-d", created_at=NOON, state=JobState.SUCCEEDED, finished_at=end, volumes=[volume])
    with writing(engine) as session:
        record_job(session, done, [], 1)
    answer = api.get("/api/v1/jobs/job-d/configuration").json()
    found = {each["field"]: each["value"] for each in answer["settings"]}
    assert answer["as_of"] == "2026-03-01T17:00:00Z" and found["checkpoint.keep"] == 6


# The server section


def certificate(folder: Path, name: str, *, days: tuple[int, int] = (-1, 30)) -> tuple[str, str]:
    """Paths of a self-signed certificate that is valid between these days from now, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.touch(0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(cert_file), str(key_file)


def test_a_port_that_is_taken_is_refused(api: httpx.Client) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert_refused(change(api, "server", {"port": port}), 422, "invalid_request", "body.port", "another program")
        whole = api.patch("/api/v1/configuration", json={"server": {"port": port}})
        assert_refused(whole, 422, "invalid_request", "body.server.port")
    wrong = change(api, "server", {"address": "203.0.113.7", "port": free_port()})
    assert_refused(wrong, 422, "invalid_request", "body.address", "cannot listen")


def test_an_address_that_strangers_reach_needs_a_sign_in_and_a_certificate(
    api: httpx.Client, engine: Engine, tmp_path: Path
) -> None:
    reachable = {"address": "0.0.0.0", "port": free_port()}
    assert_refused(change(api, "server", reachable), 422, "invalid_request", "body.address", "nobody could sign in")
    with writing(engine) as session:
        now = datetime.now(UTC)
        made = create_token(session, name="ops", role=Role.ADMIN, areas=(), at=now, by="x", life=USUAL_LIFE)
    assert_refused(change(api, "server", reachable), 422, "invalid_request", "body.address", "without TLS")
    cert_file, key_file = certificate(tmp_path, "own")
    answer = change(api, "server", {**reachable, "cert_file": cert_file, "key_file": key_file})
    assert answer.status_code == 200 and any("Address 0.0.0.0" in note for note in answer.json()["notes"])
    with writing(engine) as session:
        revoke_token(session, made[0].number, at=datetime.now(UTC), by="x")


def test_its_own_port_is_not_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as own:
        port = own.getsockname()[1]
        now = ServerConfiguration(port=port)
        assert validate_server(ServerConfiguration(port=port), now) == []
        assert validate_server(ServerConfiguration(port=port, address="0.0.0.0"), now) == []
        assert [each.field for each in validate_server(ServerConfiguration(port=port), ServerConfiguration())] == [
            "port"
        ]


def test_what_needs_a_restart_is_said(api: httpx.Client, tmp_path: Path) -> None:
    port = free_port()
    cert_file, key_file = certificate(tmp_path, "first")
    notes = change(api, "server", {"port": port, "cert_file": cert_file, "key_file": key_file}).json()["notes"]
    assert notes == [
        f"Port {port} takes effect after a restart of the server.",
        "TLS takes effect after a restart of the server.",
    ]
    cert_file, key_file = certificate(tmp_path, "second")
    notes = change(api, "server", {"cert_file": cert_file, "key_file": key_file}).json()["notes"]
    assert len(notes) == 1 and "without a restart" in notes[0]


def test_a_certificate_that_cannot_be_served_is_refused(api: httpx.Client, tmp_path: Path) -> None:
    good, key = certificate(tmp_path, "good")
    expired, expired_key = certificate(tmp_path, "expired", days=(-9, -2))
    early, early_key = certificate(tmp_path, "early", days=(2, 9))
    _, other_key = certificate(tmp_path, "other")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "text").chmod(0o600)
    for cert_file, key_file, words in (
        ("/nowhere/x.crt", key, ["body.cert_file", "No such file"]),
        (str(tmp_path), key, ["body.cert_file", "plain file"]),
        ("/dev/zero", key, ["body.cert_file", "plain file"]),
        (str(tmp_path / "text"), key, ["body.cert_file", "not a certificate in PEM"]),
        (good, str(tmp_path / "text"), ["body.key_file", "not a usable, unencrypted key"]),
        (good, other_key, ["body.key_file", "does not belong"]),
        (expired, expired_key, ["body.cert_file", "expired on"]),
        (early, early_key, ["body.cert_file", "not valid before"]),
    ):
        answer = change(api, "server", {"cert_file": cert_file, "key_file": key_file})
        assert_refused(answer, 422, "invalid_request", *words)


def test_the_environment_wins_and_is_shown(database: str, engine: Engine, temporal: Client) -> None:
    own = ApiSettings(database_url=database, api_port=8099, log_level="warning")
    level = logging.getLogger().level
    with served(create_app(own)) as api:
        shown = api.get("/api/v1/configuration").json()["overridden"]
        assert {(each["field"], each["variable"], each["value"]) for each in shown} == {
            ("server.port", "PERDURE_API_PORT", 8099),
            ("log.level", "PERDURE_LOG_LEVEL", "warning"),
        }
        notes = change(api, "server", {"port": 8099}).json()["notes"]
        assert any("PERDURE_API_PORT is set" in note for note in notes)
        notes = change(api, "log", {"level": "error"}).json()["notes"]
        assert any("PERDURE_LOG_LEVEL" in note for note in notes)
        change(api, "server", {"port": None})
    logging.getLogger().setLevel(level)


# As MMBatch's scripts ask


def test_its_configuration_has_its_shape(api: httpx.Client) -> None:
    answer = api.get("/api/v1/config").json()
    assert answer["addr"] == "http://127.0.0.1:8080"
    assert answer["ckpt"] == {
        "ckptMode": "iterative",
        "ckptInterval": "15m0s",
        "diagnosisMode": False,
        "ckptImagePath": "/mmc-checkpoint",
        "ckptFiles": [],
        "IRMapScanPaths": [],
        "ckptOnSigTerm": False,
        "rootFSDiff": True,
        "cloudWatchMode": False,
        "tcpClose": False,
    }
    assert answer["node"] == {
        "heartbeat": "30s",
        "ttl": "5m0s",
        "maxPerLogSizeMB": 2,
        "maxNodeLogTotalMB": 1024,
        "cleanLogInterval": "12h0m0s",
    }
    assert answer["job"]["ebsPerJob"] is True and answer["job"]["diskSizeGB"] == 0
    assert (answer["job"]["successTTL"], answer["job"]["failureTTL"]) == ("72h0m0s", "168h0m0s")
    assert answer["security"]["cognito"]["adminGroups"] == ["admin"] and answer["security"]["certFile"] == ""
    assert answer["log"] == {"level": "info", "maxSizeMB": 10, "maxBackups": 10}


def test_its_keys_are_changed_as_text(api: httpx.Client) -> None:
    port = free_port()
    answer = api.put(
        "/api/v1/configKV",
        json={
            "kvMap": {
                "ckpt.ckptInterval": "5m",
                "ckpt.ckptMode": "none",
                "ckpt.diagnosisMode": "true",
                "job.customTags": "owner:cedric,team:engineer",
                "job.diskSizeGB": "500",
                "job.ebsPerJob": "false",
                "job.successTTL": "10h",
                "security.cognito.adminGroups": "admin,ops",
                "addr": f"https://127.0.0.2:{port}",
                "node.maxPerLogSizeMB": "5",
                "log.level": "warn",
            }
        },
    )
    assert answer.status_code == 200, answer.text
    shape = answer.json()
    assert (shape["ckpt"]["ckptInterval"], shape["ckpt"]["ckptMode"]) == ("5m0s", "none")
    assert shape["job"]["customTags"] == {"owner": "cedric", "team": "engineer"}
    assert any(f"Port {port} takes effect after a restart" in note for note in shape["notes"])
    ours = api.get("/api/v1/configuration").json()
    assert ours["checkpoint"]["interval_seconds"] == 300 and not ours["checkpoint"]["enabled"]
    assert (ours["job_volume"]["size_gib"], ours["job_volume"]["enabled"]) == (500, False)
    assert ours["server"]["keep_succeeded_seconds"] == 36_000 and ours["server"]["address"] == "127.0.0.2"
    assert ours["cognito"]["admin_groups"] == ["admin", "ops"] and ours["log"]["level"] == "warning"


def test_keys_without_effect_are_accepted_kept_and_said(api: httpx.Client) -> None:
    keys = {"ckpt.tcpClose": "true", "node.heartbeat": "10s", "ckpt.ckptFiles": "/a,/b", "node.ttl": "5m"}
    answer = api.put("/api/v1/configKV", json={"kvMap": keys}).json()
    assert (answer["ckpt"]["tcpClose"], answer["node"]["heartbeat"]) == (True, "10s")
    assert answer["ckpt"]["ckptFiles"] == ["/a", "/b"]
    assert sum("without effect:" in note for note in answer["notes"]) == len(keys)
    shown = {each["name"]: each for each in api.get("/api/v1/configuration").json()["without_effect"]}
    assert set(shown) == set(keys) and "loopback" in shown["ckpt.tcpClose"]["why"]


def test_aws_keys_are_dropped_and_said(api: httpx.Client, engine: Engine) -> None:
    secret = "wJalrXUtnFEMI-not-a-real-key"
    keys = {"security.cognito.secretKey": secret, "security.cognito.accessKey": secret, "ckpt.ckptInterval": "7m"}
    answer = api.put("/api/v1/configKV", json={"kvMap": keys})
    assert answer.status_code == 200 and secret not in answer.text
    assert sum("was dropped" in note for note in answer.json()["notes"]) == 2
    with reading(engine) as session:
        assert secret not in current_configuration(session).model_dump_json()


def test_its_documented_example_changes_checkpoints(api: httpx.Client) -> None:
    body = {"ckptMode": "iterative", "ckptInterval": "15m", "diagnosisMode": True}
    assert api.put("/api/v1/ckptConfig", json=body).json()["ckpt"]["diagnosisMode"] is True
    body = {"ckptMode": True, "ckptInterval": 120_000_000_000, "diagnosisMode": False}
    assert api.put("/api/v1/ckptConfig", json=body).json()["ckpt"]["ckptInterval"] == "2m0s"
    assert api.get("/api/v1/configuration/checkpoint").json()["interval_seconds"] == 120
    off = api.put("/api/v1/ckptConfig", json={"ckptInterval": "0"}).json()
    assert off["ckpt"]["ckptInterval"] == "0s"


def test_its_log_configuration(api: httpx.Client) -> None:
    assert api.get("/api/v1/log/config").json() == {"level": "info", "maxSizeMB": 10, "maxBackups": 10}
    answer = api.put("/api/v1/log/config", json={"level": "error", "maxSizeMB": 3}).json()
    assert (answer["level"], answer["maxSizeMB"], answer["maxBackups"]) == ("error", 3, 10)
    assert api.get("/api/v1/configuration/log").json()["max_size_mb"] == 3


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("configKV", {"kvMap": {"ckpt.ckptIntervall": "5m"}}, ["body.kvMap.ckpt.ckptIntervall", "ckpt.ckptInterval"]),
        ("configKV", {"kvMap": {"ckpt.ckptInterval": "5"}}, ["body.kvMap.ckpt.ckptInterval", "no unit"]),
        ("configKV", {"kvMap": {"ckpt.ckptMode": "perhaps"}}, ["iterative or none"]),
        ("configKV", {"kvMap": {"job.diskSizeGB": "-1"}}, ["body.kvMap.job.diskSizeGB", "greater than or equal to 0"]),
        ("configKV", {"kvMap": {"job.customTags": "owner"}}, ["owner:ada"]),
        ("configKV", {"kvMap": {"addr": "https://0.0.0.0"}}, ["with its port"]),
        ("configKV", {"kvMap": {"addr": "http://203.0.113.9:1"}}, ["body.kvMap.addr"]),
        ("configKV", {"kvMap": {"ckpt.tcpClose": 1}}, ["valid string"]),
        ("configKV", {"kv": {}}, ["body.kv"]),
        ("ckptConfig", {"ckptInterval": True}, ["body.ckptInterval", "duration"]),
        ("ckptConfig", {"nonsense": 1}, ["body.nonsense", "no such key"]),
        ("log/config", {"level": "loud"}, ["body.level", "'debug'"]),
        ("log/config", {"maxSizeMB": 1.5}, ["body.maxSizeMB", "whole number"]),
    ],
)
def test_its_bad_values_are_named_by_its_keys(
    api: httpx.Client, path: str, body: dict[str, Any], words: list[str]
) -> None:
    assert_refused(api.put(f"/api/v1/{path}", json=body), 422, "invalid_request", *words)


# Anything at all

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from([*{name: 0 for model in CHANGES.values() for name in model.model_fields}, "other"])
FUZZ = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(
    section=st.sampled_from([*CHANGES]),
    method=st.sampled_from(["PUT", "PATCH"]),
    body=st.dictionaries(FIELDS, ANYTHING, max_size=3) | ANYTHING,
)
def test_no_configuration_is_a_server_error(api: httpx.Client, section: str, method: str, body: object) -> None:
    answer = api.request(
        method, f"/api/v1/configuration/{section}", content=encoded(body), headers={"If-Match": '"none"'}
    )
    assert answer.status_code in {412, 422}, answer.text


@FUZZ
@given(
    path=st.sampled_from(["ckptConfig", "log/config"]),
    body=st.dictionaries(
        st.sampled_from(["ckptMode", "ckptInterval", "ckptFiles", "level", "maxSizeMB", "other"]), ANYTHING, max_size=3
    ),
)
def test_nothing_that_its_scripts_send_is_a_server_error(api: httpx.Client, path: str, body: object) -> None:
    assert api.put(f"/api/v1/{path}", content=encoded(body)).status_code in {200, 422}


def encoded(body: object) -> bytes:
    """As any JSON writer would, NaN and lone surrogates included."""
    return json.dumps(body).encode()


# Logs follow within seconds


@pytest.mark.criu
async def test_the_control_worker_and_an_agent_follow_the_log_section(temporal: Client, tmp_path: Path) -> None:
    """Real programs: the control worker runs the node's workflow, which tells the agent."""
    address, database = temporal.service_client.config.target_host, f"sqlite:///{tmp_path}/perdure.db"
    control_log, level = tmp_path / "control.log", logging.getLogger().level
    environment = {
        **os.environ,
        "PERDURE_DATABASE_URL": database,
        "PERDURE_LOG_FILE": str(control_log),
        "TEMPORAL_ADDRESS": address,
        # No AWS in reach: nothing here needs it.
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    node = RealNode(address)
    control: subprocess.Popen[bytes] | None = None
    try:
        with served(create_app(ApiSettings(database_url=database))) as api:
            change(api, "log", {"level": "warning"})
            program = [sys.executable, *told("docs/server.md", "python -m activities").split()[1:]]
            control = subprocess.Popen(program, cwd=ROOT, env=environment)
            node.boot()
            agent_log = node.path(node.folder / "own.log")
            await node.start_agent(PERDURE_LOG_FILE=str(node.folder / "own.log"))
            until(lambda: logs_by(agent_log, level="warning"), PATIENCE, what="a new agent is told how to log")
            change(api, "log", {"level": "debug", "node_max_size_mb": 3, "node_total_mb": 9})
            until(lambda: logs_by(control_log, level="debug"), PATIENCE, what="the control worker follows")
            until(lambda: logs_by(agent_log, level="debug", node_total_mb=9), PATIENCE, what="the agent follows")
            until(lambda: logging.getLogger().level == logging.DEBUG, PATIENCE, what="so does this server")
    finally:
        node.close()
        if control is not None:
            control.terminate()
            control.wait(PATIENCE)
        logging.getLogger().setLevel(level)


def logs_by(file: Path, **wanted: object) -> bool:
    """Does the last line about log settings in this log say so?"""
    lines = [json.loads(line) for line in (file.read_text() if file.exists() else "").splitlines()]
    told: list[dict[str, object]] = [line["settings"] for line in lines if line["event"] == "log settings"]
    return bool(told) and wanted.items() <= told[-1].items()


# Asked before it is changed

CHECK = "/api/v1/configuration/check"


def test_a_check_says_what_a_change_would_do_and_changes_nothing(api: httpx.Client, engine: Engine) -> None:
    wanted = {"checkpoint": {"interval_seconds": "10m"}, "log": {"level": "info"}}
    found = api.post(CHECK, json=wanted).json()
    assert found["problems"] == [] and "from now on" in found["notes"][0]
    assert found["changes"] == [{"field": "checkpoint.interval_seconds", "old": 900.0, "new": 600.0}]
    with reading(engine) as session:
        assert current_configuration(session) == SystemConfiguration()
    assert found["number"] == api.get("/api/v1/configuration").json()["number"]
    lines = api.get("/api/v1/audit").json()["items"]
    assert not any(line["action"].endswith("/check") for line in lines), "a form asks at each key"


def test_what_volumes_cost_stands_where_they_are_set(api: httpx.Client) -> None:
    held = api.get("/api/v1/configuration/job_volume/prices").json()
    assert [(one["memory_mib"] >> 10, one["size_gib"], one["throughput_mib_per_second"]) for one in held] == [
        (2, 100, 0),
        (16, 100, 183),
        (64, 242, 729),
        (256, 818, 1000),
    ]
    dollars = [one["usd_per_hour"] for one in held]
    assert dollars[0] == pytest.approx(100 * 0.08 / 730, abs=1e-6) and dollars == sorted(dollars)
    asked = api.post(CHECK, json={"job_volume": {"size_gib": 10, "throughput_mib_per_second": 125}}).json()["volumes"]
    assert {(one["size_gib"], one["usd_per_hour"]) for one in asked} == {(10, round(0.8 / 730, 6))}
    assert api.post(CHECK, json={"log": {}}).json()["volumes"] is None


def test_a_check_names_everything_that_is_wrong(api: httpx.Client, engine: Engine, tmp_path: Path) -> None:
    wanted = {
        "checkpoint": {"keep": 99, "interval_seconds": "15x", "nothing": 1},
        "server": {"cert_file": "/etc/hostname"},
        "job_volume": {"tags": {"aws:x": "y"}},
        "cognito": {"enabled": True, "region": "Mars"},
    }
    found = api.post(CHECK, json=wanted).json()
    fields = {one["field"] for one in found["problems"]}
    assert fields == {
        "checkpoint.keep", "checkpoint.interval_seconds", "checkpoint.nothing", "server", "job_volume.tags",
        "cognito.region",
    }  # fmt: skip
    assert not found["changes"] and all(
        one["message"] and "Value error" not in one["message"] for one in found["problems"]
    )
    alone = api.post(CHECK, json={"server": {"address": "0.0.0.0", "port": 1}}).json()
    assert {one["field"] for one in alone["problems"]} >= {"server.address"}
    assert_refused(api.post(CHECK, json={"nothing": {}}), 422, "invalid_request")


def test_a_check_tells_of_the_certificate(api: httpx.Client, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path, "perdure.example", days=(-1, 20))
    found = api.post(CHECK, json={"server": {"cert_file": cert_file, "key_file": key_file}}).json()
    assert found["problems"] == [] and "perdure.example" in found["certificate"]["subject"]
    assert found["certificate"]["warning"], "it ends within 30 days"
    old_cert, old_key = certificate(tmp_path, "old.example", days=(-9, -1))
    found = api.post(CHECK, json={"server": {"cert_file": old_cert, "key_file": old_key}}).json()
    assert found["certificate"] is None and "expired" in found["problems"][0]["message"]
