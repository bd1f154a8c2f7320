"""What perdure-runtime adds to the container engine's calls: `python bench/runtime_overhead.py [ROUNDS]`, as root.

Each round makes one container with bare runc and one through the wrapper, in turn, and times every call from its start
to its end: the pairs see the same machine. Protected calls are answered by a stand-in for the agent at once, so what is
measured is the runtime's own part: the launcher, Python, the conversation, the output keeper. Prints Markdown.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

RUNTIME = Path(__file__).parents[1] / "worker_agent" / "runtime" / "perdure-runtime"
_PR_SET_CHILD_SUBREAPER = 36
PYTHON = "(for comparison: a bare start of Python)"
PLAIN_LIMIT, PROTECTED_LIMIT = 15.0, 40.0
"""Milliseconds that a call may cost more: of a container that is none of ours, and of a protected one."""


class Bench:
    """One folder with everything; `close` ends and removes what was made."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-bench-", dir="/var/tmp"))
        self.cgroup = f"/perdure-bench-{secrets.token_hex(4)}"
        self.run_dir = self.folder / "run"
        (self.run_dir / "containers").mkdir(parents=True)
        (self.folder / "log").mkdir()
        self.environment = {**os.environ, "PERDURE_RUN_DIR": str(self.run_dir)}
        self.times: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.work: dict[tuple[str, str], list[float]] = defaultdict(list)
        """Milliseconds of CPU, of the call and of what it waited for (the output keeper lives on: it is not in it)."""
        self.made: list[str] = []

    def bundle(self, name: str, environment: list[str]) -> Path:
        """A container that sleeps, on a root made of binds: no image is needed."""
        bundle = self.folder / name
        rootfs = bundle / "rootfs"
        for part in ("usr", "proc", "dev"):
            (rootfs / part).mkdir(parents=True)
        for part in ("bin", "lib", "lib64"):
            (rootfs / part).symlink_to(f"usr/{part}")
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/bin/sleep", "600"],
                "cwd": "/",
                "env": ["PATH=/usr/bin", *environment],
                "user": {"uid": 0, "gid": 0},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            ],
            "linux": {
                "cgroupsPath": f"{self.cgroup}/{name}",
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            },
        }
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def timed(self, way: str, call: str, program: str | Path, *words: str) -> None:
        root = ["--root", str(self.folder / "runc")] if call != PYTHON else []
        argv = [str(program), *root, *words]
        begun = time.perf_counter()
        said = self.folder / "said"
        with open(said, "wb") as stderr:  # not a pipe: the container inherits it
            process = subprocess.Popen(
                argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = status
        self.times[way, call].append((time.perf_counter() - begun) * 1000)
        self.work[way, call].append((used.ru_utime + used.ru_stime) * 1000)
        if status:
            raise SystemExit(f"{' '.join(argv)}: {said.read_text()}")

    def life(self, way: str, program: str | Path, bundle: Path) -> None:
        """One container through all calls of a container engine."""
        name = secrets.token_hex(32)
        self.made.append(name)
        marks = self.run_dir / "containers" / name
        if way == "protected":
            marks.mkdir()
        pid_file = bundle / "pid"
        self.timed(way, "create", program, "create", "--bundle", str(bundle), "--pid-file", str(pid_file), name)
        self.timed(way, "state", program, "state", name)
        if way == "protected":  # as it is between a restore and its start
            (marks / "restored").touch()
        self.timed(way, "state, restored", program, "state", name)
        (marks / "restored").unlink(missing_ok=True)
        self.timed(way, "start", program, "start", name)
        self.timed(way, "exec", program, "exec", name, "/bin/true")
        self.timed(way, "kill", program, "kill", name, "KILL")
        with contextlib.suppress(ChildProcessError):  # we are its subreaper
            os.waitpid(int(pid_file.read_text()), 0)
        self.timed(way, "delete", program, "delete", name)

    def close(self) -> None:
        for name in self.made:
            delete = ["runc", "--root", str(self.folder / "runc"), "delete", "--force", name]
            subprocess.run(delete, capture_output=True, check=False)
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for folder, _, _ in os.walk(hierarchy / self.cgroup.strip("/"), topdown=False):
                os.rmdir(folder)
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def agent(bench: Bench) -> Iterator[None]:
    """Says `create` to every create and `done` to everything else, at once."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bench.run_dir / "agent.sock"))
        listener.listen(16)

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    line = connection.makefile().readline()
                    if not line:
                        return
                    asked = json.loads(line)
                    reply: dict[str, object] = {"action": "done"}
                    if asked["operation"] == "create":
                        control = bench.run_dir / "containers" / asked["container_id"] / "keeper.sock"
                        reply = {"action": "create", "keeper": [str(bench.folder / "log"), str(control)]}
                    connection.sendall(json.dumps(reply, separators=(",", ":")).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as stop:
                stop.connect(str(bench.run_dir / "agent.sock"))
            thread.join()


def table(bench: Bench, rounds: int) -> str:
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs "
        f"({_cpu()}), Linux {platform.release()}, {_version('runc', '--version')}, "
        f"{_version('/usr/bin/python3', '--version')}, sh is {os.path.realpath('/bin/sh')}.",
        "",
        "| call | runc: wall, CPU | not ours: wall added, CPU added | protected: wall added, CPU added |",
        "| --- | --- | --- | --- |",
    ]
    for call in ("create", "state", "state, restored", "start", "exec", "kill", "delete", PYTHON):
        cells = [" | ".join([f"{_median(bench.times['runc', call])}, {_median(bench.work['runc', call])}"])]
        for way in ("plain", "protected") if call != PYTHON else ():
            wall, work = (_added(measured, way, call) for measured in (bench.times, bench.work))
            limit = PLAIN_LIMIT if way == "plain" else PROTECTED_LIMIT
            cells.append(f"{wall:.1f}, {work:.1f}" + (f" (CPU over {limit:g})" if work > limit else ""))
        lines.append(f"| {call} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _added(measured: dict[tuple[str, str], list[float]], way: str, call: str) -> float:
    pairs = zip(measured[way, call], measured["runc", call], strict=True)
    return statistics.median(ours - bare for ours, bare in pairs)


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}"


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()


def _version(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    bench = Bench()
    try:
        plain = bench.bundle("plain", [])
        protected = bench.bundle("protected", ["AWS_BATCH_JOB_ID=a-job", "AWS_BATCH_JOB_ATTEMPT=1"])
        ways: list[tuple[str, str | Path, Path]] = [
            ("runc", "runc", plain),
            ("plain", RUNTIME, plain),
            ("protected", RUNTIME, protected),
        ]
        with agent(bench):
            for number in range(rounds):
                for way, program, bundle in ways if number % 2 else ways[::-1]:
                    bench.life(way, program, bundle)
                bench.timed("runc", PYTHON, "/usr/bin/python3", "-I", "-S", "-c", "")
        print(table(bench, rounds))
    finally:
        bench.close()


if __name__ == "__main__":
    main()
