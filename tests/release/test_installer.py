"""perdure-install when things go wrong: whatever happens, Docker's configuration is the old one or the new one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.release.machine import Done, Machine, machine

DAEMON_JSON = '{\n  "storage-driver": "overlay2",\n  "bridge": "none",\n  "iptables": false, "labels": ["ours=é"]\n}'
ECS_CONFIG = "# by hand\nECS_CLUSTER=genomics\nECS_CONTAINER_START_TIMEOUT=4m\n"
DOCKER, ECS = "/etc/docker/daemon.json", "/etc/ecs/ecs.config"
INSTALL = ("sh", "/release/perdure-install", "--from", "/release", "--temporal", "temporal.example:7233")
UNINSTALL = ("sh", "/opt/perdure/current/bin/perdure-install", "--uninstall")
_PROGRAMS = "/before:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WATCHED = ("/etc", "/opt", "/var/lib/perdure", "/usr/local")

pytestmark = [pytest.mark.timeout(1200)]


@contextmanager
def _debian(base: Path, place: Path, release: Path, small: str = "") -> Iterator[Machine]:
    with machine(base, place / "machine", release, small=small) as debian:
        for name, text in ((DOCKER, DAEMON_JSON), (ECS, ECS_CONFIG)):
            debian.at(name).parent.mkdir(parents=True, exist_ok=True)
            debian.at(name).write_text(text)
        debian.at("/var/lib/perdure").mkdir(exist_ok=True)
        yield debian


@pytest.fixture
def debian(base: Path, place: Path, small: Path) -> Iterator[Machine]:
    """A machine with somebody's Docker and ECS configuration, and the small release at /release."""
    with _debian(base, place, small) as made:
        made.at("/var/lib/perdure").rmdir()
        yield made


def _watched(debian: Machine) -> dict[str, bytes | str]:
    return debian.files(*(name for name in WATCHED if debian.at(name).exists()))


def _installed(debian: Machine) -> bool:
    """Docker's configuration names our runtime, and that can be run."""
    settings = json.loads(debian.at(DOCKER).read_text())
    if "default-runtime" not in settings:
        return False
    assert debian.run(settings["runtimes"]["perdure"]["path"], "--version").status == 0, "a runtime that does not run"
    return True


def _install(debian: Machine, *more: str) -> Done:
    return debian.run(*INSTALL, *more)


def _before(debian: Machine, names: Iterable[str], script: str) -> None:
    """The script runs before each of these programs where they are looked for on _PROGRAMS."""
    debian.at("/before").mkdir()
    for name in names:
        debian.at(f"/before/{name}").write_text(f'#!/bin/sh\n{script}\nexec /usr/bin/{name} "$@"\n')
        debian.at(f"/before/{name}").chmod(0o755)


def test_install_merges_and_uninstall_leaves_no_trace(debian: Machine) -> None:
    before = _watched(debian)
    times = [debian.at(name).stat().st_mtime_ns for name in (DOCKER, ECS)]
    done = _install(debian)
    assert done.status == 0, done.said
    settings = json.loads(debian.at(DOCKER).read_text())
    assert settings == {
        **json.loads(DAEMON_JSON),
        "default-runtime": "perdure",
        "runtimes": {"perdure": {"path": "/opt/perdure/current/bin/perdure-runtime"}},
    }
    assert debian.at(ECS).read_text() == (
        "# by hand\nECS_CLUSTER=genomics\nECS_CONTAINER_START_TIMEOUT=16m\nECS_CONTAINER_CREATE_TIMEOUT=15m\n"
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING=false\n"
    )
    environment = debian.at("/etc/perdure/agent.env").read_text()
    assert "TEMPORAL_ADDRESS=temporal.example:7233\n" in environment
    assert "PERDURE_CONTAINER_START_TIMEOUT=960\n" in environment
    again = _watched(debian)
    assert _install(debian).status == 0, "a second time"
    assert _watched(debian) == again, "and nothing changes"
    done = debian.run(*UNINSTALL)
    assert done.status == 0, done.said
    assert _watched(debian) == before
    assert [debian.at(name).stat().st_mtime_ns for name in (DOCKER, ECS)] == times
    assert _install(debian).status == 0, "and once more"


