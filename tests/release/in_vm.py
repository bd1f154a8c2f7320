"""What happens inside the virtual machine with systemd. Standard library only: nothing of this repository is there but
this file and, beside it, the release and a container's image.

The machine plays both instances: after the hand-over, what the first one had is removed before the second one begins.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 1200.0
"""Seconds: this kernel is emulated, on a busy machine perhaps."""
_BETWEEN_LOOKS = 2.0
"""Seconds. A look costs a second of the one processor, which what is waited for needs, too."""
_JOB = "i=0; until [ -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 1; done"
_DEVICE = Path("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol1")
_DOCKER, _ECS = Path("/etc/docker/daemon.json"), Path("/etc/ecs/ecs.config")
_UNITS = Path("/etc/systemd/system")
_DROP_IN = _UNITS / "docker.service.d/99-somebody.conf"
_SLOW = ("perdure-agent.service", "perdure-undo-docker.service")
"""What they do takes longer here than on any real machine."""
_GIVEN = Path(__file__).resolve().parent
RELEASE, IMAGE = _GIVEN / "release", _GIVEN / "image.tar"
INSTALLER = str(RELEASE / "perdure-install")


def run(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 or not check, f"{argv} ended with {done.returncode}: {said[-2500:]}{_journal()}"
    return said.strip()


def _journal() -> str:
    argv = ["journalctl", "--no-pager", "-n", "60", "-u", "perdure-agent", "-u", "docker"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout[-5000:]


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}{_journal()}"
        time.sleep(_BETWEEN_LOOKS)
    return found


def _files() -> dict[str, str]:
    """Every file of the folders that an installation touches, by content or by where a link leads."""
    found = {}
    for top in ("/etc", "/opt", "/usr/local", "/var/lib/perdure"):
        for folder, _, names in os.walk(top):
            for path in (Path(folder, name) for name in names):
                found[str(path)] = os.readlink(path) if path.is_symlink() else path.read_bytes().hex()
    return found


def life(around: dict[str, Any]) -> dict[str, Any]:
    """The whole life; what was seen."""
    found: dict[str, Any] = {}
    begun = time.monotonic()

    def seen(name: str, value: object) -> None:
        found[name] = value
        _tell(around, f"{time.monotonic() - begun:5.0f} s  {name}: {str(value)[:300]}")

    seen("versions", [run("uname", "-r"), run("docker", "--version"), run("systemctl", "--version").splitlines()[0]])
    _DOCKER.parent.mkdir(exist_ok=True)
    _DOCKER.write_text('{"bridge": "none",\n "iptables": false, "labels": ["somebody=else"]}\n')
    _ECS.write_text("ECS_CLUSTER=genomics\n")
    run("systemctl", "restart", "docker")
    until(lambda: "Server:" in run("docker", "version", check=False), "Docker answers")
    run("docker", "load", "--input", str(IMAGE))
    run("truncate", "-s", "512M", "/volume.img")
    _DEVICE.parent.mkdir(parents=True, exist_ok=True)
    _DEVICE.symlink_to(run("losetup", "--find", "--show", "/volume.img"))
    for unit in _SLOW:
        (_UNITS / f"{unit}.d").mkdir()
        (_UNITS / f"{unit}.d/slow.conf").write_text("[Service]\nTimeoutStartSec=900\n")
    before = _files()
    install = ["sh", INSTALLER, "--from", str(RELEASE), "--temporal", f"10.0.2.2:{around['temporal']}"]
    install += ["--set", f"PERDURE_METADATA_URL=http://10.0.2.2:{around['metadata']}"]
    install += ["--set", "PERDURE_ATTACH_PATIENCE=600"]
    pid = Path("/run/docker.pid").read_text()
    clock = time.monotonic()
    seen("installed", run(*install).replace(str(RELEASE), "the release"))
    seen("seconds to install", round(time.monotonic() - clock))
    seen("default runtime", run("docker", "info", "--format", "{{.DefaultRuntime}}"))
    seen("docker kept running", Path("/run/docker.pid").read_text() == pid)
    seen("agent", run("systemctl", "show", "--property=ActiveState,SubState,ExecMainStatus", "perdure-agent"))
    _reclaim(around, seen)
    _refusing_dockerd(install, seen)
    seen("uninstalled", run("/opt/perdure/current/bin/perdure-install", "--uninstall"))
    after = _files()
    names = before.keys() | after.keys()
    seen("different", sorted(name for name in names if before.get(name) != after.get(name)))
    seen("units left", run("systemctl", "list-unit-files", "perdure*", "--no-legend", check=False))
    seen("runtime at the end", run("docker", "info", "--format", "{{.DefaultRuntime}}"))
    return found


def _reclaim(around: dict[str, Any], seen: Callable[[str, object], None]) -> None:
    """A job goes from one instance to the next."""
    first = _start(around["job"], 1)
    _more_lines(first)
    seen("first", "runs")
    seen("cgroup", Path(f"/proc/{run('docker', 'inspect', '--format', '{{.State.Pid}}', first)}/cgroup").read_text())
    _ask(around, "notice")
    until(lambda: _ask(around, "volume") == "free", "the volume is free")
    saved = run("docker", "logs", first).splitlines()
    seen("handed over", around["job"])
    run("systemctl", "stop", "perdure-agent")
    run("docker", "rm", "--force", first)
    for name in ("/var/lib/perdure", "/run/perdure"):
        run("rm", "-rf", "--one-file-system", name)
    _ask(around, "reclaimed")
    run("systemctl", "start", "perdure-agent")
    seen("second instance", run("systemctl", "is-active", "perdure-agent"))
    second = _start(around["job"], 2)
    _more_lines(second)
    lines = [*saved, *run("docker", "logs", second).splitlines()]
    seen("saved", len(saved))
    seen("lines", [int(line.split()[1]) for line in lines])
    _ask(around, "ended")
    run("docker", "exec", second, "touch", "/tmp/stop")
    seen("exit code", run("docker", "wait", second))
    run("docker", "rm", second)
    until(lambda: _ask(around, "volume") == "deleted", "the job is closed")


def _refusing_dockerd(install: list[str], seen: Callable[[str, object], None]) -> None:
    """Somebody gives dockerd a flag that it does not take beside ours in daemon.json. At its next start it refuses; it
    gets its old file back and serves."""
    _DROP_IN.write_text(
        # Debian's three starts in a minute take longer than a minute here.
        "[Unit]\nStartLimitIntervalSec=900\n"
        "[Service]\nExecStart=\n"
        "ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock --default-runtime runc\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "docker", check=False)
    until(lambda: run("docker", "info", "--format", "{{.DefaultRuntime}}", check=False) == "runc", "dockerd serves")
    seen("after a refusal", _DOCKER.read_text())
    _DROP_IN.unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "docker")
    run(*install)
    seen("default runtime again", run("docker", "info", "--format", "{{.DefaultRuntime}}"))


def _start(job: str, attempt: int) -> str:
    variables = [f"AWS_BATCH_JOB_ID={job}", f"AWS_BATCH_JOB_ATTEMPT={attempt}"]
    options = [word for text in variables for word in ("--env", text)]
    return run(
        "docker",
        "run",
        "--detach",
        "--network",
        "host",
        "--user",
        "1000:1000",
        *options,
        "perdure-test:1",
        "sh",
        "-c",
        _JOB,
    ).split()[-1]


def _more_lines(container: str) -> None:
    def count() -> int:
        return len(run("docker", "logs", container).splitlines())

    wanted = count() + 3
    until(lambda: count() >= wanted, f"more lines: {run('docker', 'logs', container)[-300:]}")


def _tell(around: dict[str, Any], what: str) -> None:
    """Whoever runs the test sees how far it is."""
    with urllib.request.urlopen(f"http://10.0.2.2:{around['metadata']}/_test/", what.encode(), timeout=PATIENCE):
        pass


def _ask(around: dict[str, Any], what: str) -> str:
    with urllib.request.urlopen(f"http://10.0.2.2:{around['metadata']}/_test/{what}", timeout=PATIENCE) as answer:
        return str(answer.read().decode())
