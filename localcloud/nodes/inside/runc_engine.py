"""Containers without Docker: the life of one, from the bundle to its exit, through the OCI runtime's commands.

    bundle → runtime create → runtime start → (the container's own end) → output drained → runtime delete

The runtime is called as dockerd's shim calls it, the container's pipes as its stdout and stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localcloud.cgroups import Cgroup, oom_kills
from localcloud.linux import unmount
from localcloud.node_link import CHUNK_BYTES, Exited, NodeEvent, Output, Started, StartFailed, Task
from localcloud.nodes.images.catalogue import Catalogue
from localcloud.nodes.inside.bundle import make_bundle
from localcloud.nodes.inside.children import Children
from localcloud.nodes.inside.engine import OUT_OF_MEMORY, StartProblem, timed_out, unknown_image
from localcloud.nodes.inside.roots import find_root
from perdure.domain.errors import ConfigurationInvalid

log = logging.getLogger(__name__)

DRAIN_LIMIT_SECONDS = 30.0
"""How long output may still come after the container's end; whoever holds the pipe longer is not waited for."""
DELETE_LIMIT_SECONDS = 120.0
STOP_POLL_SECONDS = 0.05
Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True)
class RuncEngine:
    """What containers of one node have in common. `cgroup` is the parent of their groups."""

    children: Children
    runtime: str
    runtime_root: Path
    folder: Path
    images: Catalogue
    cgroup: Cgroup
    host_name: str
    environment: Mapping[str, str]

    def wait_until_ready(self) -> None:
        """There is nothing to wait for."""

    def container(self, task: Task, tell: Callable[[NodeEvent], None]) -> RuncContainer:
        """See ContainerEngine."""
        return RuncContainer(self, task, tell)


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class RuncContainer:
    """See Container."""

    def __init__(self, engine: RuncEngine, task: Task, tell: Callable[[NodeEvent], None]) -> None:
        self._engine = engine
        self._task = task
        self._tell = tell
        self._id = task.container_id
        self._bundle = engine.folder / task.container_id
        self._cgroup = engine.cgroup.below(task.container_id)
        self._readers: list[threading.Thread] = []
        self._stop_asked = threading.Event()
        self._ended = threading.Event()
        self._runtime_pid: int | None = None
        self._pid: int | None = None

    def run(self) -> None:
        """See Container."""
        try:
            self._start()
        except StartProblem as problem:
            self._clear_away(forced=True)
            self._ended.set()
            self._drain()
            self._tell(StartFailed(container_id=self._id, reason=str(problem)))
            return
        self._tell(Started(container_id=self._id))
        assert self._pid is not None
        status = self._engine.children.wait(self._pid)
        assert status is not None
        exit_code = 128 - status if status < 0 else status
        self._ended.set()
        out_of_memory = exit_code != 0 and oom_kills(self._cgroup) > 0
        log.info("container %.12s of job %s ended with %d", self._id, self._task.job_id, exit_code)
        self._drain()
        self._clear_away()
        self._tell(Exited(container_id=self._id, exit_code=exit_code, reason=OUT_OF_MEMORY if out_of_memory else None))

    def stop(self, grace_seconds: float) -> None:
        """See Container."""
        self._stop_asked.set()
        while self._pid is None and not self._ended.wait(STOP_POLL_SECONDS):
            if self._runtime_pid is not None:  # being created: nothing in it could hear a SIGTERM
                self._engine.children.end_session(self._runtime_pid)
        self._signal(signal.SIGTERM)
        if not self._ended.wait(grace_seconds):
            self.kill()

    def kill(self) -> None:
        """See Container."""
        self._stop_asked.set()
        if self._pid is None and self._runtime_pid is not None:
            self._engine.children.end_session(self._runtime_pid)
        self._signal(signal.SIGKILL)
        self._cgroup.kill()

    def _start(self) -> None:
        deadline = _Deadline(self._task.start_timeout_seconds)
        root = find_root(self._task.image, self._engine.images)
        if root is None:
            raise unknown_image(str(self._task.image))
        try:
            make_bundle(
                self._bundle,
                self._task,
                root=root,
                cgroup=self._cgroup.path,
                host_name=self._engine.host_name,
            )
        except (OSError, ConfigurationInvalid) as problem:
            raise StartProblem(f"CannotCreateContainerError: {problem}") from problem
        pid_file = self._bundle / "init.pid"
        self._call(deadline, "create", "--bundle", str(self._bundle), "--pid-file", str(pid_file))
        try:
            self._pid = int(pid_file.read_text())
        except (OSError, ValueError) as problem:
            raise StartProblem(f"CannotStartContainerError: the runtime left no pid: {problem}") from problem
        if self._stop_asked.is_set():
            raise StartProblem("CannotStartContainerError: the task was stopped before it started")
        self._call(deadline, "start")

    def _call(self, deadline: _Deadline, operation: str, *arguments: str) -> None:
        """One command of the runtime's, within what is left of the start time-out. `create` gets the pipes."""
        report = self._bundle / f"{operation}.log"
        argv = self._argv(report, operation, *arguments)
        with contextlib.ExitStack() as pipes:
            nothing = out = err = pipes.enter_context(open(os.devnull, "r+b")).fileno()
            if operation == "create":
                out, err = self._pipe(pipes, "stdout"), self._pipe(pipes, "stderr")
            pid = self._engine.children.spawn(argv, self._engine.environment, stdin=nothing, stdout=out, stderr=err)
        self._runtime_pid = pid
        status = self._engine.children.wait(pid, deadline.left())
        if status is None:
            self._engine.children.end_session(pid)
            self._engine.children.wait(pid, DELETE_LIMIT_SECONDS)
            raise timed_out(deadline.seconds)
        if status != 0:
            words = _last_error(report) or f"the runtime ended with {status}"
            raise StartProblem(
                f"CannotStartContainerError: Error response from daemon: OCI runtime {operation} failed: {words}"
            )

    def _argv(self, report: Path, operation: str, *arguments: str) -> list[str]:
        shared = ["--root", str(self._engine.runtime_root), "--log", str(report), "--log-format", "json"]
        return [self._engine.runtime, *shared, operation, *arguments, self._id]

    def _pipe(self, scope: contextlib.ExitStack, stream: Stream) -> int:
        reading, writing = os.pipe()
        name = f"{stream} of {self._id[:12]}"
        reader = threading.Thread(target=self._forward, args=(reading, stream), name=name, daemon=True)
        reader.start()
        self._readers.append(reader)
        scope.callback(os.close, writing)
        return writing

    def _forward(self, descriptor: int, stream: Stream) -> None:
        """Docker's log driver: every byte, until the last writer is gone."""
        with open(descriptor, "rb", buffering=0) as pipe:
            while data := pipe.read(CHUNK_BYTES):
                self._tell(Output(container_id=self._id, stream=stream, data=data))

    def _drain(self) -> None:
        deadline = _Deadline(DRAIN_LIMIT_SECONDS)
        for reader in self._readers:
            reader.join(deadline.left())
            if reader.is_alive():
                log.warning("something still holds %s after the container's end", reader.name)

    def _clear_away(self, *, forced: bool = False) -> None:
        """`runtime delete`, and by force what it left. The upper layer stays on the node's disk."""
        if not self._delete(*["--force"] * forced) and not forced:
            self._delete("--force")
        try:
            self._cgroup.kill()
            self._cgroup.remove()
        except (OSError, TimeoutError) as problem:
            log.warning("cgroup of %.12s is still there: %s", self._id, problem)
        rootfs = self._bundle / "rootfs"
        while os.path.ismount(rootfs):
            unmount(rootfs, lazily=True)

    def _delete(self, *flags: str) -> bool:
        if not (self._bundle / "config.json").exists():
            return True  # the runtime never heard of it
        report = self._bundle / "delete.log"
        with open(self._bundle / "delete.out", "ab") as out:
            argv = self._argv(report, "delete", *flags)
            status = self._engine.children.run(argv, self._engine.environment, DELETE_LIMIT_SECONDS, out)
        if status != 0:
            log.warning("runtime delete of %.12s ended with %s: %s", self._id, status, _last_error(report))
        return status == 0

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is not None and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def _last_error(report: Path) -> str:
    """The message of the last error in a runtime's JSON log, "" without one."""
    words = ""
    with contextlib.suppress(OSError):
        for line in report.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("level") in {"error", "fatal"}:
                    words = str(entry.get("msg", ""))
    return words