def test_a_dry_run_shows_the_changes_and_makes_none(debian: Machine) -> None:
    before = _watched(debian)
    done = _install(debian, "--dry-run")
    assert done.status == 0, done.said
    assert '+    "default-runtime": "perdure"' in done.said or '+  "default-runtime": "perdure"' in done.said
    assert "-ECS_CONTAINER_START_TIMEOUT=4m\n+ECS_CONTAINER_START_TIMEOUT=16m\n" in done.said
    assert _watched(debian) == before


def test_what_others_changed_after_us_stays(debian: Machine) -> None:
    assert _install(debian).status == 0
    settings = json.loads(debian.at(DOCKER).read_text()) | {"debug": True}
    debian.at(DOCKER).write_text(json.dumps(settings))
    debian.at(ECS).write_text(debian.at(ECS).read_text() + "ECS_LOGLEVEL=debug\n")
    assert _install(debian).status == 0, "again, over their changes"
    assert debian.run(*UNINSTALL).status == 0
    assert json.loads(debian.at(DOCKER).read_text()) == json.loads(DAEMON_JSON) | {"debug": True}
    assert debian.at(ECS).read_text() == ECS_CONFIG + "ECS_LOGLEVEL=debug\n"


@pytest.mark.parametrize("damage", ["another byte", "cut off", "missing"])
def test_an_archive_that_is_not_the_released_one(damage: str, debian: Machine, place: Path, small: Path) -> None:
    shutil.copytree(small, debian.at("/tmp/mirror"))
    archive = next(debian.at("/tmp/mirror").glob("*.tar.gz"))
    content = archive.read_bytes()
    if damage == "missing":
        archive.unlink()
    else:
        archive.write_bytes(content[:-1] if damage == "cut off" else content[:99] + b"\0" + content[100:])
    before = _watched(debian)
    done = debian.run("sh", "/release/perdure-install", "--from", "/tmp/mirror", "--temporal", "t:7233")
    assert done.status == 1 and "nothing was changed" in done.said
    assert _watched(debian) == before | {name: "folder" for name in ("/opt/perdure", "/opt/perdure/versions")}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"storage-driver": "overlay2",}', "is not JSON"),
        ('["overlay2"]', "is not Docker's configuration"),
        ('{"debug": true, "debug": false}', "names a setting twice"),
        ('{"default-runtime": "crun"}', "--replace-runtime"),
    ],
)
def test_a_foreign_daemon_json_is_left_alone(text: str, reason: str, debian: Machine) -> None:
    debian.at(DOCKER).write_text(text)
    done = _install(debian)
    assert done.status == 1 and reason in done.said, done.said
    assert debian.at(DOCKER).read_text() == text and debian.at(ECS).read_text() == ECS_CONFIG
    assert not debian.at("/opt/perdure/current").exists()


def test_a_dockerd_that_runs_takes_the_runtime_and_its_containers_go_on(debian: Machine) -> None:
    debian.start_dockerd()
    pid = debian.at("/run/docker.pid").read_text()
    assert _install(debian).status == 0
    assert debian.must("docker", "info", "--format", "{{.DefaultRuntime}}") == "perdure"
    assert debian.at("/run/docker.pid").read_text() == pid, "it was not restarted"
    done = debian.run(*UNINSTALL)
    assert done.status == 0, done.said
    assert debian.must("docker", "info", "--format", "{{.DefaultRuntime}}") == "runc"


