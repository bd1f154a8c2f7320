"""The command line against a real server: API over TLS, sign-in required, real records."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from localcloud.stack.waiting import free_port
from perdure import waiting
from perdure.cli.main import run
from perdure.domain.jobs import Attempt, JobEvent, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.records.jobs import jobs
from perdure.records.nodes import nodes
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.stores.directory import DirectoryObjects
from perdure.stores.patience import Patient
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.documents.book import arguments, block, filled, told, typed
from tests.integration.test_records import NOW, full_job
from tests.patience import PATIENCE
from tests.stores.checkpoint_bed import JOB, JobRoot


@dataclass
class Server:
    url: str
    token: str
    fingerprint: str
    database: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With three jobs and two nodes, a self-signed certificate and one admin token."""
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:///{folder}/perdure.db"
    fill(url)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    environment |= {
        "PERDURE_DATABASE_URL": url,
        "PERDURE_API_HOST": "127.0.0.1",
        "PERDURE_API_PORT": str(port),
        "PERDURE_BOOTSTRAP_DIR": str(folder / "first-start"),
        "PERDURE_REQUIRE_SIGN_IN": "true",
        "PERDURE_API_NAMES": "perdure.example",
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
    }
    api = [sys.executable, *told("docs/server.md", "python -m api").split()[1:]]
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(api, env=environment, stdout=log, stderr=log)
    try:
        waiting.until(lambda: answers(port) or program.poll() is not None, PATIENCE)
        assert program.poll() is None, (folder / "log").read_text()
        certificate = x509.load_pem_x509_certificate((folder / "first-start/server.crt").read_bytes())
        token = (folder / "first-start/admin-token").read_text().strip()
        yield Server(f"https://127.0.0.1:{port}", token, certificate.fingerprint(hashes.SHA256()).hex(), url)
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(PATIENCE)


def fill(url: str) -> None:
    engine = open_engine(url)
    migrate(engine)
    for number, state in enumerate((JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED), start=1):
        job = full_job(f"job-{number}", name=f"=align {number}", created_at=NOW + timedelta(hours=number), state=state)
        if state is JobState.RUNNING:  # its next container is being made ready
            waiting = Attempt(
                epoch=3, attempt=2, instance_id="i-2", zone="us-east-1a", container_id="d" * 64, accepted_at=NOW
            )
            job = job.model_copy(update={"attempts": [*job.attempts, waiting]})
        line = JobEvent(sequence=1, at=NOW, kind="remark", message="it \x1b[31m began", level="warning")
        with writing(engine) as session:
            jobs.record_job(session, job, [line], 1)
    with writing(engine) as session:
        for number, where in ((1, NodeState.GONE), (2, NodeState.READY)):
            node = Node(instance_id=f"i-{number}", zone="us-east-1a", state=where, first_seen_at=NOW, ended_at=NOW)
            nodes.record_node(session, node)
    engine.dispose()


def answers(port: int) -> bool:
    try:
        httpx.get(f"https://127.0.0.1:{port}/api/v1/auth", verify=False, timeout=PATIENCE)
    except httpx.HTTPError:
        return False
    return True


@dataclass
class Done:
    """What a command line left."""

    stdout: str
    stderr: str


