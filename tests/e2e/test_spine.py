"""A Batch job goes through reclaims and zones and loses nothing; each fault of the design's list, for real."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest

from tests.documents.book import arguments, chosen, filled
from tests.e2e.conftest import MOUNTED_JOBS, User, chain_reference, descendants, until

pytestmark = pytest.mark.stack

FAST = ("--interval", "10s")


def tokens(stderr: str) -> set[str]:
    """The tokens that the chain's processes held; one means the same process all along."""
    return set(re.findall(r"^token ([0-9a-f]{32})$", stderr, re.MULTILINE))


def running(user: User, job_id: str, lines: int = 3) -> None:
    """Wait until the job has printed some lines."""
    until(lambda: user.printed(job_id).count("\n") >= lines, f"{job_id} prints")


def other_zone(user: User, job_id: str) -> str:
    """A zone that the job is not in."""
    here = user.placed(job_id)["zone"]
    return next(str(node["zone"]) for node in user.status["nodes"] if node["zone"] != here)


def test_reclaims_with_and_without_notice_lose_nothing(user: User, tmp_path: Path) -> None:
    links = 400
    job_id = user.chain(links, options=("--name", "chain", *FAST))
    running(user, job_id)
    first_zone = user.placed(job_id)["zone"]
    second_zone = other_zone(user, job_id)
    user.reclaim("--job", job_id, "--to-zone", second_zone)
    seen = until(lambda: user.job(job_id)["protections"], "the first restore") and user.committed(job_id)
    until(lambda: user.committed(job_id) > seen, "a periodic checkpoint after it")
    pull_the_plug = chosen("README.md", "perdure local reclaim", "--job ID --no-notice --to-zone Z")
    _, _, *words = arguments(filled(pull_the_plug, {"ID": job_id, "Z": second_zone}))
    user.reclaim(*words)
    until(lambda: user.job(job_id)["protections"] == 2, "the second restore")
    end = user.finish(job_id)

    out, err = user.logs(job_id)
    reference = chain_reference(links)
    assert out == reference
    assert len(tokens(err)) == 1
    assert err.count("token") == 2
    assert end["status"] == "SUCCEEDED"
    assert end["exit_code"] == 0
    assert end["attempts"] == 3
    assert end["protections"] == 2
    assert end["checkpoints"] >= 2
    assert end["zones"] == [first_zone, second_zone, second_zone]
    assert [outage["seconds"] > 0 for outage in end["outages"]] == [True, True]
    assert end["max_rootfs_bytes"] > 0
    user.local("cp", f"{job_id}:/srv/chain.log", str(tmp_path / "chain.log"))
    assert (tmp_path / "chain.log").read_text() == "".join(reference.splitlines(keepends=True)[:-1])
    user.local("cp", f"{job_id}:/mnt/perdure/newest", str(tmp_path / "newest"))
    assert (tmp_path / "newest").read_text() == reference.splitlines()[-2].split()[1]


def test_a_checkpoint_on_request_and_the_interval_off(user: User) -> None:
    job_id = user.chain(150, options=("--interval", "0"))
    running(user, job_id)
    number = int(user.run("local", "checkpoint", "--job", job_id).stdout)
    assert number >= 1
    assert user.job(job_id)["interval_seconds"] == 0
    end = user.finish(job_id)
    assert end["checkpoints"] == 1
    finished = user.run("local", "reclaim", "--job", job_id, status=None)
    assert finished.returncode not in (0, 3)
    assert len(finished.stderr.strip().splitlines()) == 1


def test_ids_nobody_knows(user: User) -> None:
    for command in (["reclaim", "--job"], ["checkpoint", "--job"], ["wait"], ["logs"], ["reclaim", "--node"]):
        done = user.run("local", *command, "0c0ffee0-0000-4000-8000-000000000000", status=3)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


VALUES = {
    "UP": "../../../etc/passwd",
    "LINES": "a\nb\n\tc",
    "LONG": "x" * 10_000,
    "SHELL_WORD": ";rm -rf $HOME`id`",
}
BAD = ("banana", "-5m")


@pytest.fixture(scope="module")
def short_jobs(user: User) -> dict[str, str]:
    """Ids of jobs that end by themselves, submitted together, by what they are for."""
    script = f"import os, json; print(json.dumps([os.environ[n] for n in {list(VALUES)!r}]))"
    environment = tuple(part for name, value in VALUES.items() for part in ("--env", f"{name}={value}"))
    jobs = {value: ("--env", f"PERDURE_CHECKPOINT_INTERVAL={value}") for value in BAD}
    return {
        **{value: user.submit("/bin/sh", "-c", "echo hello", options=option) for value, option in jobs.items()},
        "hostile": user.submit("/usr/bin/python3", "-c", script, options=environment),
        "fails": user.submit("/bin/sh", "-c", "echo to-stderr >&2; exit 7"),
    }


@pytest.mark.parametrize("value", BAD)
def test_a_bad_interval_in_the_environment_is_an_event(user: User, short_jobs: dict[str, str], value: str) -> None:
    job_id = short_jobs[value]
    assert user.wait(job_id)["exit_code"] == 0
    assert any("PERDURE_CHECKPOINT_INTERVAL" in line for line in user.events(job_id))
    assert user.run("local", "submit", f"--interval={value}", "--", "/bin/true", status=2).stderr


