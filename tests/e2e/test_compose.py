"""docker-compose.yml: valid, and up for real: the server's own image, PostgreSQL, Temporal, in one compose network.

What it pulls is stood in for (tests/e2e/compose_bed.py says how); the API and the control worker are the real image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from perdure import waiting
from tests.e2e.compose_bed import BASE, ROOT, Docker, docker, project
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

COMPOSE = "/usr/bin/docker-compose"
SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
"""The compose-spec schema as Debian's docker-compose brings it."""
SETTINGS = {
    "TEMPORAL_DATABASE_PASSWORD": "3f0c6a5d",
    "PERDURE_DATABASE_PASSWORD": "91b2e47f",
    "AWS_REGION": "us-east-1",
}
UP_SECONDS = 300


def compose(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPOSE, *words], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE
    )


def test_the_file_fits_the_compose_specification() -> None:
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    schema = json.loads(SCHEMA.read_text())
    jsonschema_rs.validator_for(schema).validate(content)
    assert {"postgresql", "temporal-schema", "temporal", "temporal-ui", "api", "control"} <= set(content["services"])


def test_settings_arrive_and_it_says_which_are_missing() -> None:
    of_api = {"PERDURE_RELEASE_DIR": "/release", "PERDURE_INSTANCES_TEMPORAL": "192.0.2.7:7234"}
    of_both = {"PERDURE_STORE_KEY_FILE": "/keys/store.key"}
    done = compose("config", **SETTINGS, **of_api, **of_both)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert (of_api | of_both).items() <= services["api"]["environment"].items()
    assert of_both.items() <= services["control"]["environment"].items()
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in map(str, one.get("ports", [])))
    for name in SETTINGS:
        done = compose("config", **{other: value for other, value in SETTINGS.items() if other != name})
        assert done.returncode != 0 and name in done.stderr


@pytest.fixture(scope="module")
def bed() -> Iterator[tuple[Docker, Path]]:
    with docker() as made:
        folder = project(made.folder / "project")
        stand_in = folder / "stand-in"
        stand_in.mkdir()
        shutil.copy(Path(sys.executable).parent / "temporal", stand_in)
        shutil.copy(Path(__file__).parent / "compose-postgresql.sh", stand_in / "postgresql.sh")
        shutil.copy(Path(__file__).parent / "compose_temporal.py", stand_in / "temporal.py")
        shutil.copy(Path(__file__).parent / "compose-without-registry.yml", folder)
        settings = SETTINGS | {"BASE_IMAGE": BASE, "NODE_IMAGE": BASE, "PIP_NO_INDEX": "1"}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        yield made, folder


def test_the_server_comes_up_with_a_token_and_a_certificate_of_its_own(bed: tuple[Docker, Path]) -> None:
    machine, folder = bed

    def run(*words: str, limit: float = PATIENCE) -> str:
        files = ("-f", "docker-compose.yml", "-f", "compose-without-registry.yml")
        return machine.run(COMPOSE, "--ansi", "never", "-p", "server", *files, *words, cwd=folder, limit=limit).stdout

    run("build", "api", limit=600)
    try:
        run("up", "-d", "--no-build", limit=UP_SECONDS)
    except AssertionError as problem:
        pytest.fail(f"{problem}\n{run('ps')}\n{run('logs', '--no-color', '--tail=40')}")
    until(lambda: healthy(machine), "the API serves", run)
    secrets = "/var/lib/perdure/server/first-start"
    token = inside(machine, "api", "cat", f"{secrets}/admin-token").strip()
    assert token.startswith("prd_")
    certificate = folder / "server.crt"
    certificate.write_text(inside(machine, "api", "cat", f"{secrets}/server.crt"))

    health, jobs, stranger, page = asked(
        machine, certificate, ("/api/v1/health", token), ("/api/v1/jobs", token), ("/api/v1/jobs", ""), ("/", "")
    )
    assert health["status"] == 200 and health["body"]["status"] == "ok", health
    assert jobs == {"status": 200, "body": {"items": [], "next": None}}
    assert stranger["status"] == 401
    assert '<div id="console">' in page["body"], "the image holds the console"
    pollers = ("/stand-in/temporal", "task-queue", "describe", "--task-queue", "control", "-o", "json")
    until(lambda: "workflow" in inside(machine, "temporal", *pollers), "the control worker serves", run)

    run("restart", "api", limit=UP_SECONDS)
    until(lambda: healthy(machine), "the API serves again", run)
    assert inside(machine, "api", "cat", f"{secrets}/admin-token").strip() == token
    assert token not in run("logs", "--no-color", "api")
    assert inside(machine, "api", "id", "-u").strip() == "10001"
    run("down", "--volumes", limit=UP_SECONDS)


def inside(machine: Docker, service: str, *words: str) -> str:
    """What a program in a service's container says. By docker, which starts ten times as fast as docker-compose."""
    return machine.run("/usr/bin/docker", "exec", f"server_{service}_1", *words).stdout


def healthy(machine: Docker) -> bool:
    """What the container's own health check says."""
    state = machine.run(
        "/usr/bin/docker", "inspect", "--format", "{{.State.Health.Status}}", "server_api_1", check=False
    )
    return state.stdout.strip() == "healthy"


def until(condition: Any, what: str, run: Any) -> None:
    try:
        waiting.until(condition, PATIENCE, 0.5)
    except TimeoutError as late:
        said = f"{run('ps')}\n{run('logs', '--no-color', '--tail=60')}"
        raise AssertionError(f"not in time: {what}\n{said}") from late


ASK = """
import json, ssl, sys, httpx
certificate, *asked = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
for path, token in zip(asked[::2], asked[1::2]):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"https://127.0.0.1:8443{path}", verify=context, headers=headers, timeout=300)
    body = answer.json() if "json" in answer.headers["content-type"] else answer.text
    print(json.dumps({"status": answer.status_code, "body": body}))
"""


def asked(machine: Docker, certificate: Path, *paths: tuple[str, str]) -> list[dict[str, Any]]:
    """The published port, from beside dockerd, with the certificate verified. Each path with a token or without one."""
    words = [word for path in paths for word in path]
    said = machine.run(sys.executable, "-c", ASK, certificate, *words).stdout
    return [json.loads(line) for line in said.splitlines()]
