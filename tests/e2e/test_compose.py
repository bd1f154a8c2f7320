"""The management server of a release: from the stack's user data to an API that answers, and the documents' commands on
that machine.

Its image is built from the release's sources alone. What it pulls is stood in for (tests/e2e/stand_ins/README.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from perdure import waiting
from tests.documents.book import block, filled
from tests.e2e.compose_bed import ADDRESS, DATA_VOLUME, STAND_INS, Machine, machine
from tests.e2e.compose_parts import ROOT, sources, wheels
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
SERVER = "/opt/perdure-server"
"""Where user data unpacks the sources."""
SECRETS = "/var/lib/perdure/server/first-start"
DATA = "/var/lib/perdure-server"
QUEUES = {
    "Interruptions": "https://sqs.us-east-1.amazonaws.com/123456789012/perdure-interruptions",
    "JobEvents": "https://sqs.us-east-1.amazonaws.com/123456789012/perdure-job-events",
}
UP_SECONDS = 600


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


def user_data(source: Path) -> str:
    """The template's, with what CloudFormation would put in."""
    text = (ROOT / "deploy/cloudformation/server.yaml").read_text()
    found = re.search(r"Fn::Base64: !Sub \|\n((?: {10}.*\n)+)", text)
    assert found is not None
    values = {
        "AWS::Region": "us-east-1",
        "Source": f"s3://bucket/{source.name}",
        "SourceSha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "Data": DATA_VOLUME,
        "JobQueues": "",
        **QUEUES,
    }
    return re.sub(r"\$\{([\w:]+)\}", lambda name: values[name[1]], found[1].replace(" " * 10, ""))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine after its first boot by user data."""
    bucket = tmp_path_factory.mktemp("buckets") / "bucket"
    bucket.mkdir()
    source = sources(bucket)
    with machine() as made:
        wheels(made.at(SERVER) / "wheels")
        plugin = made.at("/root/.docker/cli-plugins/docker-compose")
        plugin.parent.mkdir(parents=True)
        shutil.copy(STAND_INS / "programs/docker-plugin", plugin)
        made.boots(user_data(source), bucket.parent)
        yield made


def test_user_data_brings_the_server_up_from_the_sources_of_the_release(server: Machine) -> None:
    wait(lambda: healthy(server), "the API serves", server)
    assert server.run("findmnt", "--noheadings", "--output", "FSTYPE", DATA).stdout.strip() == "ext4"
    assert json.loads(server.at("/etc/docker/daemon.json").read_text()) == {"data-root": f"{DATA}/docker"}
    said = server.typed(block("docs/server-stack.md", "cd /opt/perdure-server"))
    token, _, rest = said.partition("\n")
    assert token.startswith("prd_") and f'address = "{ADDRESS}:7234"' in rest
    assert token not in server.run("/usr/bin/docker", "logs", "perdure-server_api_1").stdout

    health, jobs, stranger, page = asked(
        server, ("/api/v1/health", token), ("/api/v1/jobs", token), ("/api/v1/jobs", ""), ("/", "")
    )
    assert health["status"] == 200 and health["body"]["status"] == "ok", health
    assert jobs == {"status": 200, "body": {"items": [], "next": None}}
    assert stranger["status"] == 401
    assert '<div id="console">' in page["body"], "the image holds the console"
    assert inside(server, "api", "id", "-u").strip() == "10001"
    control = inside(server, "control", "env").splitlines()
    assert f"PERDURE_INTERRUPTION_QUEUE={QUEUES['Interruptions']}" in control
    assert f"PERDURE_JOB_EVENT_QUEUE={QUEUES['JobEvents']}" in control
    wait(lambda: polled(server, f"{DATA}/certificates/temporal.toml"), "the control worker serves, by the gate", server)


def test_the_lines_for_a_server_of_your_own(server: Machine) -> None:
    begin = block("docs/server.md", "cp deploy/docker/example.env .env")
    assert len(begin) == 4
    server.typed(begin[0], SERVER)
    settings = server.at(f"{SERVER}/.env")
    passwords = server.at(f"{DATA}/env").read_text()
    queues = "PERDURE_INTERRUPTION_QUEUE={Interruptions}\nPERDURE_JOB_EVENT_QUEUE={JobEvents}\n".format(**QUEUES)
    settings.write_text(f"{settings.read_text()}{passwords}AWS_REGION=us-east-1\n{queues}")
    server.typed(begin[1], SERVER, limit=UP_SECONDS)
    token = server.typed(begin[2], SERVER).strip()
    said = server.typed(begin[3], SERVER, {"Trust it?": "y"}, {"API token": token})
    assert "signed in to https://127.0.0.1:8443" in said


def test_the_lines_for_a_gate_before_temporal(server: Machine) -> None:
    settings = server.at(f"{SERVER}/.env")
    settings.write_text(
        f"{settings.read_text()}TEMPORAL_GATE_PUBLISH={ADDRESS}\nTEMPORAL_CERTIFICATES=/etc/perdure/certificates\n"
    )
    lines = block("docs/security.md", "sh deploy/docker/temporal-certificates.sh")
    server.typed(filled("\n".join(lines), {"ADDRESS-OF-THE-SERVER": ADDRESS}), SERVER, limit=UP_SECONDS)
    wait(lambda: polled(server, "/etc/perdure/certificates/temporal.toml"), "the new gate serves", server)
    assert not polled(server, f"{DATA}/certificates/temporal.toml"), "another authority's certificate"


def test_files_settings_and_other_sources_hold_from_the_next_boot_on(server: Machine) -> None:
    folder = server.at(f"{SERVER}/build/release")
    folder.mkdir(parents=True)
    (folder / "perdure-install").write_text("#!/bin/sh\necho the installer\n")
    server.at("/etc/perdure").mkdir(exist_ok=True)
    server.at("/etc/perdure/store.key").write_text("a-key\n")
    server.typed(block("docs/server.md", "# the release for instances"), SERVER)
    kept = inside(server, "api", "ls", "-l", "/var/lib/perdure/server/store.key", "/var/lib/perdure/server/release")
    assert re.search(r"^-rw-------.*store\.key$", kept, re.MULTILINE) and "perdure-install" in kept, kept

    token = inside(server, "api", "cat", f"{SECRETS}/admin-token")
    before = certificates(server)
    settings = server.at(f"{DATA}/env")
    wishes = "PERDURE_RELEASE_DIR=/var/lib/perdure/server/release\nTEMPORAL_GATE_NAME=perdure.example.internal\n"
    settings.write_text(settings.read_text() + wishes)
    unpack = "tar -xzf /root/perdure.tar.gz -C perdure-server --strip-components 1"
    away = (
        "mv perdure-server perdure-server.before; mkdir perdure-server; mv perdure-server.before/wheels perdure-server"
    )
    server.typed([away, unpack], "/opt")  # as docs/upgrading.md tells
    server.typed("systemctl restart perdure-server", limit=UP_SECONDS)
    wait(lambda: healthy(server), "the API serves again", server)
    assert inside(server, "api", "cat", f"{SECRETS}/admin-token") == token
    after = certificates(server)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"gate.pem", "temporal.toml"}, "what names the gate"
    assert 'address = "perdure.example.internal:7234"' in after["temporal.toml"]
    [installer] = asked(server, ("/install", ""))
    told = f"set -- --from 'https://{ADDRESS}:8443/install' \"$@\""
    assert installer == {"status": 200, "body": f"#!/bin/sh\n{told}\necho the installer\n"}


def certificates(server: Machine) -> dict[str, str]:
    folder = server.at(f"{DATA}/certificates")
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".srl"}


def inside(server: Machine, service: str, *words: str) -> str:
    """What a program in a service's container says. By docker, which starts ten times as fast as docker-compose."""
    return server.run("/usr/bin/docker", "exec", f"perdure-server_{service}_1", *words).stdout


def healthy(server: Machine) -> bool:
    """What the container's own health check says."""
    words = ("inspect", "--format", "{{.State.Health.Status}}", "perdure-server_api_1")
    return server.run("/usr/bin/docker", *words, check=False).stdout.strip() == "healthy"


def polled(server: Machine, configuration: str) -> bool:
    """Whether the control worker asks Temporal for work, as somebody hears who has this configuration."""
    words = ("task-queue", "describe", "--task-queue", "control", "--output", "json")
    temporal = Path(sys.executable).parent / "temporal"
    done = server.run(temporal, *words, check=False, more={"TEMPORAL_CONFIG_FILE": configuration})
    pollers = (json.loads(done.stdout)["pollers"] or []) if done.returncode == 0 else []
    return any(one["taskQueueType"] == "workflow" for one in pollers)


def wait(condition: Callable[[], bool], what: str, server: Machine) -> None:
    try:
        waiting.until(condition, PATIENCE, 0.5)
    except TimeoutError as late:
        said = server.typed(["docker-compose ps", "docker-compose logs --no-color --tail=60"], SERVER)
        raise AssertionError(f"not in time: {what}\n{said}") from late


ASK = """
import json, ssl, sys, httpx
host, *asked = sys.argv[1:]
context = ssl.create_default_context(cadata=sys.stdin.read())
context.check_hostname = False  # it is of the container's own making and names loopback
for path, token in zip(asked[::2], asked[1::2]):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"https://{host}:8443{path}", verify=context, headers=headers, timeout=300)
    body = answer.json() if "json" in answer.headers["content-type"] else answer.text
    print(json.dumps({"status": answer.status_code, "body": body}))
"""


def asked(server: Machine, *paths: tuple[str, str]) -> list[dict[str, Any]]:
    """The published port, from beside dockerd, with the certificate verified. Each path with a token or without one."""
    words = [word for path in paths for word in path]
    certificate = inside(server, "api", "cat", f"{SECRETS}/server.crt")
    said = server.run(sys.executable, "-c", ASK, ADDRESS, *words, given=certificate).stdout
    return [json.loads(line) for line in said.splitlines()]