def test_a_dockerd_that_refuses_gets_its_configuration_back(debian: Machine) -> None:
    """It was started with a flag that is not in any file that the checks read."""
    debian.start("dockerd", "dockerd", "--default-runtime", "runc")
    assert debian.run("sh", "-c", "until docker version; do sleep 0.2; done").status == 0
    done = _install(debian)
    assert done.status == 1 and "is as it was" in done.said, done.said
    assert debian.at(DOCKER).read_text() == DAEMON_JSON and debian.at(ECS).read_text() == ECS_CONFIG
    assert debian.must("docker", "info", "--format", "{{.DefaultRuntime}}") == "runc"


def test_flags_that_docker_would_not_take_twice_are_found_first(debian: Machine) -> None:
    debian.at("/etc/default/docker").write_text('DOCKER_OPTS="--default-runtime runc"\n')
    before = _watched(debian)
    done = _install(debian)
    assert done.status == 1 and "move these to /etc/docker/daemon.json" in done.said
    assert _watched(debian) == before


@pytest.mark.parametrize("size", ["1m", "410m"])
def test_a_full_disk(size: str, base: Path, place: Path, small: Path) -> None:
    """Too little to begin with, and, where the checks saw enough, too little left when the archive is unpacked."""
    with _debian(base, place, small, small=size) as debian:
        _before(debian, ["tar"], "[ -e /opt/fill ] || fallocate --length 400M /opt/fill")
        done = debian.run(*INSTALL, PATH=_PROGRAMS)
        assert done.status == 1, done.said
        assert ("check failed" if size == "1m" else "No space left on device") in done.said, done.said
        assert "nothing was changed" in done.said
        assert debian.at(DOCKER).read_text() == DAEMON_JSON and debian.at(ECS).read_text() == ECS_CONFIG
        assert list(debian.at("/opt").rglob("*.tar.gz")) == [] and not debian.at("/opt/perdure/current").exists()
        if size != "1m":
            debian.at("/opt/fill").unlink()
            done = _install(debian)
            assert done.status == 0, done.said


def test_two_at_the_same_time(debian: Machine) -> None:
    both = " ".join(INSTALL)
    done = debian.run("sh", "-c", f"{both} & first=$!; {both}; second=$?; wait $first && [ $second = 0 ]")
    assert done.status == 0, done.said
    assert _installed(debian)
    assert len(list(debian.at("/opt/perdure/versions").iterdir())) == 1


_CUT = """
# Counts the installer's programs, and ends it with all that it started before the one that is due.
count=$(($(cat /tmp/count) + 1))
echo $count >/tmp/count
[ $count != "$(cat /tmp/due)" ] || kill -9 0
"""
_COUNTED = ("mv", "cp", "rm", "ln", "tar", "mkdir", "sync", "chmod")


def test_cut_off_at_any_moment_it_is_the_old_state_or_the_new_one(debian: Machine) -> None:
    before = _watched(debian)
    _before(debian, _COUNTED, _CUT)
    states = []
    for due in range(1, 60):
        debian.at("/tmp/count").write_text("0")
        debian.at("/tmp/due").write_text(str(due))
        done = debian.run("setsid", "--wait", *INSTALL, PATH=_PROGRAMS)
        docker, ecs = debian.at(DOCKER).read_text(), debian.at(ECS).read_text()
        states.append(_installed(debian))
        assert docker == DAEMON_JSON or states[-1], "half of daemon.json"
        assert ecs == ECS_CONFIG or ecs.endswith("ECS_ENABLE_SPOT_INSTANCE_DRAINING=false\n"), "half of ecs.config"
        whole = done.status == 0
        assert whole or done.status in (-9, 137), done.said
        if due % 2 == 0 or whole:  # every other time the next run finds what the cut left
            assert debian.at("/opt/perdure/current").exists() or docker == DAEMON_JSON
            assert debian.run("sh", "/release/perdure-install", "--uninstall").status == 0
            assert _watched(debian) == before, f"cut off at {due}"
        if whole:
            break
    assert whole and states.count(False) > 10 and states.count(True) > 1, states


def test_it_is_clean_for_shellcheck() -> None:
    script = Path(__file__).parents[2] / "deploy/worker/perdure-install"
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [program, "--shell", "sh", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout
