"""Who gets in: every route with and without credentials, API tokens, the audit log, limits, a real start with TLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, text
from structlog.testing import LogCapture

from api.__main__ import Start, prepare
from api.app import create_app
from api.auth.audit_trail import write_counts
from api.auth.bootstrap import bootstrap
from api.auth.principals import Role
from api.auth.rate_limit import Refusals
from api.auth.rules import Access, Route, Routes, by_method
from api.serving import connection, errors, guards
from api.serving.connection import Connection
from api.serving.tls import check_certificate
from localcloud.stack.waiting import free_port
from perdure.certificates import make_self_signed
from perdure.cli.main import UNKNOWN_ID, USAGE, run
from perdure.domain.configuration import CognitoConfiguration, ServerConfiguration, SystemConfiguration
from perdure.domain.errors import ConfigurationInvalid, UnknownToken
from perdure.records.access import audit, tokens
from perdure.records.schema.access_tables import AuditRow
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.settings.configuration import save_configuration
from perdure.settings import ApiSettings
from perdure.waiting import until
from tests.integration.asking import ADDRESS, Asker, asking
from tests.patience import PATIENCE

NOW = datetime.now(UTC)
OPEN = {
    "/{path}",
    "/assets/{path}",
    "/docs",
    "/docs/assets/{path}",
    "/api/v1/health",
    "/api/v1/auth",
    "/api/v1/auth/sign-in",
    "/api/v1/auth/challenge",
    "/api/v1/auth/token",
    "/api/v1/auth/refresh",
    "/api/v1/auth/sign-out",
    "/api/v1/auth/hosted",
    "/api/v1/auth/callback",
    "/install",  # the installer and the release that it fetches: signed, and without secrets
    "/install/{name}",
    "/api/v1/scripts/install-pagent",
}
"""Routes that answer strangers. A new one has to be entered here, after thinking twice."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """As it is bound to all addresses: nobody is let in without credentials."""
    url = f"sqlite:///{tmp_path_factory.mktemp('door')}/perdure.db"
    return create_app(ApiSettings(database_url=url, api_host="0.0.0.0"))


@pytest.fixture(scope="module")
def stranger(app: FastAPI) -> Iterator[Asker]:
    """A client without credentials. Temporal is away, which no test here minds."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{closed}")
        with asking(app, "https://perdure.example") as client:
            yield client


@pytest.fixture
def engine(app: FastAPI, stranger: Asker) -> Engine:
    """The application's database, with an empty audit log."""
    found: Engine = app.state.engine
    with writing(found) as session:
        session.execute(delete(AuditRow))
    return found


@pytest.fixture
def refusals(app: FastAPI) -> Refusals:
    """The application's count of refusals, begun anew: each test has its lines."""
    [found] = [part.kwargs["refusals"] for part in app.user_middleware if "refusals" in part.kwargs]
    assert isinstance(found, Refusals)
    found.take_counts()
    found._minute = -1
    return found


def bearing(engine: Engine, role: Role = Role.ADMIN, areas: tuple[str, ...] = (), **more: Any) -> dict[str, str]:
    """A new token, as the header that carries it."""
    given = {"name": role.value, "at": NOW, "by": "test", "life": timedelta(days=1)} | more
    with writing(engine) as session:
        _, secret = tokens.create_token(session, role=role, areas=areas, **given)
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def admin(engine: Engine, refusals: Refusals) -> dict[str, str]:
    return bearing(engine)


@pytest.fixture
def viewer(engine: Engine, refusals: Refusals) -> dict[str, str]:
    return bearing(engine, Role.VIEWER)


def assert_error(response: httpx.Response, status: int, code: str, words: str = "") -> None:
    assert response.status_code == status, (response.request.url, response.text)
    error = response.json()["error"]
    assert error["code"] == code and set(error) == {"code", "message", "details"}
    assert words in error["message"]


def asked(route: Route) -> str:
    """A path that the route answers."""
    return re.sub(r"\{[^}]*\}", "1", route.template)


def every(app: FastAPI) -> list[tuple[Route, str]]:
    return [(route, method) for route in Routes(app).all for method in sorted(route.methods or {"GET"})]


def lines(engine: Engine, **filters: Any) -> list[dict[str, Any]]:
    with reading(engine) as session:
        return [line.model_dump() for line in audit.list_audit(session, limit=200, **filters).items]


# Every route there is


