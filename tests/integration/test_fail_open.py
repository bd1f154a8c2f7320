"""Promise 7 with the real runc: whatever of ours is broken, a container that is none of ours (the ECS agent's own, say)
and a job's first attempt run as if we were not there; where runc itself refuses, its words and status come through."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.image.mounts import delete_tree
from tests.integration.engine_places import tool
from tests.patience import PATIENCE
from tests.unit.test_runtime_wrapper import DAMAGES, RUNTIME, Bench

pytestmark = pytest.mark.criu

KINDS: dict[str, list[str]] = {"no job": [], "first attempt": ["AWS_BATCH_JOB_ID=a-job", "AWS_BATCH_JOB_ATTEMPT=1"]}
JOB = 'echo "from the job"; echo "its problem" >&2; exit 7'


class Machine(Bench):
    """The runtime over the machine's own runc, and a container that really runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.bin / "runc").unlink()
        self.folder = folder
        self.cgroup = f"/perdure-test-{secrets.token_hex(4)}"
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "11"  # nobody is waited for longer than a second
        self.closing = contextlib.ExitStack()
        for part in ("usr", "proc", "dev"):
            (self.bundle / "rootfs" / part).mkdir(parents=True)
        for part in ("bin", "lib", "lib64"):
            (self.bundle / "rootfs" / part).symlink_to(f"usr/{part}")

    def describe(self, environment: list[str]) -> None:
        config = {
            "ociVersion": "1.0.2",
            "process": {"args": ["/bin/sh", "-c", JOB], "cwd": "/", "env": ["PATH=/usr/bin", *environment]},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            ],
            "linux": {
                "cgroupsPath": f"{self.cgroup}/{secrets.token_hex(4)}",
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            },
        }
        (self.bundle / "config.json").write_text(json.dumps(config))

    def call(self, program: str | Path, *words: str) -> tuple[int, str, str]:
        """As a container engine calls a runtime; its status and what it (or the container) has said so far."""
        out, err = self.folder / "out", self.folder / "err"
        argv = [str(program), "--root", str(self.folder / "runc"), *words]
        with out.open("ab") as stdout, err.open("ab") as stderr:
            status = subprocess.call(
                argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, timeout=PATIENCE
            )
        return status, out.read_text(), err.read_text()

    def life(self, program: str | Path) -> tuple[int, str, str]:
        """create, start, the end, delete: the job's exit code and output; or the refused create's."""
        for name in ("out", "err"):
            (self.folder / name).unlink(missing_ok=True)
        name = secrets.token_hex(32)
        pid_file = self.folder / "pid"
        create = ["create", "--bundle", str(self.bundle), "--pid-file", str(pid_file), name]
        status, out, err = self.call(program, *create)
        if status:
            return status, out, err
        pid = int(pid_file.read_text())
        assert self.call(program, "start", name)[0] == 0
        _, ended = os.waitpid(pid, 0)
        status, out, err = self.call(program, "delete", name)
        assert status == 0
        return os.waitstatus_to_exitcode(ended), out, err

    def close(self) -> None:
        root = self.folder / "runc"
        for name in os.listdir(root) if root.is_dir() else []:
            subprocess.run(["runc", "--root", str(root), "delete", "--force", name], capture_output=True, check=False)
        self.closing.close()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for folder, _, _ in os.walk(hierarchy / self.cgroup.strip("/"), topdown=False):
                os.rmdir(folder)
        delete_tree(self.folder)


@pytest.fixture
def machine(subreaper: None) -> Iterator[Machine]:
    made = Machine(Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp")))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def subreaper() -> None:
    """Exit codes of containers reach us as they reach a container engine."""
    import ctypes

    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0


def _listen(machine: Bench) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(machine.run_dir / "agent.sock"))
    listener.listen(16)
    return listener


def _agent_hangs(machine: Bench) -> None:
    assert isinstance(machine, Machine)
    machine.closing.enter_context(_listen(machine))


def _full_disk(machine: Bench) -> None:
    """Nothing more can be written below the run folder."""
    assert isinstance(machine, Machine)
    machine.closing.callback(tool, "umount", machine.run_dir)
    tool("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", machine.run_dir)
    (machine.run_dir / "containers").mkdir()
    with contextlib.suppress(OSError), open(machine.run_dir / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def _prefix_is_gone(machine: Bench) -> None:
    """All but the launcher."""
    for path in machine.prefix.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "perdure-runtime":
            path.unlink()


def _launcher_cut_short(machine: Bench) -> None:
    path = machine.prefix / "perdure-runtime"
    path.write_text(path.read_text()[:2500])


def _called_by_a_link(machine: Bench) -> None:
    machine.launcher = machine.bin / "runtime"
    machine.launcher.symlink_to(machine.prefix / "perdure-runtime")


def _no_path(machine: Bench) -> None:
    del machine.environment["PATH"]


ALL: dict[str, Callable[[Bench], None]] = {
    **DAMAGES,
    "agent hangs": _agent_hangs,
    "full disk": _full_disk,
    "prefix is gone": _prefix_is_gone,
    "launcher cut short": _launcher_cut_short,
    "called by a link, no agent": _called_by_a_link,
    "no PATH, no agent": _no_path,
}


@pytest.mark.parametrize("damage", ALL)
def test_what_is_broken_of_ours_changes_nothing(machine: Machine, damage: str) -> None:
    kinds: dict[str, list[str]] = {"a job by its words": []} if damage.startswith("config") else KINDS
    for number, (kind, environment) in enumerate(kinds.items()):
        machine.describe(environment)
        if number == 0:
            ALL[damage](machine)
        bare = machine.life("runc")
        ours = machine.life(machine.launcher)
        if bare[0] == 7:
            assert bare[1:] == ("from the job\n", "its problem\n")
            words = ours[2] if damage != "launcher cut short" else "its problem\n"  # the shell says what it thinks
            assert (*ours[:2], words) == bare, (kind, ours)
        else:  # config.json is such that runc itself refuses it
            assert damage.startswith("config"), bare
            assert ours[0] == bare[0], (kind, ours)
            assert _message(ours[2]) == _message(bare[2])


def _message(said: str) -> str:
    return said.partition(" level=")[2]


def test_the_runtimes_folder_is_what_is_damaged() -> None:
    """A new file of the runtime must be among the damages above."""
    assert {path.name for path in RUNTIME.iterdir()} - {"__pycache__"} == {
        "__init__.py",  # never run
        "network_hook.py",  # runs in a protected container's restore alone
        "edits",  # only for restores through NVIDIA's runtime
        "perdure-runtime",
        "perdure-runtime-nvidia",  # a link to the one before
        "perdure_runtime.py",
        "stdio_keeper.py",  # tests/unit/test_runtime_wrapper.py: only behind an agent that says `create`
    }
