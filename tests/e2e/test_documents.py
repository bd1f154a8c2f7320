"""What the documents tell people to type on a local stack, typed as it stands there, on the tests' own stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.stack.stack import StackPlace
from tests.documents.book import arguments, block, chosen, filled, told, typed
from tests.e2e.conftest import User, until
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack]


@pytest.fixture(scope="module")
def readme_job(user: User) -> str:
    """The README's job, reclaimed once. It counts on while the tests below type the rest."""
    begin, up, submit, running, reclaim, *_ = block("README.md", "perdure=.venv/bin/perdure")
    said = typed([begin, up, submit, running, reclaim, "echo $id"], PATIENCE, PERDURE_STACK=user.stack)
    return said.strip()


def test_what_one_asks_of_it(user: User, readme_job: str) -> None:
    jobs, job, report, *_ = block("README.md", "perdure jobs")
    said = typed([jobs, filled(job, {"ID": readme_job}), report], PATIENCE, PERDURE_STACK=user.stack)
    assert said.count(readme_job) >= 2 and "Spot Protections" in said, said


def test_the_configuration_by_curl(user: User) -> None:
    read, change = block("docs/configuration.md", "curl -s  $SERVER")
    assert json.loads(typed(read, PATIENCE, SERVER=user.status["api_url"]))["checkpoint"]["interval_seconds"] == 900
    try:
        typed(change, PATIENCE, SERVER=user.status["api_url"])
        assert user.api.get("/api/v1/configuration").json()["checkpoint"]["interval_seconds"] == 600
    finally:
        user.api.patch("/api/v1/configuration/checkpoint", json={"interval_seconds": None}).raise_for_status()


@pytest.fixture
def local_ebs(user: User) -> Iterator[None]:
    """As it was before, afterwards."""
    yield
    user.cloud.post("/_local/faults/clear").raise_for_status()
    user.cloud.post("/_local/ebs", json={"profile": "fast"}).raise_for_status()


def test_a_slow_and_unkind_aws(user: User, local_ebs: None) -> None:
    *slow_and_unkind, clear = block("docs/local-faults.md", "perdure local fault ebs --profile documented")
    said = typed(slow_and_unkind, PATIENCE, PERDURE_STACK=user.stack)
    assert "documented (seed 7)" in said, said
    found = user.cloud.get("/_local/ebs").json()
    assert (found["rates"]["dead_host_release"], found["rates"]["detach"]) == (20, 5)
    told_of = [(one["kind"], one["action"], one["times"]) for one in found["faults"]]
    assert told_of == [("stuck-detaching", "", 1), ("throttle", "CreateSnapshot", 20)]
    assert all(kind in said for kind, _, _ in told_of), said
    typed(clear, PATIENCE, PERDURE_STACK=user.stack)
    assert user.cloud.get("/_local/ebs").json()["faults"] == []


def test_a_job_with_everything_that_can_be_said_of_it(user: User, tmp_path: Path) -> None:
    submit = chosen(
        "README.md",
        "perdure local submit",
        "--name documented --vcpus 1 --memory 256 --queue default --attempts 3 --interval 5m --env GREETING=hello "
        "--mount HOST:/opt/go --host-rules --job-role reader -- /bin/sh -c "
        "'echo $GREETING >/srv/note; until [ -e /opt/go/flag ]; do sleep 0.1; done'",
    )
    _, *words = arguments(filled(submit, {"HOST": str(tmp_path)}))
    id_ = {"ID": user.local(*words)[0].strip()}
    runs = filled(chosen("README.md", "perdure local wait ID", "--running"), id_)
    user.local(*arguments(runs)[1:])
    take = filled(told("README.md", "perdure local checkpoint --job ID"), id_)
    assert int(user.local(*arguments(take)[1:])[0]) == 1
    copy = filled(
        told("README.md", "perdure local cp ID:PATH DEST"), {"PATH": "/srv/note", "DEST": f"{tmp_path}/note"} | id_
    )
    user.local(*arguments(copy)[1:])
    assert (tmp_path / "note").read_text() == "hello\n"
    place = user.placed(id_["ID"])
    there = next(node["zone"] for node in user.status["nodes"] if node["zone"] != place["zone"])
    reclaim = filled(
        chosen("README.md", "perdure local reclaim", "--node NODE --to-zone ZONE --notice 10 --rebalance"),
        {"NODE": place["node"], "ZONE": there},
    )
    user.local(*arguments(reclaim)[1:])
    (tmp_path / "flag").touch()
    wait = filled(chosen("README.md", "perdure local wait ID", "--timeout 300 --json"), id_)
    end = json.loads(user.local(*arguments(wait)[1:])[0])
    assert (end["status"], end["protections"], end["zones"]) == ("SUCCEEDED", 1, [place["zone"], there])
    logs = filled(told("README.md", "perdure local logs ID"), id_)
    assert user.local(*arguments(logs)[1:]) == ("", "")


def test_sign_in_without_aws(user: User) -> None:
    up, sign_in = block("docs/sign-in.md", "perdure local up --detach")
    ask, *_, read, refresh = block("docs/sign-in.md", "curl -s $SERVER/api/v1/auth/sign-in")
    server = user.status["api_url"]
    show, disable = (
        told("docs/sign-in.md", "perdure auth cognito show"),
        told("docs/sign-in.md", "perdure auth cognito disable"),
    )
    database = f"sqlite:///{StackPlace(user.stack).folder}/server/perdure.db"
    try:
        name, password = typed([up, sign_in], PATIENCE, PERDURE_STACK=user.stack).split()
        assert name == "ann"
        until(lambda: user.api.get("/api/v1/jobs").status_code == 401, "everybody is asked to sign in")
        answer = json.loads(typed(filled(ask, {"…": password}), PATIENCE, SERVER=server))
        assert answer["me"]["name"] == "ann" and answer["me"]["role"] == "admin", answer
        tokens = answer["tokens"]
        assert "items" in json.loads(typed(read, PATIENCE, SERVER=server, ID_TOKEN=tokens["id_token"]))
        again = json.loads(typed(filled(refresh, {"…": tokens["refresh_token"]}), PATIENCE, SERVER=server))
        assert again["tokens"]["id_token"], again
        assert "enabled  true" in typed(show, PATIENCE, PERDURE_DATABASE_URL=database)
    finally:
        typed(disable, PATIENCE, PERDURE_DATABASE_URL=database)
        until(lambda: user.api.get("/api/v1/jobs").status_code == 200, "nobody is asked any more")


def test_the_readmes_job_comes_to_its_end(user: User, readme_job: str) -> None:
    """Its last line, which ends the stack, is typed where the tests' stack ends (tests/conftest.py)."""
    *_, wait, logs, _ = block("README.md", "perdure=.venv/bin/perdure")
    ended = typed([wait, "echo --- logs", logs], PATIENCE, PERDURE_STACK=user.stack, id=readme_job)
    how, counted = ended.split("--- logs\n")
    # More than one when the job above happened to be on its node.
    assert "SUCCEEDED" in how and re.search(r"protections  [12]\n", how), how
    assert counted.split() == [str(number) for number in range(1, 61)]