def test_strangers_are_refused_everywhere(app: FastAPI, stranger: Asker, refusals: Refusals) -> None:
    """Walks all routes, so that a new one cannot be forgotten."""
    assert {route.template for route in Routes(app).all if route.marked is Access.ANYONE} <= OPEN
    closed = [(route, method) for route, method in every(app) if route.template not in OPEN]
    assert len(closed) > 20
    for route, method in closed:
        answer = stranger.request(method, asked(route))
        if method == "HEAD":
            assert answer.status_code == 401
        else:
            assert_error(answer, 401, "not_signed_in")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_viewers_change_nothing(app: FastAPI, stranger: Asker, viewer: dict[str, str]) -> None:
    for route, method in every(app):
        if route.template in OPEN:
            continue
        if method in {"GET", "HEAD"}:
            assert route.access(method) in {Access.VIEWER, Access.ADMIN}
        else:
            assert_error(stranger.request(method, asked(route), headers=viewer), 403, "not_allowed", "only an admin")
    for path in ("/api/v1/tokens", "/api/v1/tokens/1", "/api/v1/audit"):
        assert_error(stranger.get(path, headers=viewer), 403, "not_allowed")
    assert stranger.get("/api/v1/openapi.json", headers=viewer).status_code == 200


def test_nothing_is_learnt_by_guessing(stranger: Asker, viewer: dict[str, str], admin: dict[str, str]) -> None:
    for method in METHODS:
        for path in (
            "/api/v1/nowhere",
            "/api/v1/jobs",
            "/api/v1/jobs/",
            "/api/v1/jobs/%2e%2e/x",
            "/api//v1/jobs",
        ):
            assert_error(stranger.request(method, path), 401, "not_signed_in")
    assert_error(stranger.get("/api/v1/nowhere", headers=viewer), 404, "not_found")
    assert_error(stranger.delete("/api/v1/nowhere", headers=admin), 404, "not_found")
    assert_error(stranger.delete("/api/v1/jobs", headers=admin), 405, "method_not_allowed")
    assert by_method("OPTIONS") is by_method("BREW") is Access.ADMIN


def test_no_redirects_and_no_leave_for_other_origins(stranger: Asker, viewer: dict[str, str]) -> None:
    answer = stranger.get("/api/v1/jobs/", headers=viewer, follow_redirects=False)
    assert_error(answer, 404, "not_found")
    asked_first = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        stranger.request("OPTIONS", "/api/v1/jobs", headers=asked_first),
        stranger.get("/", headers=asked_first),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_strangers_hear_that_it_works_and_no_more(stranger: Asker, viewer: dict[str, str]) -> None:
    health = stranger.get("/api/v1/health").json()
    assert health["version"] == "" and health["temporal"] == {"ok": False, "message": ""}
    assert health["database"] == {"ok": True, "message": ""}
    told = stranger.get("/api/v1/health", headers=viewer).json()
    assert told["version"] and "Temporal" in told["temporal"]["message"]
    page = stranger.get("/")
    for path in ("/jobs/1", "/nowhere"):
        assert stranger.get(path).content == stranger.get(path, headers=viewer).content == page.content


# Loopback


def test_loopback_needs_no_sign_in_until_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(ApiSettings(database_url=f"sqlite:///{tmp_path}/perdure.db"))
    with asking(app, "http://127.0.0.1:8080", "127.0.0.1") as local:
        assert local.get("/api/v1/tokens").status_code == 200
        bad = {"Authorization": f"Bearer {tokens.new_secret()}"}
        assert_error(local.get("/api/v1/jobs", headers=bad), 401, "not_signed_in", "no such API token")
        assert_error(local.get("/api/v1/jobs", headers={"Authorization": "Basic eA=="}), 401, "not_signed_in")
        viewer = bearing(app.state.engine, Role.VIEWER)
        assert_error(local.get("/api/v1/tokens", headers=viewer), 403, "not_allowed")
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            assert_error(local.get("/api/v1/jobs", headers={name: "192.0.2.1"}), 401, "not_signed_in")
        assert_error(local.get("/api/v1/jobs", headers={"Host": "evil.example"}), 421, "wrong_host")
        section = CognitoConfiguration(enabled=True, region="eu-west-1", user_pool_id="eu-west-1_x", client_id="c")
        with writing(app.state.engine) as session:
            save_configuration(session, SystemConfiguration(cognito=section), at=NOW, by="test")
        until(lambda: local.get("/api/v1/tokens").status_code == 401, PATIENCE)


