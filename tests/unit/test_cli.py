"""The command line: spellings, sentences and exit codes, against a stack that is not there and one that is played."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from localcloud.cli.jobs import checked_interval
from localcloud.stack.job_request import (
    JobRequest,
    container_properties,
    definition_name,
    parse_mount,
    parse_variable,
    retry_strategy,
)
from localcloud.stack.stack import StackPhase, StackPlace, StackState, claimed, is_claimed, read_state, write_state
from localcloud.stack.sweep import KEPT_SECONDS, forget_ended
from perdure.cli import tables
from perdure.cli.main import NO_STACK, exit_code, run
from perdure.domain.errors import (
    CheckpointFailed,
    ConfigurationInvalid,
    StackError,
    StackMissing,
    UnknownJob,
    UnknownNode,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test here meets a stack of this machine."""
    monkeypatch.setenv("PERDURE_LOCAL_DIR", str(tmp_path))
    monkeypatch.delenv("PERDURE_STACK", raising=False)
    monkeypatch.delenv("PERDURE_DEBUG", raising=False)
    return tmp_path


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr, which must be one line and no traceback; stdout must be empty."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("perdure: ") and said.err.count("\n") == 1, said.err
    return said.err.removeprefix("perdure: ").strip()


@pytest.mark.parametrize(
    "line",
    [
        "local",
        "local nosuch",
        "--nosuch",
        "local wait",
        "local logs",
        "local submit",
        "local submit --attempts 11 -- true",
        "local submit --attempts 0 -- true",
        "local submit --memory lots -- true",
        "local submit --env NAME -- true",
        "local submit --env =value -- true",
        "local submit --mount /here -- true",
        "local submit --mount here:/there -- true",
        "local submit --interval banana -- true",
        "local submit --interval=-5m -- true",
        "local submit --interval 500ms -- true",
        "local reclaim",
        "local reclaim --job a --node b",
        "local reclaim --job a --notice=-1",
        "local checkpoint",
        "local cp nocolon dest",
        "local cp :/path dest",
        "local status --stack Not_A_Name",
        "local up --stack ../../etc",
        "local up --engine podman",
        "local image",
        "local image build",
        "local image build name",
        "local image build Name python3",
        "local image build localhost/machine python3",
        "local image build name --include=x",
        "demo --reclaims 0",
        "demo --engine podman",
    ],
)
def test_wrong_usage_is_one_sentence_and_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2
    assert sentence(capsys)


@pytest.mark.parametrize(
    "line",
    [
        "local status",
        "local status --json",
        "local submit -- true",
        "local reclaim --node i-1",
        "local checkpoint --job j",
        "local wait j",
        "local logs j",
        "local cp j:/x /tmp/x",
    ],
)
def test_without_a_stack_it_says_how_to_start_one_and_5(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*line.split()[:2], "--stack", "s", *line.split()[2:]]) == 5
    assert "perdure local up --detach --stack s" in sentence(capsys)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (ConfigurationInvalid("x"), 2),
        (UnknownJob("x"), 3),
        (UnknownNode("x"), 3),
        (TimeoutError("x"), 4),
        (StackMissing("x"), 5),
        (StackError("x"), 1),
        (CheckpointFailed("x"), 1),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_code(problem: Exception, code: int) -> None:
    assert exit_code(problem) == code


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("perdure ")


# A stack that is played: its lock held by us, its addresses one small server of ours.


class Played(http.server.BaseHTTPRequestHandler):
    """Answers from `answers`: (method, path) → (status, document)."""

    answers: dict[tuple[str, str], tuple[int, Any]]

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer("POST")

    def _answer(self, method: str) -> None:
        status, document = self.answers.get(
            (method, self.path.partition("?")[0]), (404, {"error": "There is no such thing."})
        )
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def played(folder: Path) -> Iterator[dict[tuple[str, str], tuple[int, Any]]]:
    """The answers of a played stack named `default`, to be filled."""
    answers: dict[tuple[str, str], tuple[int, Any]] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Played,), {"answers": answers}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    place = StackPlace(base=folder)
    place.folder.mkdir()
    state = StackState(
        stack="default",
        phase=StackPhase.READY,
        api_url=url,
        aws_endpoint_url=url,
        region="us-east-1",
        queues=["default"],
    )
    write_state(place, state)
    try:
        with claimed(place):
            yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def batch_job(status: str, **more: Any) -> dict[str, Any]:
    return {"jobs": [{"jobId": "j", "jobName": "n", "status": status, **more}]}