def test_hostile_environment_values_arrive_unchanged(user: User, short_jobs: dict[str, str]) -> None:
    job_id = short_jobs["hostile"]
    assert user.wait(job_id)["exit_code"] == 0
    assert json.loads(user.logs(job_id)[0]) == list(VALUES.values())


def test_a_job_that_fails_is_not_retried_and_keeps_its_exit_code(user: User, short_jobs: dict[str, str]) -> None:
    job_id = short_jobs["fails"]
    end = user.wait(job_id, status=1)
    assert (end["status"], end["exit_code"], end["attempts"]) == ("FAILED", 7, 1)
    assert user.logs(job_id) == ("", "to-stderr\n")


def test_a_traced_process_cannot_be_frozen_but_runs_on(user: User, tmp_path: Path) -> None:
    options = ("--interval", "0", "--mount", f"{tmp_path}:/opt/go")
    job_id = user.submit("/usr/bin/python3", f"{MOUNTED_JOBS}/traced.py", "/opt/go/flag", options=options)
    running(user, job_id, lines=1)
    refused = user.run("local", "checkpoint", "--job", job_id, status=None)
    assert refused.returncode not in (0, 3)
    assert "traced" in refused.stderr
    (tmp_path / "flag").touch()
    end = user.wait(job_id)
    assert (end["exit_code"], end["checkpoints"]) == (0, 0)
    assert user.logs(job_id)[0].endswith("done\n")
    assert any("traced" in line for line in user.events(job_id))


def test_the_agent_dies_in_the_middle_of_a_dump(user: User) -> None:
    links = 1500  # more than it prints before its agent is dead
    job_id = user.chain(links, mebibytes=1024, options=("--interval", "0", "--memory", "3072"))
    running(user, job_id)
    node = user.node_init(job_id)
    seen = threading.Event()

    def ask() -> None:
        while not seen.is_set():  # a dump that was over between two looks was not seen
            user.run("local", "checkpoint", "--job", job_id, status=None)

    asked = threading.Thread(target=ask)
    asked.start()
    try:
        until(lambda: any("criu: dump" in line for _, line in descendants(node)), "a dump", pause=0.01)
    finally:
        seen.set()
    agents = [pid for pid, line in descendants(node) if "worker_agent" in line and "runtime" not in line]
    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    before = user.printed(job_id).count("\n")
    running(user, job_id, lines=before + 10)
    asked.join()

    def taken() -> str:
        return user.run("local", "checkpoint", "--job", job_id, status=None).stdout.strip()

    number = int(until(taken, "a checkpoint by the next agent"))
    user.reclaim("--job", job_id, "--no-notice")
    until(lambda: user.job(job_id)["protections"], "the restore")
    end = user.finish(job_id)
    out, err = user.logs(job_id)
    assert out == chain_reference(links, 1024)
    assert len(tokens(err)) == 1
    assert end["protections"] == 1
    assert user.job(job_id)["outages"][0]["restored_from"] == number


def test_temporal_is_away_for_several_intervals_and_the_whole_notice(user: User) -> None:
    links = 500
    job_id = user.chain(links, options=("--interval", "3s"))
    running(user, job_id)
    until(lambda: user.committed(job_id), "a first checkpoint")
    init = user.node_init(job_id)
    job_root = Path(f"/proc/{init}/root/var/lib/perdure/jobs/{job_id}/checkpoints")
    temporal = user.status["processes"]["temporal"]
    os.kill(temporal, signal.SIGSTOP)
    try:
        newest = max(int(folder.name) for folder in job_root.iterdir() if folder.name.isdigit())

        def committed_since() -> int:
            manifests = (int(manifest.parent.name) for manifest in job_root.glob("*/manifest.json"))
            return max(manifests, default=0) - newest

        until(lambda: committed_since() >= 2, "two overdue checkpoints by the agent alone")
        user.reclaim("--job", job_id, "--notice", "12")
    finally:
        os.kill(temporal, signal.SIGCONT)
    until(lambda: user.job(job_id)["protections"], "the restore")
    end = user.finish(job_id)
    out, err = user.logs(job_id)
    assert out == chain_reference(links)
    assert len(tokens(err)) == 1
    assert end["protections"] == 1


def test_the_second_node_dies_while_it_restores(user: User) -> None:
    links = 300
    job_id = user.chain(links, mebibytes=1024, options=("--interval", "0", "--memory", "3072"))
    running(user, job_id)
    user.reclaim("--job", job_id)
    first = user.placed(job_id)["zones"][0]

    def restoring() -> str | None:
        place = user.placed(job_id)
        if place["node"] is None:
            return None
        init = user.node_init(job_id)
        busy = any("restore" in line and "criu" in line for _, line in descendants(init))
        return str(place["node"]) if busy else None

    second_node = until(restoring, "a restore on the second node", pause=0.01)
    user.reclaim("--node", second_node, "--no-notice")
    until(lambda: user.job(job_id)["protections"], "the restore")
    end = user.finish(job_id)
    out, err = user.logs(job_id)
    assert out == chain_reference(links, 1024)
    assert len(tokens(err)) == 1
    assert end["zones"][0] == first
    assert end["protections"] == 1