def test_behind_a_proxy_on_the_same_machine(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/perdure.db"
    app = create_app(ApiSettings(database_url=url, require_sign_in=True, api_names="perdure.example, other.example"))
    with asking(app, "http://perdure.example", "127.0.0.1") as client:
        assert_error(client.get("/api/v1/jobs"), 401, "not_signed_in")
        assert_error(client.get("/api/v1/jobs", headers={"Host": "localhost"}), 401, "not_signed_in")
        assert_error(client.get("/api/v1/jobs", headers={"Host": "evil.example"}), 421, "wrong_host")
        assert client.get("/api/v1/jobs", headers=bearing(app.state.engine)).status_code == 200


@pytest.mark.parametrize("trusted", ["127.0.0.1", ""])
def test_who_asked_by_way_of_a_proxy(trusted: str, tmp_path: Path) -> None:
    port = free_port()
    url = f"sqlite:///{tmp_path}/perdure.db"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    environment |= {
        "PERDURE_DATABASE_URL": url,
        "PERDURE_API_PORT": str(port),
        "PERDURE_REQUIRE_SIGN_IN": "1",
        "PERDURE_API_NAMES": "perdure.example",
        "PERDURE_API_TRUSTED_PROXIES": trusted,
        "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
    }
    passed_on = {"Host": "perdure.example", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    ask = partial(httpx.get, f"http://127.0.0.1:{port}/api/v1/jobs", headers=passed_on, timeout=PATIENCE)

    def serves() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return ask().status_code == 401
        return False

    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: serves() or program.poll() is not None, PATIENCE)
        assert program.poll() is None, (tmp_path / "log").read_text()
        assert ("Strict-Transport-Security" in ask().headers) is bool(trusted)
    finally:
        program.terminate()
        program.wait(PATIENCE)
    assert {line["address"] for line in lines(open_engine(url))} == {"203.0.113.9" if trusted else "127.0.0.1"}


# API tokens


def test_a_tokens_life(stranger: Asker, engine: Engine, admin: dict[str, str]) -> None:
    wish = {"name": "nightly report", "role": "viewer", "expires_in_seconds": "24h"}
    made = stranger.post("/api/v1/tokens", json=wish, headers=admin)
    assert made.status_code == 201, made.text
    secret, number = made.json()["token"], made.json()["number"]
    assert re.fullmatch(r"prd_[0-9A-Za-z]{49}", secret)
    bearer = {"Authorization": f"bearer  {secret}"}
    assert stranger.get("/api/v1/jobs", headers=bearer).status_code == 200
    listed = stranger.get("/api/v1/tokens", headers=admin)
    assert secret not in listed.text
    [mine] = [token for token in listed.json()["items"] if token["number"] == number]
    assert mine["last_used_at"] and mine["created_by"].startswith("admin (token ")
    assert datetime.fromisoformat(mine["expires_at"]) - datetime.fromisoformat(mine["created_at"]) == timedelta(1)
    for _ in range(2):
        revoked = stranger.delete(f"/api/v1/tokens/{number}", headers=admin)
        assert revoked.status_code == 200 and revoked.json()["revoked_at"]
    assert_error(stranger.get("/api/v1/jobs", headers=bearer), 401, "not_signed_in", "was revoked on")
    assert stranger.get(f"/api/v1/tokens/{number}", headers=admin).json() == revoked.json()
    assert_error(stranger.delete("/api/v1/tokens/99999", headers=admin), 404, "unknown_token")
    [line] = lines(engine, action="POST /api/v1/tokens")
    assert line["detail"]["token"] == f"nightly report (token {number})" and line["who"].startswith("admin (token ")
    assert secret not in str(lines(engine))


def test_the_database_holds_no_token(stranger: Asker, engine: Engine, admin: dict[str, str]) -> None:
    secret = admin["Authorization"].removeprefix("Bearer ")
    assert stranger.get("/api/v1/jobs", headers=admin).status_code == 200
    folder = Path(str(engine.url.database)).parent
    assert not [file for file in folder.iterdir() if secret.encode() in file.read_bytes()]


def test_an_expired_token_opens_nothing_and_says_so(stranger: Asker, engine: Engine, refusals: Refusals) -> None:
    old = bearing(engine, at=NOW - timedelta(days=100), life=timedelta(days=90), name="old")
    assert_error(stranger.get("/api/v1/jobs", headers=old), 401, "not_signed_in", "expired on")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer prd_",
        f"Bearer prd_{'x' * 49}",
        f"Bearer prd_{'é' * 49}",
        f"Bearer prd_{'x' * 5000}",
        "Bearer a.b.c",
        "Basic cHJkOng=",
        "prd_nothing",
        "Bearer prd_' OR 1=1 --",
    ],
)
def test_what_is_no_token(header: str, stranger: Asker, refusals: Refusals) -> None:
    answer = stranger.get("/api/v1/jobs", headers=[(b"Authorization", header.encode())])
    assert_error(answer, 401, "not_signed_in")