Answers = dict[tuple[str, str], tuple[int, Any]]


def test_status_is_one_json_object(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [{"id": f"i-{state}", "zone": "z", "state": state} for state in ("launching", "ready", "noticed", "gone")]
    played["GET", "/_local/status"] = 200, {"nodes": nodes, "jobs": [{"id": "j"}]}
    assert run(["local", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"api_url", "temporal_ui_url", "aws_endpoint_url", "region", "queues", "nodes", "jobs"} <= found.keys()
    assert [node["state"] for node in found["nodes"]] == ["ready", "noticed", "gone"]
    assert found["temporal_ui_url"] is None


def test_wait_joins_batch_and_the_api(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    played["POST", "/v1/describejobs"] = 200, batch_job("SUCCEEDED", container={"exitCode": 0}, attempts=[{}, {}])
    played["GET", "/_local/jobs/j"] = 200, {"zones": ["a", "b"]}
    played["GET", "/api/v1/jobs/j"] = (
        200,
        {
            "state": "Succeeded",
            "finished_at": "2026-11-22T00:00:00Z",
            "protections": 1,
            "checkpoints_committed": 4,
            "max_rootfs_bytes": 10,
            "outages": [{"seconds": 2.5, "phases": {"restored": 1.0}, "epoch": 1}],
        },
    )
    assert run(["local", "wait", "j", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "id": "j",
        "name": "n",
        "status": "SUCCEEDED",
        "status_reason": None,
        "perdure_state": "Succeeded",
        "exit_code": 0,
        "attempts": 2,
        "protections": 1,
        "checkpoints": 4,
        "zones": ["a", "b"],
        "outages": [{"seconds": 2.5, "phases": {"restored": 1.0}}],
        "max_rootfs_bytes": 10,
    }


def test_wait_for_a_failed_job_that_ran_unprotected_is_1_and_what_is_unknown_is_null(
    played: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    played["POST", "/v1/describejobs"] = 200, batch_job("FAILED")
    played["GET", "/_local/jobs/j"] = 200, {"zones": ["a"]}
    assert run(["local", "wait", "j", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    unknown = {"perdure_state", "exit_code", "protections", "checkpoints", "outages", "max_rootfs_bytes"}
    assert {name for name, value in found.items() if value is None} == {*unknown, "status_reason"}


@pytest.mark.parametrize(("status", "code"), [("RUNNING", 0), ("SUCCEEDED", 0), ("FAILED", 1), ("STARTING", 4)])
def test_wait_until_it_runs(status: str, code: int, played: Answers) -> None:
    played["POST", "/v1/describejobs"] = 200, batch_job(status)
    assert run(["local", "wait", "j", "--running", "--timeout", "0"]) == code


def test_wait_that_runs_out_of_time_is_4(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    played["POST", "/v1/describejobs"] = 200, batch_job("RUNNING")
    assert run(["local", "wait", "j", "--timeout", "0"]) == 4
    assert "still RUNNING" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["wait", "j"], ["logs", "j"], ["cp", "j:/x", "/tmp/x"], ["checkpoint", "--job", "j"]]
)
def test_an_unknown_job_is_3(command: list[str], played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    played["POST", "/v1/describejobs"] = 200, {"jobs": []}
    assert run(["local", *command]) == 3
    assert sentence(capsys)


def test_an_unknown_node_is_3_and_a_finished_job_1(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["local", "reclaim", "--node", "i-1"]) == 3
    assert sentence(capsys)
    played["POST", "/_local/reclaim"] = 409, {"error": "Job j is finished."}
    assert run(["local", "reclaim", "--job", "j"]) == 1
    assert sentence(capsys) == "Job j is finished."


def test_reclaim_returns_when_the_node_is_gone(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    played["POST", "/_local/reclaim"] = 202, {"id": "r"}
    steps = [{"at": 1, "what": "notice given"}, {"at": 2, "what": "terminated"}]
    played["GET", "/_local/reclaims/r"] = 200, {"id": "r", "node": "i-1", "state": "done", "steps": steps}
    assert run(["local", "reclaim", "--job", "j", "--to-zone", "b"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err == "i-1: notice given\ni-1: terminated\n"


def test_checkpoint_prints_the_number_alone_or_why_not(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    played["POST", "/api/v1/jobs/j/checkpoints"] = 201, {"number": 7}
    assert run(["local", "checkpoint", "--job", "j"]) == 0
    assert capsys.readouterr().out == "7\n"
    played["POST", "/api/v1/jobs/j/checkpoints"] = 409, {"error": {"code": "c", "message": "It is traced."}}
    assert run(["local", "checkpoint", "--job", "j"]) == 1
    assert sentence(capsys) == "It is traced."


def test_submit_prints_the_id_alone(played: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    registered = {"jobDefinitionName": "local-job", "jobDefinitionArn": "arn:aws:batch:::x", "revision": 1}
    played["POST", "/v1/registerjobdefinition"] = 200, registered
    played["POST", "/v1/submitjob"] = 200, {"jobId": "an-id", "jobName": "job"}
    assert run(["local", "submit", "--env", "A=b=c", "--", "sh", "-c", "exit"]) == 0
    assert capsys.readouterr() == ("an-id\n", "")


def test_a_stack_that_does_not_answer_is_one_sentence(
    played: Answers, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = StackPlace(base=folder)
    state = read_state(place)
    assert state is not None
    write_state(
        place, state.model_copy(update={"aws_endpoint_url": "http://127.0.0.1:1", "api_url": "http://127.0.0.1:1"})
    )
    for command in (["status"], ["reclaim", "--node", "i-1"], ["checkpoint", "--job", "j"]):
        assert run(["local", *command]) == 1
        assert "does not answer" in sentence(capsys)


# The pieces.


def test_no_id_is_broken_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "console", lambda: Console(width=60, force_terminal=True, no_color=True))
    child = "8b257fb8-3369-437a-8794-cfc2ac6670f7:1204"
    tables.show_table(["job", "queue", ">protections"], [[child, "a queue of a long name", 12]], "")
    said = capsys.readouterr().out
    assert child in said and "protections" in said


def test_a_stack_is_running_only_while_its_lock_is_held(folder: Path) -> None:
    place = StackPlace("s", folder)
    assert not is_claimed(place)
    with claimed(place):
        assert is_claimed(place)
        with pytest.raises(StackError), claimed(place):
            pass
    assert not is_claimed(place)


def test_what_is_left_of_a_stack_is_forgotten_a_day_after_its_end(folder: Path) -> None:
    now = 1_800_000_000.0
    ages = {"stopped": KEPT_SECONDS + 60, "killed": KEPT_SECONDS + 60, "runs": KEPT_SECONDS + 60, "lately": 60.0}
    places = {name: StackPlace(name, folder) for name in ages}
    for name, place in places.items():
        with claimed(place):
            place.logs.mkdir(parents=True)
            (place.logs / "supervisor.log").write_text("its words")
        if name == "killed":
            write_state(place, StackState(stack=name, phase=StackPhase.READY))
        for path in (place.lock_file, place.state_file, *place.logs.iterdir()):
            if path.exists():
                os.utime(path, (now - ages[name],) * 2)
    (folder / "no-stack").mkdir()
    with claimed(places["runs"]):
        assert forget_ended(folder, now) == ["killed", "stopped"]
    left = {".lately.lock", ".runs.lock", "lately", "runs", "no-stack"}
    assert {entry.name for entry in folder.iterdir()} == left
    assert (places["lately"].logs / "supervisor.log").read_text() == "its words"


def test_a_lock_that_was_forgotten_meanwhile_is_not_a_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, flock = StackPlace("s", folder), fcntl.flock

    def forgotten_once(*arguments: Any) -> None:
        monkeypatch.undo()
        place.lock_file.unlink()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", forgotten_once)
    with claimed(place):
        assert is_claimed(place)


def test_a_running_stack_keeps_its_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = StackPlace("s", folder)
    with claimed(place):
        place.folder.mkdir()
        write_state(place, StackState(stack="s", phase=StackPhase.READY, engine="docker"))
        assert run(["local", "up", "--detach", "--stack", "s"]) == 1
        assert "engine docker" in sentence(capsys)
        assert run(["local", "up", "--detach", "--stack", "s", "--engine", "docker"]) == 0


def test_a_job_names_its_image_or_gets_the_machine() -> None:
    assert container_properties(JobRequest(command=["true"], image="bio"))["image"] == "bio"
    assert container_properties(JobRequest(command=["true"]))["image"] == "localhost/machine"


def test_stacks_of_one_name_in_two_folders_share_no_cgroup() -> None:
    assert StackPlace("s").cgroup == "/perdure/s"
    other = StackPlace("s", Path("/srv/stacks"))
    assert other.cgroup.startswith("/perdure/s.") and other.mark != StackPlace("s").mark


def test_the_default_retry_rules_put_out_of_memory_before_137() -> None:
    strategy = retry_strategy(10)
    assert strategy["attempts"] == 10
    assert [
        (rule["action"], {k: v for k, v in rule.items() if k != "action"}) for rule in strategy["evaluateOnExit"]
    ] == [
        ("EXIT", {"onReason": "OutOfMemory*"}),
        ("RETRY", {"onStatusReason": "Host EC2*"}),
        ("RETRY", {"onExitCode": "137"}),
        ("EXIT", {"onReason": "*"}),
    ]


@given(st.text(max_size=300))
def test_any_job_name_gives_a_valid_definition_name(name: str) -> None:
    made = definition_name(name)
    assert 1 <= len(made) <= 128 and all(char.isascii() and (char.isalnum() or char in "-_") for char in made)


@given(st.text(min_size=1).filter(lambda name: "=" not in name), st.text())
def test_a_variable_keeps_its_value_whatever_it_holds(name: str, value: str) -> None:
    assert parse_variable(f"{name}={value}") == (name, value)


def test_mounts_become_host_volumes() -> None:
    properties = container_properties(JobRequest(["true"], mounts=[parse_mount("/a:/b")]))
    assert properties["volumes"] == [{"name": "mount0", "host": {"sourcePath": "/a"}}]
    assert properties["mountPoints"] == [{"sourceVolume": "mount0", "containerPath": "/b", "readOnly": False}]


@pytest.mark.parametrize("text", ["0", "1s", "15m", "1h30m", "2.5s"])
def test_usable_intervals_go_to_the_job_as_written(text: str) -> None:
    assert checked_interval(text) == text


def test_issue_15_13_the_only_running_stack_is_meant(
    played: Answers, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack of `make demo` is called `demo`; nobody should have to know that."""
    played["GET", "/_local/status"] = 200, {"nodes": [], "jobs": []}
    played["GET", "/api/v1/jobs"] = 200, {"items": [], "next": None}
    default = StackPlace(base=folder)
    state = read_state(default)
    assert state is not None
    demo = StackPlace("demo", folder)
    demo.folder.mkdir()
    write_state(demo, state.model_copy(update={"stack": "demo"}))
    write_state(default, state.model_copy(update={"phase": StackPhase.STOPPING}))
    monkeypatch.setenv("HOME", str(folder))
    with claimed(demo):
        assert run(["local", "status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["stack"] == "demo"
        assert run(["jobs", "--json"]) == 0, capsys.readouterr().err
        assert json.loads(capsys.readouterr().out) == []
        write_state(default, state)
        for line in ("local status", "jobs"):
            assert run(line.split()) == NO_STACK
            said = sentence(capsys)
            assert "several stacks run here: default, demo" in said and "PERDURE_STACK=" in said
        assert run(["local", "status", "--json", "--stack", "default"]) == 0
        capsys.readouterr()
        monkeypatch.setenv("PERDURE_STACK", "nosuch")
        assert run(["jobs"]) == NO_STACK
        assert "no stack 'nosuch' is running (default, demo run)" in sentence(capsys)


def test_a_command_that_is_half_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wheel alone brings each command, but not what all of them need."""

    def start_stack(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    monkeypatch.setattr("localcloud.stack.control.start_stack", start_stack)
    monkeypatch.setitem(sys.modules, "worker_agent.doctor.command", None)
    assert run(["local", "up"]) == 1
    assert "No module named 'psutil'; install Perdure's wheel with [local]" in capsys.readouterr().err
    assert run(["doctor"]) == 2
    assert "the agent is not installed here" in capsys.readouterr().err