class User:
    """Somebody with a home folder of his own. His command lines run in this process, which is much quicker."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str, given: str = "", status: int = 0, **environment: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in list(os.environ):
                if name.startswith(("PERDURE_", "XDG_")):
                    patch.delenv(name)
            own = {"HOME": str(self.home), "PERDURE_LOCAL_DIR": str(self.home), **environment}
            for name, value in own.items():
                patch.setenv(name, value)
            patch.setattr("sys.stdin", io.StringIO(given))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(list(words))
        done = Done(out.getvalue(), err.getvalue())
        assert code == status, f"{words}: {code}\n{done}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture
def stranger(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture(scope="module")
def ann(server: Server, tmp_path_factory: pytest.TempPathFactory) -> User:
    """Signed in."""
    user = User(tmp_path_factory.mktemp("ann"))
    said = user.run("login", server.url, "--token", "--fingerprint", server.fingerprint, given=f"{server.token}\n")
    assert said.stdout == f"signed in to {server.url} as first start (token 1) (admin)\n"
    return user


def test_signing_in_needs_a_certificate_and_a_proof(server: Server, stranger: User) -> None:
    said = stranger.run("jobs", status=5).stderr
    assert "perdure login URL" in said
    login = arguments(filled(told("README.md", "perdure login https://HOST:8443"), {"https://HOST:8443": server.url}))
    assert f"Its SHA-256 is {server.fingerprint}" in stranger.run(*login, given=server.token, status=1).stderr
    said = stranger.run("login", server.url, "--fingerprint", "00" * 32, given=server.token, status=1).stderr
    assert "shows another certificate" in said
    trust = ("--fingerprint", server.fingerprint.upper())
    said = stranger.run("login", server.url, *trust, given="prd_nonsense\n", status=1).stderr
    assert "perdure login" in said
    assert "no api token was given" in stranger.run("login", server.url, *trust, status=1).stderr
    assert not list(stranger.home.rglob("servers.json")), "nothing is kept of a sign-in that failed"


def test_what_is_kept_is_the_users_own_and_goes_with_logout(server: Server, stranger: User) -> None:
    stranger.run("login", server.url, "--fingerprint", server.fingerprint, PERDURE_TOKEN=server.token)
    (kept,) = stranger.home.rglob("servers.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stranger.run("whoami").stdout == f"first start (token 1) (admin, by token) at {server.url}\n"
    stranger.run("logout")
    assert server.token not in kept.read_text()
    stranger.run("whoami", status=5)
    kept.write_text("{nonsense")
    assert "delete it and sign in again" in stranger.run("jobs", status=2).stderr


def test_jobs_as_table_json_and_csv(ann: User) -> None:
    table = ann.run(*arguments(told("README.md", "perdure jobs"))).stdout.splitlines()
    assert table[0].split()[:4] == ["job", "name", "queue", "state"]
    assert [line.split()[0] for line in table[1:]] == ["job-3", "job-2", "job-1"]
    assert [job["job_id"] for job in ann.json("jobs", "--sort", "created_at", "-n", "2")] == ["job-1", "job-2"]
    assert [job["job_id"] for job in ann.json("jobs", "--status", "Failed", "--status", "Running")] == [
        "job-3",
        "job-1",
    ]
    assert [job["job_id"] for job in ann.json("jobs", "align 2")] == ["job-2"]
    assert ann.json("jobs", "--queue", "nosuch") == []
    assert ann.run("jobs", "--queue", "nosuch").stdout == "No jobs.\n"
    assert ann.json("jobs", "--since", "2026-03-02") == []
    lines = ann.run("jobs", "--csv").stdout.splitlines()
    assert len(lines) == 4 and ",'=align 3," in lines[1]
    assert "not usable" in ann.run("jobs", "--since", "yesterday", status=2).stderr


def test_issue_15_12_an_attempt_that_is_being_restored_is_no_clean_start(ann: User) -> None:
    said = ann.run("job", "job-1").stdout
    (waiting,) = [line for line in said.splitlines() if line.split()[:3] == ["2", "3", "i-2"]]
    assert "clean start" not in waiting and "not started yet" in waiting


def test_one_job_its_checkpoints_and_nodes(ann: User) -> None:
    id_ = {"ID": "job-1"}
    said = ann.run(*arguments(filled(told("README.md", "perdure job ID"), id_))).stdout
    for words in (
        "job-1",
        "Running",
        "2.5 s (PERDURE_CHECKPOINT_INTERVAL)",
        "Host EC2*",
        "handed over",
        "waited 30.0 s",
    ):
        assert words in said
    assert "it \N{REPLACEMENT CHARACTER}[31m began" in said, "no control characters reach a terminal"
    assert ann.json("job", "job-1")["events"][0]["sequence"] == 1
    assert "There is no job 'nosuch'" in ann.run("job", "nosuch", status=3).stderr
    assert "Not Found" in ann.run("job", "../nodes", status=3).stderr
    assert [one["number"] for one in ann.json("checkpoints", "list", "job-1")] == [1, 2]
    take = arguments(filled(told("docs/operations.md", "perdure checkpoints take ID"), id_))
    assert "Temporal" in ann.run(*take, status=1).stderr
    assert {node["instance_id"] for node in ann.json("nodes")} == {"i-1", "i-2"}
    assert [node["instance_id"] for node in ann.json("nodes", "--state", "ready")] == ["i-2"]
    nodes_csv = arguments(told("docs/mmbatch-compatibility.md", "perdure nodes --csv"))
    assert ann.run(*nodes_csv).stdout.splitlines()[1].startswith("i-1,")
    assert "has not ended" in ann.run("resume", "job-1", status=1).stderr


def test_reports_and_queues(ann: User) -> None:
    said = ann.run(*arguments(told("README.md", "perdure report"))).stdout
    assert "Spot Protections" in said and "all jobs, from the beginning to now" in said and "estimated" in said
    metrics = {metric["name"]: metric for metric in ann.json("report", "--job", "job-1")["metrics"]}
    assert metrics["spot_protections"]["value"] == 1
    assert "vCPUs that the job asked for" in ann.run("report", "--queue", "default", "--formulas").stdout
    assert ann.run("report", "--csv").stdout.splitlines()[-1].startswith("(all queues),")
    assert ann.json("report", "--since", "2026-04-01")["metrics"][0]["value"] == 0
    (queue,) = ann.json(*arguments(told("docs/mmbatch-compatibility.md", "perdure queues")))
    assert queue["queue"] == "default" and "default" in ann.run("queues").stdout
    assert "not usable" in ann.run("report", "--since", "banana", status=2).stderr


def test_logs_are_listed_shown_and_kept(ann: User, tmp_path: Path) -> None:
    said = ann.run(*arguments(filled(told("docs/operations.md", "perdure logs ID"), {"ID": "job-2"}))).stdout
    assert "timeline.json" in said and "Not to be had" in said
    assert json.loads(ann.run("logs", "job-2", "--file", "job.json").stdout)["job_id"] == "job-2"
    file = tmp_path / "bundle.zip"
    ann.run("logs", "--node", "i-1", "--out", str(file))
    with zipfile.ZipFile(file) as bundle:
        assert bundle.testzip() is None and "node.json" in bundle.namelist()
    assert "name a job, or a node" in ann.run("logs", status=2).stderr
    assert "there is no text file" in ann.run("logs", "job-2", "--file", "nosuch", status=2).stderr
    assert "cannot be written" in ann.run("logs", "job-2", "--out", "/nosuch/folder/x.zip", status=2).stderr


def test_the_configuration_is_read_set_edited_and_remembered(ann: User) -> None:
    assert ann.run("config", "get", "checkpoint.keep").stdout == "2\n"
    said = ann.run("config", "set", "checkpoint.interval_seconds=10m", "checkpoint.keep=3", 'job_volume.tags={"a":"b"}')
    assert "checkpoint.interval_seconds: 900.0 -> 600.0" in said.stdout
    assert "64 GiB   306 GiB   729 MiB/s  $0.0666  estimated" in said.stdout, "what volumes cost, where they are set"
    assert ann.json("config", "get", "checkpoint")["checkpoint"]["keep"] == 3
    assert "checkpoint.keep" in ann.run("config", "set", "checkpoint.keep=99", status=2).stderr
    assert "SECTION.FIELD=VALUE" in ann.run("config", "set", "keep=3", status=2).stderr
    assert "there is no setting" in ann.run("config", "get", "nosuch", status=2).stderr
    ann.run("config", "set", "checkpoint.keep=")
    assert ann.run("config", "get", "checkpoint.keep").stdout == "2\n"
    edited = ann.json("config", "get", "log") | {}
    edited["log"]["level"] = "debug"
    assert 'log.level: "info" -> "debug"' in ann.run("config", "edit", "log", given=json.dumps(edited)).stdout
    assert "is no JSON" in ann.run("config", "edit", "log", given="{", status=2).stderr
    first = ann.json("config", "history")[-1]
    assert first["by"] == "first start (token 1)" and {one["field"] for one in first["changes"]} == {
        "checkpoint.interval_seconds",
        "checkpoint.keep",
        "job_volume.tags",
    }
    volumes = ann.run(*arguments(told("docs/configuration.md", "perdure config get job_volume")))
    assert "64 GiB  242 GiB" in volumes.stdout, "what jobs of four sizes get"
    assert "server.port" in ann.run("config", "get").stdout and "PERDURE_API_PORT" in ann.run("config", "get").stdout


def test_each_of_the_readmes_commands_answers(ann: User) -> None:
    """Its list has several in a line, with bars between them."""
    line = told("README.md", "perdure nodes | queues | logs ID | checkpoints list ID | resume ID | config get")
    for one, answer in zip(
        line.removeprefix("perdure ").split(" | "),
        ("i-2", "default", "timeline.json", "periodic", "has not ended", "checkpoint.keep"),
        strict=True,
    ):
        words = [*one.replace("ID", "job-1").split()]
        done = ann.run(*words, status=1 if words[0] == "resume" else 0)
        assert answer in done.stdout + done.stderr, done


def test_a_store_is_turned_on_and_looked_after(ann: User, tmp_path: Path) -> None:
    s3 = told("docs/stores.md", "perdure config set job_volume.enabled=false store.kind=s3 store.bucket=my-checkpoints")
    assert 'store.bucket: "" -> "my-checkpoints"' in ann.run(*arguments(s3)).stdout
    directory = told(
        "docs/stores.md",
        "perdure config set job_volume.enabled=false store.kind=directory store.directory=/mmc-checkpoint",
    )
    folder = {"/mmc-checkpoint": str(tmp_path / "mmc-checkpoint")}
    ann.run(*arguments(filled(directory, folder)))
    Path(folder["/mmc-checkpoint"]).mkdir()
    job = JobRoot(tmp_path / "root")
    stored = StoredCheckpoints(Patient(DirectoryObjects(Path(folder["/mmc-checkpoint"]))), JOB)
    for _ in range(2):
        manifest = job.take()
        stored.put(job.root, job.folder(manifest.number), manifest)

    list_, show, verify, export, delete = block("docs/stores.md", "perdure checkpoints list JOB --stored")
    listed = ann.run(*arguments(filled(list_, {"JOB": JOB}))).stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["1", "2"], listed
    second = {"JOB": JOB, "NUMBER": "2"}
    assert "periodic" in ann.run(*arguments(filled(show, second))).stdout
    for numbers, sound in (("", 2), ("2", 1)):
        verified = ann.run(*arguments(filled(verify, {"JOB": JOB, "[NUMBER…]": numbers}))).stdout
        assert verified.count("sound") == sound, verified
    ann.run(*arguments(filled(export, second | {"DIR": str(tmp_path / "out")})))
    assert (tmp_path / "out/2/images").is_dir() and (tmp_path / "out/log/stdout").is_file()
    assert "is deleted" in ann.run(*arguments(filled(delete, {"JOB": JOB, "NUMBER…": "2"})), given="y\n").stdout
    assert stored.numbers() == [1]
    ann.run("config", "set", "job_volume.enabled=true", "store.kind=none")


def test_backup_and_restore_by_command(stranger: User, tmp_path: Path) -> None:
    old, new = (f"sqlite:///{tmp_path}/{name}" for name in ("old.db", "new.db"))
    fill(old)
    file = {"FILE": str(tmp_path / "backup.gz")}
    backup = arguments(filled(told("docs/server.md", "perdure database backup FILE"), file))
    restore = arguments(filled(told("docs/server.md", "perdure database restore FILE"), file))
    assert "rows" in stranger.run(*backup, PERDURE_DATABASE_URL=old).stderr
    assert "rows restored" in stranger.run(*restore, PERDURE_DATABASE_URL=new).stderr
    assert "holds jobs already" in stranger.run(*restore, "--database-url", new, status=1).stderr
    rebuild = arguments(told("docs/server.md", "perdure database rebuild-totals"))
    assert "those of the ledger" in stranger.run(*rebuild, PERDURE_DATABASE_URL=new).stderr
    stranger.run("database", "upgrade", "--database-url", new)
    assert "No such file" in stranger.run("database", "restore", "/nosuch", "--database-url", new, status=2).stderr
    assert "cannot be opened" in stranger.run("database", "upgrade", "--database-url", "nonsense", status=2).stderr


def test_scripts_come_in_with_a_token_and_a_certificate_of_our_own(server: Server, ann: User, tmp_path: Path) -> None:
    """The last test here: the server shows another certificate from now on."""
    create, list_, revoke = block("docs/security.md", 'perdure auth token create "nightly report"')
    token = ann.run(*arguments(create), PERDURE_DATABASE_URL=server.database).stdout.strip()
    assert "nightly report" in ann.run(*arguments(list_), PERDURE_DATABASE_URL=server.database).stdout

    make, ask = block("docs/security.md", "perdure auth certificate --self-signed")
    ann.run(*arguments(filled(make, {"/etc/perdure": str(tmp_path)})))
    use = told("docs/server.md", "perdure config set server.cert_file=… server.key_file=…")
    pair = {
        f"{name}_file=…": f"{name}_file={tmp_path / file}"
        for name, file in (("cert", "server.crt"), ("key", "server.key"))
    }
    assert "without a restart" in ann.run(*arguments(filled(use, pair))).stderr
    where = server.url.removeprefix("https://")
    (tmp_path / ".curlrc").write_text(
        f"connect-to = perdure.example:8080:{where}\nnoproxy = *\nsilent\nshow-error\nfail\n"
    )
    line = filled(ask, {"/etc/perdure": str(tmp_path)})

    def answered() -> str:
        with contextlib.suppress(AssertionError):  # the files are looked at every 3 seconds
            return typed(line, PATIENCE, HOME=str(tmp_path), TOKEN=token)
        return ""

    assert len(json.loads(waiting.until(answered, PATIENCE))["items"]) == 3
    known = json.loads(ann.run(*arguments(list_), "--json", PERDURE_DATABASE_URL=server.database).stdout)
    [number] = [str(one["number"]) for one in known if one["name"] == "nightly report"]
    revoked = ann.run(*arguments(filled(revoke, {"3": number})), PERDURE_DATABASE_URL=server.database)
    assert "was revoked" in revoked.stdout
    with pytest.raises(AssertionError, match="401"):
        typed(line, PATIENCE, HOME=str(tmp_path), TOKEN=token)