def test_two_credentials_are_none(stranger: Asker, admin: dict[str, str]) -> None:
    headers = [("Authorization", admin["Authorization"])] * 2
    assert_error(stranger.get("/api/v1/jobs", headers=headers), 401, "not_signed_in", "several")


def test_a_token_for_some_areas(stranger: Asker, engine: Engine, refusals: Refusals) -> None:
    some = bearing(engine, areas=("jobs", "tokens"))
    assert stranger.get("/api/v1/jobs", headers=some).status_code == 200
    for path in ("/api/v1/nodes", "/api/v1/openapi.json", "/api/v1/audit", "/api/v1/jobsx"):
        assert_error(stranger.get(path, headers=some), 403, "not_allowed", "may only ask for jobs, tokens")
    for areas in ([], ["nodes"], ["jobs", "nodes"]):
        wish = {"name": "more", "role": "admin", "areas": areas}
        assert_error(
            stranger.post("/api/v1/tokens", json=wish, headers=some), 403, "not_allowed", "may only make tokens"
        )
    wish = {"name": "less", "areas": ["jobs"]}
    assert stranger.post("/api/v1/tokens", json=wish, headers=some).status_code == 201


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "body.name"),
        ({"name": "a\nb"}, "body.name"),
        ({"name": "=1+1"}, "body.name"),
        ({"role": "root"}, "body.role"),
        ({"areas": ["nowhere"]}, "There is no area 'nowhere'; there are"),
        ({"areas": ["../x"]}, "body.areas.0"),
        ({"expires_in_seconds": "367d"}, "body.expires_in_seconds"),
        ({"expires_in_seconds": 367 * 86400}, "body.expires_in_seconds"),
        ({"expires_in_seconds": 0}, "body.expires_in_seconds"),
        ({"expires_in_seconds": None}, "body.expires_in_seconds"),
        ({"owner": "me"}, "body.owner"),
    ],
)
def test_a_bad_wish_is_named(change: dict[str, Any], words: str, stranger: Asker, admin: dict[str, str]) -> None:
    answer = stranger.post("/api/v1/tokens", json={"name": "x"} | change, headers=admin)
    assert_error(answer, 422, "invalid_request", words)


def test_tokens_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/perdure.db"
    monkeypatch.setenv("PERDURE_DATABASE_URL", url)
    assert run(["auth", "token", "create", "first", "--role", "admin", "--days", "3"]) == 0
    secret = capsys.readouterr().out.strip()
    engine = open_engine(url)
    with reading(engine) as session:
        found = tokens.find_token(session, secret)
        assert found is not None and found.role is Role.ADMIN and found.expires_at - found.created_at == timedelta(3)
        assert tokens.admin_token_exists(session, datetime.now(UTC))
    assert run(["auth", "token", "list", "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)[0]["name"] == "first" and secret not in shown
    assert run(["auth", "token", "list"]) == 0 and "first" in capsys.readouterr().out
    assert run(["auth", "token", "revoke", "1"]) == 0 and "was revoked" in capsys.readouterr().out
    with reading(engine) as session:
        assert not tokens.admin_token_exists(session, datetime.now(UTC))
    assert [line["via"] for line in lines(engine)] == ["cli", "cli"]
    assert run(["auth", "token", "revoke", "7"]) == UNKNOWN_ID
    assert run(["auth", "token", "create", "a\nb"]) == USAGE
    monkeypatch.setenv("PERDURE_DATABASE_URL", "sqlite:////proc/none/perdure.db")
    assert run(["auth", "token", "list"]) == 1
    engine.dispose()


FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NAMES = st.sampled_from(
    ["authorization", "host", "cookie", "origin", "x-forwarded-for", "sec-fetch-site", "content-type"]
)
WORDS = st.binary(max_size=60) | st.sampled_from([b"Bearer prd_", b"Bearer a.b.c", b"[::1", b"localhost:x", b"{"])


@FUZZ
@given(
    headers=st.lists(st.tuples(NAMES.map(str.encode), WORDS), max_size=4),
    method=st.sampled_from(METHODS),
    path=st.sampled_from(["jobs", "tokens", "audit", "nowhere"]),
    body=st.binary(max_size=60) | st.sampled_from([b"[" * 60000, b'{"name": NaN}', b'{"a": {"b": 1}}']),
)
def test_nothing_a_stranger_sends_opens_or_breaks_it(
    headers: list[tuple[bytes, bytes]], method: str, path: str, body: bytes, stranger: Asker, refusals: Refusals
) -> None:
    answer = stranger.request(method, f"/api/v1/{path}", headers=headers, content=body)
    assert answer.status_code in {401, 403, 421}
    assert set(answer.json()) == {"error"}


@FUZZ
@given(
    body=st.binary(max_size=60) | st.sampled_from([b"[" * 60000, b'{"name": NaN}', b'{"name": "\\ud800"}', b"1e999"]),
    kind=st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-7", "x"]),
)
def test_no_wish_for_a_token_is_a_server_error(body: bytes, kind: str, stranger: Asker, admin: dict[str, str]) -> None:
    answer = stranger.post("/api/v1/tokens", headers={**admin, "content-type": kind}, content=body)
    assert answer.status_code in {400, 422}, answer.text
    assert set(answer.json()) == {"error"}


# The audit log


def test_changes_and_refusals_have_a_line(stranger: Asker, engine: Engine, viewer: dict[str, str]) -> None:
    admin = bearing(engine, name="boss")
    assert stranger.get("/api/v1/jobs", headers=admin).status_code == 200
    stranger.get("/api/v1/jobs?password=hunter2")
    stranger.post("/api/v1/jobs/job-1/checkpoints", headers=viewer)
    assert stranger.post("/api/v1/tokens", json={"name": "hunter2", "role": "viewer"}, headers=admin).status_code == 201
    stranger.request("PUT", "/api/v1/tokens/x%0a2026-01-01%20admin%20ok", content=b"{}", headers=admin)
    stranger.post("/api/v1/tokens", content=b" " * (guards.LARGEST_BODY + 1), headers=admin)
    answer = stranger.get("/api/v1/audit", headers=admin)
    found = list(reversed(answer.json()["items"]))
    assert [line["outcome"] for line in found] == [401, 403, 201, 405, 413]
    assert [line["who"].partition(" ")[0] for line in found] == ["", "viewer", "boss", "boss", ""]
    assert [line["via"] for line in found] == ["", "token", "token", "token", ""]
    assert [line["action"] for line in found] == [
        "GET /api/v1/jobs",
        "POST /api/v1/jobs/{job_id}/checkpoints",
        "POST /api/v1/tokens",
        "PUT /api/v1/tokens/{number}",
        "POST /api/v1/tokens",
    ]
    assert found[1]["target"] == "/api/v1/jobs/job-1/checkpoints" and found[1]["detail"]["error"] == "not_allowed"
    assert found[2]["detail"]["fields"] == ["name", "role"]
    assert "\n" not in found[3]["target"] and "hunter2" not in found[0]["target"] + str(found[0]["detail"])
    assert {line["address"] for line in found} == {ADDRESS}


def test_the_log_is_filtered_and_paged(stranger: Asker, engine: Engine, admin: dict[str, str]) -> None:
    with writing(engine) as session:
        for number in range(5):
            who = "ann" if number % 2 else "bob"
            at = NOW + timedelta(seconds=number // 2)  # two of them at the same instant
            audit.note(session, at=at, who=who, via="t", action="a", target=str(number), outcome=200, address="")

    def targets(**query: Any) -> list[str]:
        seen: list[str] = []
        while True:
            page = stranger.get("/api/v1/audit", params={"limit": 2, **query}, headers=admin).json()
            seen += [line["target"] for line in page["items"]]
            if page["next"] is None:
                return seen
            query["cursor"] = page["next"]

    assert targets(action="a") == ["4", "3", "2", "1", "0"]
    assert targets(who="ann") == ["3", "1"]
    assert targets(who="ann", action="b") == []
    second = (NOW + timedelta(seconds=1)).isoformat()
    assert targets(after=second) == ["4", "3", "2"]
    assert targets(before=second) == ["1", "0"]
    bad = ({"after": "2026-01-01T00:00:00"}, {"after": "soon"}, {"who": "a\0b"}, {"cursor": "x"}, {"limit": 0})
    for query in bad:
        assert_error(stranger.get("/api/v1/audit", params=query, headers=admin), 422, "invalid_request")


def test_a_flood_gets_few_lines_and_is_counted(stranger: Asker, engine: Engine, refusals: Refusals) -> None:
    for _ in range(100):
        assert stranger.get("/api/v1/jobs").status_code == 401
    write_counts(engine, refusals)
    found = lines(engine)
    counts = [line for line in found if "requests" in line["detail"]]  # more than one if the server wrote its own too
    own = len(found) - len(counts)
    assert 30 <= own < 100  # the minute may have ended meanwhile
    assert counts and sum(line["detail"]["requests"] for line in counts) == 100 - own
    assert {line["address"] for line in found} == {ADDRESS}
    write_counts(engine, refusals)
    assert len(lines(engine)) == len(found)


def test_a_change_is_answered_when_the_log_cannot_be_written(
    stranger: Asker, engine: Engine, admin: dict[str, str]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO audit_away"))
    try:
        made = stranger.post("/api/v1/tokens", json={"name": "x"}, headers=admin)
        assert made.status_code == 201
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit_away RENAME TO audit"))


# Both databases


def test_tokens_are_found_by_what_was_sent(records: Engine) -> None:
    with writing(records) as session:
        made = [
            tokens.create_token(
                session, name=f"t {number}", role=Role.ADMIN, areas=(), at=NOW, by="test", life=timedelta(hours=1)
            )
            for number in range(3)
        ]
    token, secret = made[1]
    with writing(records) as session:
        assert tokens.find_token(session, secret) == token
        assert tokens.find_token(session, secret[:-1]) is tokens.find_token(session, tokens.new_secret()) is None
        assert tokens.use_is_worth_noting(token, NOW)
        tokens.note_use(session, token, NOW)
    with writing(records) as session:
        used = tokens.get_token(session, token.number)
        assert used.last_used_at == NOW
        assert not tokens.use_is_worth_noting(used, NOW + timedelta(seconds=59))
        assert tokens.use_is_worth_noting(used, NOW + timedelta(seconds=60))
        page = tokens.list_tokens(session, limit=2)
        rest = tokens.list_tokens(session, limit=2, after=page.next)
        assert [one.name for one in page.items + rest.items] == ["t 2", "t 1", "t 0"] and rest.next is None
        assert tokens.admin_token_exists(session, NOW + timedelta(minutes=59))
        assert not tokens.admin_token_exists(session, NOW + timedelta(hours=1))
        for one, _ in made:
            tokens.revoke_token(session, one.number, at=NOW, by="test")
        assert not tokens.admin_token_exists(session, NOW)
        for number in (0, -1, 99, 2**40):
            with pytest.raises(UnknownToken):
                tokens.revoke_token(session, number, at=NOW, by="test")


def test_lines_are_tame_and_end(records: Engine) -> None:
    wild = "a\0b\nc\ud800" + "d" * 1000
    deep: dict[str, Any] = {"x": {"y": {"z": {"deeper": 1}}}, "list": list(range(100)), "\0": wild}
    with writing(records) as session:
        for number in range(5):
            audit.note(
                session,
                at=NOW + timedelta(days=number),
                who=wild,
                via="t",
                action=wild,
                target=wild,
                outcome=200,
                address=wild,
                detail=deep if number else {f"{index}": wild for index in range(20)},
            )
    *_, oldest = found = lines(records)
    assert oldest["detail"] == {"too_long": True}
    assert all(line["target"].startswith("a\ufffdb\ufffdc\ufffdd") and len(line["target"]) == 200 for line in found)
    assert len(found[0]["detail"]["list"]) == 20 and found[0]["detail"]["x"]["y"]["z"] == {"deeper": 1}
    with writing(records) as session:
        assert audit.forget_before(session, NOW + timedelta(days=3), limit=2) == 2
        assert audit.forget_before(session, NOW + timedelta(days=3)) == 1
    assert [line["at"] for line in lines(records)] == [NOW + timedelta(days=4), NOW + timedelta(days=3)]


# Starting


def started(tmp_path: Path, **given: Any) -> Start:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    try:
        return prepare(ApiSettings(**given), engine, NOW)
    finally:
        engine.dispose()


def test_where_it_may_start(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    files = make_self_signed(["localhost"], tmp_path / "pair", NOW)
    tls = {"api_cert_file": files.cert_file, "api_key_file": files.key_file}

    assert started(tmp_path).certificate is None  # loopback
    assert started(tmp_path, **tls).certificate is not None
    with pytest.raises(ConfigurationInvalid, match=r"cert_file is set, and key_file is not"):
        started(tmp_path, api_cert_file=files.cert_file)
    for address in ("0.0.0.0", "::", "192.0.2.1", "perdure.example"):
        for pair in ({}, tls):
            with pytest.raises(ConfigurationInvalid, match=r"nobody could sign in.*perdure auth token create"):
                started(tmp_path, api_host=address, **pair)
    bearing(engine, Role.VIEWER)
    bearing(engine, areas=("jobs",))
    bearing(engine, at=NOW - timedelta(days=2))
    with pytest.raises(ConfigurationInvalid, match="nobody could sign in"):
        started(tmp_path, api_host="0.0.0.0", **tls)
    bearing(engine)
    with pytest.raises(ConfigurationInvalid, match=r"without TLS.*perdure auth certificate --self-signed"):
        started(tmp_path, api_host="0.0.0.0")
    start = started(tmp_path, api_host="0.0.0.0", **tls)
    assert start.certificate is not None and start.settings.api_host == "0.0.0.0"
    files.key_file.chmod(0o644)
    with pytest.raises(ConfigurationInvalid, match="chmod 600"):
        started(tmp_path, api_host="0.0.0.0", **tls)
    engine.dispose()


def test_cognito_is_a_way_in_and_the_database_may_say_where(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    migrate(engine)
    files = make_self_signed(["localhost"], tmp_path / "pair", NOW)
    cognito = CognitoConfiguration(enabled=True, region="eu-west-1", user_pool_id="eu-west-1_x", client_id="c")
    server = ServerConfiguration(
        address="0.0.0.0", port=8443, cert_file=str(files.cert_file), key_file=str(files.key_file)
    )
    with writing(engine) as session:
        save_configuration(session, SystemConfiguration(cognito=cognito, server=server), at=NOW, by="test")
    engine.dispose()
    start = started(tmp_path)
    assert (start.settings.api_host, start.settings.api_port) == ("0.0.0.0", 8443)
    assert start.certificate is not None and "api_host" not in start.settings.model_fields_set
    assert started(tmp_path, api_host="127.0.0.1", api_port=1).settings.api_port == 1  # the environment wins


def test_a_first_start_leaves_a_way_in(tmp_path: Path) -> None:
    folder = tmp_path / "first-start"
    given = {"api_host": "0.0.0.0", "bootstrap_dir": folder, "api_names": "perdure.example"}
    first = started(tmp_path, **given)
    assert first.certificate is not None and "perdure.example" in first.certificate.facts.names
    assert sorted(file.name for file in folder.iterdir()) == ["admin-token", "server.crt", "server.key"]
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in (".", "admin-token", "server.key")] == [
        0o700,
        0o600,
        0o600,
    ]
    secret = (folder / "admin-token").read_text()
    again = started(tmp_path, **given)
    assert again.certificate is not None and again.certificate.facts == first.certificate.facts
    assert (folder / "admin-token").read_text() == secret
    engine = open_engine(f"sqlite:///{tmp_path}/perdure.db")
    with writing(engine) as session:
        token = tokens.find_token(session, secret.strip())
        assert token is not None and token.role is Role.ADMIN
        tokens.revoke_token(session, token.number, at=NOW, by="test")
    started(tmp_path, **given)  # nobody could sign in: a new one
    assert (folder / "admin-token").read_text() != secret
    assert [line["action"] for line in lines(engine)] == ["first start", "first start"]
    engine.dispose()


def test_several_first_starts_at_once_leave_one_way_in(records: Engine, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = pool.map(lambda _: bootstrap(records, tmp_path / "f", "a.example", ServerConfiguration(), NOW), range(3))
    assert sorted(len(sentences) for sentences in made) == [0, 0, 2]
    check_certificate(tmp_path / "f/server.crt", tmp_path / "f/server.key")
    with reading(records) as session:
        [token] = tokens.list_tokens(session).items
        assert tokens.find_token(session, (tmp_path / "f/admin-token").read_text().strip()) == token


def test_the_real_program_with_tls_and_a_certificate_that_changes(tmp_path: Path) -> None:
    folder = tmp_path / "first-start"
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    environment |= {
        "PERDURE_DATABASE_URL": f"sqlite:///{tmp_path}/perdure.db",
        "PERDURE_API_HOST": "0.0.0.0",
        "PERDURE_API_PORT": str(port),
        "PERDURE_BOOTSTRAP_DIR": str(folder),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
    }
    elsewhere = environment | {"PERDURE_DATABASE_URL": f"sqlite:///{tmp_path}/other.db", "PERDURE_BOOTSTRAP_DIR": ""}
    refused = subprocess.Popen([sys.executable, "-m", "api"], env=elsewhere, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: answers(port, folder) or program.poll() is not None, PATIENCE)
        assert program.poll() is None, (tmp_path / "log").read_text()
        secret = (folder / "admin-token").read_text().strip()
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusting(folder), timeout=PATIENCE) as client:
            assert_error(client.get("/api/v1/jobs"), 401, "not_signed_in")
            answer = client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
            assert answer.status_code == 200
            assert answer.headers["Strict-Transport-Security"] == guards.HSTS
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{port}/api/v1/health", timeout=PATIENCE)
        make_self_signed(["localhost"], folder, datetime.now(UTC), replace=True)
        until(lambda: answers(port, folder), PATIENCE)  # the new one is trusted now, and no other
    finally:
        program.send_signal(signal.SIGTERM)
        status = program.wait(PATIENCE)
        _, why = refused.communicate(timeout=PATIENCE)
    assert refused.returncode == 2 and "does not start on 0.0.0.0" in why and "Traceback" not in why
    said = (tmp_path / "log").read_text()
    assert status in {0, -signal.SIGTERM}, said  # uvicorn ends itself by the signal that it got
    assert secret not in said and "admin-token" in said and "a new certificate is served" in said


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "server.crt"))


def answers(port: int, folder: Path) -> bool:
    try:
        httpx.get(f"https://localhost:{port}/api/v1/auth", verify=trusting(folder), timeout=PATIENCE)
    except (httpx.HTTPError, OSError):
        return False
    return True


# Limits


@contextmanager
def serving_connections(app: Any) -> Iterator[int]:
    """The port of a real server with our connections, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=1,
        h11_max_incomplete_event_size=connection.LARGEST_HEAD,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started, PATIENCE)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def said_to(port: int, *pieces: bytes) -> bytes:
    """Everything that the server says until it hangs up, however it does."""
    heard = b""
    with (
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as wire,
    ):
        for piece in pieces:
            wire.sendall(piece)
        while piece := wire.recv(65536):
            heard += piece
    return heard


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, then answers."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"done"})


def test_what_is_not_http_has_the_common_shape() -> None:
    with serving_connections(echo) as port:
        for words in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * connection.LARGEST_HEAD + b"\r\n\r\n"):
            head, _, body = said_to(port, words).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400") and b"nosniff" in head
            assert json.loads(body)["error"]["code"] == "not_http"
        assert b"done" in said_to(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_slow_clients_are_not_waited_for(monkeypatch: pytest.MonkeyPatch, app: FastAPI, stranger: Asker) -> None:
    with serving_connections(app) as port:
        with monkeypatch.context() as patch:
            patch.setattr(connection, "HEAD_SECONDS", 0.3)
            assert said_to(port) == said_to(port, b"GET / HTTP/1.1\r\nHost: x") == b""
        monkeypatch.setattr(guards, "BODY_SECONDS", 0.3)
        head = b"POST /api/v1/auth/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        late = said_to(port, head + b"Content-Length: 9\r\n\r\n{")
        assert late.startswith(b"HTTP/1.1 408") and b'"code":"request_timeout"' in late


def test_no_more_connections_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 1)
    with serving_connections(echo) as port, socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        until(lambda: said_to(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b"", PATIENCE)


def test_limits_of_a_request(stranger: Asker, refusals: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"X-{number}": "x" for number in range(guards.MOST_HEADERS + 1)}
    assert_error(stranger.get("/", headers=many), 431, "too_many_headers")
    for origin in ("https://evil.example", "null", "https://perdure.example.evil.example"):
        assert_error(stranger.post("/api/v1/tokens", headers={"Origin": origin}), 403, "cross_site")
    own = {"Origin": "https://perdure.example"}
    assert_error(stranger.post("/api/v1/tokens", headers=own), 401, "not_signed_in")
    monkeypatch.setattr(guards, "MOST_AT_ONCE", 0)
    busy = stranger.get("/")
    assert_error(busy, 503, "busy")
    assert busy.headers["Retry-After"] == "1"


def test_a_mistake_of_ours_is_told_in_the_common_shape_and_with_the_headers(
    app: FastAPI, stranger: Asker, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = LogCapture()
    monkeypatch.setattr(errors, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[logs]))
    monkeypatch.delattr(app.state, "workflows")
    answer = stranger.post("/api/v1/jobs/job-1/checkpoints", headers=admin)
    assert_error(answer, 500, "internal")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Strict-Transport-Security"] == guards.HSTS
    [line] = lines(app.state.engine)
    assert line["outcome"] == 500 and len(logs.entries) == 1
