"""One task's container as ECS's agent has it from Docker: create, attach, start, wait, and much later remove.

Docker gives the container an id of its own; ours is in its name (`ecs-<id>`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from localcloud.cgroups import Cgroup
from localcloud.node_link import CHUNK_BYTES, Exited, NodeEvent, Output, Started, StartFailed, Task
from localcloud.nodes.images.catalogue import Catalogue
from localcloud.nodes.inside.bundle import make_sources, refuse_unusable
from localcloud.nodes.inside.docker.api import DockerApi, DockerProblem, DockerTimeout
from localcloud.nodes.inside.docker.daemon import wait_until_it_serves
from localcloud.nodes.inside.docker.images import NodeImages
from localcloud.nodes.inside.engine import OUT_OF_MEMORY, StartProblem, timed_out, unknown_image
from localcloud.nodes.inside.roots import find_root
from perdure.domain.errors import ConfigurationInvalid

log = logging.getLogger(__name__)

DRAIN_LIMIT_SECONDS = 30.0
"""How long output may still come after the container's end."""
REMOVE_LIMIT_SECONDS = 300.0
CLEANUP_WAIT_SECONDS = 3 * 3600.0
"""How long an ended container is kept (ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION's default)."""
STOP_POLL_SECONDS = 0.05
AWAY_SECONDS = 0.5
"""Between two questions to a dockerd that does not answer."""


class DockerEngine:
    """The node's Docker, for its ECS agent. `folder` is the parent of Docker's data-root; `cgroup` that of containers'
    groups."""

    def __init__(
        self,
        api: DockerApi,
        images: NodeImages,
        catalogue: Catalogue,
        folder: Path,
        cgroup: Cgroup,
        cleanup_wait_seconds: float = CLEANUP_WAIT_SECONDS,
    ) -> None:
        self.api = api
        self.images = images
        self.catalogue = catalogue
        self.folder = folder
        self.cgroup = cgroup
        self.cleanup_wait_seconds = cleanup_wait_seconds

    def wait_until_ready(self) -> None:
        """dockerd serves. Raises DockerProblem when it does not come up."""
        wait_until_it_serves(self.api)

    def container(self, task: Task, tell: Callable[[NodeEvent], None]) -> DockerContainer:
        """See ContainerEngine."""
        return DockerContainer(self, task, tell)


class DockerContainer:
    """See Container."""

    def __init__(self, engine: DockerEngine, task: Task, tell: Callable[[NodeEvent], None]) -> None:
        self._engine = engine
        self._api = engine.api
        self._task = task
        self._tell = tell
        self._docker_id = ""
        self._running = threading.Event()
        self._ended = threading.Event()
        self._stop_asked = threading.Event()
        self._reader: threading.Thread | None = None

    def run(self) -> None:
        """See Container."""
        try:
            self._start()
        except StartProblem as problem:
            self._ended.set()
            self._tell(StartFailed(container_id=self._task.container_id, reason=str(problem)))
            self._remove_later(0.0)
            return
        self._tell(Started(container_id=self._task.container_id))
        self._running.set()
        state = self._wait()
        self._ended.set()
        self._drain()
        exit_code = int(state["ExitCode"])
        log.info("container %.12s of job %s ended with %d", self._docker_id, self._task.job_id, exit_code)
        reason = OUT_OF_MEMORY if exit_code != 0 and state["OOMKilled"] else None
        self._tell(Exited(container_id=self._task.container_id, exit_code=exit_code, reason=reason))
        self._remove_later(self._engine.cleanup_wait_seconds)

    def stop(self, grace_seconds: float) -> None:
        """See Container. One that is being created is ended with what creates it: dockerd itself would not."""
        self._stop_asked.set()
        while not self._running.wait(STOP_POLL_SECONDS) and not self._ended.is_set():
            self._end_creation()
        if self._ended.is_set():
            return
        try:
            self._api.stop(self._docker_id, grace_seconds)
        except DockerProblem as problem:
            log.warning("stopping %.12s: %s; it is killed", self._docker_id, problem)
            self.kill()

    def kill(self) -> None:
        """See Container."""
        self._stop_asked.set()
        self._end_creation()
        if self._docker_id:
            self._engine.cgroup.below(self._docker_id).kill()

    def _start(self) -> None:
        deadline = time.monotonic() + self._task.start_timeout_seconds
        self._docker_id = self._create()
        self._note_layer()
        self._attach()
        if self._stop_asked.is_set():
            raise StartProblem("CannotStartContainerError: the task was stopped before it started")
        try:
            self._api.start(self._docker_id, deadline - time.monotonic())
        except DockerTimeout:
            self._end_creation()
            raise timed_out(self._task.start_timeout_seconds) from None
        except DockerProblem as problem:
            raise StartProblem(f"CannotStartContainerError: Error response from daemon: {problem}") from problem

    def _create(self) -> str:
        root = find_root(self._task.image, self._engine.catalogue)
        if root is None:
            raise unknown_image(str(self._task.image))
        try:
            refuse_unusable(self._task)
            make_sources(self._task)
            image = self._engine.images.provide(root)
            return self._api.create(f"ecs-{self._task.container_id}", container_request(self._task, image))
        except DockerProblem as problem:
            raise StartProblem(f"CannotCreateContainerError: Error response from daemon: {problem}") from problem
        except (OSError, ConfigurationInvalid) as problem:
            raise StartProblem(f"CannotCreateContainerError: {problem}") from problem

    def _note_layer(self) -> None:
        """Where `perdure local cp` finds the writable layer of an unprotected job: <folder>/<our id>/upper."""
        try:
            data = (self._api.inspect(self._docker_id).get("GraphDriver") or {}).get("Data") or {}
            if upper := data.get("UpperDir"):
                place = self._engine.folder / self._task.container_id
                place.mkdir(exist_ok=True)
                # Relative, because it is followed from outside the node.
                (place / "upper").symlink_to(os.path.relpath(upper, place))
        except (DockerProblem, OSError) as problem:
            log.warning("where the files of %.12s are was not noted: %s", self._docker_id, problem)

    def _attach(self) -> None:
        """Take its output from before its start on, in a thread of its own."""
        attached = threading.Event()
        problems: list[DockerProblem] = []

        def forward() -> None:
            try:
                with self._api.attach(self._docker_id) as output:
                    attached.set()
                    for stream, data in output:
                        for start in range(0, len(data), CHUNK_BYTES):
                            piece = data[start : start + CHUNK_BYTES]
                            self._tell(Output(container_id=self._task.container_id, stream=stream, data=piece))
            except DockerProblem as problem:
                problems.append(problem)
                log.warning("output of %.12s: %s", self._docker_id, problem)
            finally:
                attached.set()

        self._reader = threading.Thread(target=forward, name=f"output of {self._docker_id[:12]}", daemon=True)
        self._reader.start()
        attached.wait()
        if problems:
            raise StartProblem(f"CannotStartContainerError: Error response from daemon: {problems[0]}")

    def _wait(self) -> dict[str, Any]:
        """Docker's account of its end. A dockerd that is away is asked again: its containers end with it. One that
        somebody removed was killed before."""
        while True:
            try:
                self._api.wait(self._docker_id)
                state: dict[str, Any] = self._api.inspect(self._docker_id)["State"]
                if not state["Running"]:
                    return state
            except DockerProblem as problem:
                log.warning("waiting for %.12s: %s", self._docker_id, problem)
                if problem.status == 404:
                    return {"ExitCode": 128 + signal.SIGKILL, "OOMKilled": False}
                time.sleep(AWAY_SECONDS)

    def _drain(self) -> None:
        assert self._reader is not None
        self._reader.join(DRAIN_LIMIT_SECONDS)
        if self._reader.is_alive():
            log.warning("something still holds the %s after the container's end", self._reader.name)

    def _end_creation(self) -> None:
        """SIGKILL to the runtime that creates it, and all that it started. dockerd then says that the start failed."""
        if not self._docker_id:
            return
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if self._docker_id in words and "create" in words:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for each in [*process.children(recursive=True), process]:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            each.send_signal(signal.SIGKILL)

    def _remove_later(self, seconds: float) -> None:
        """Have Docker remove it; its files go with it."""
        if not self._docker_id:
            return

        def remove() -> None:
            try:
                self._api.remove(self._docker_id, REMOVE_LIMIT_SECONDS)
            except DockerProblem as problem:
                log.warning("container %.12s was not removed: %s", self._docker_id, problem)

        timer = threading.Timer(seconds, remove)
        timer.daemon = True
        timer.start()


def container_request(task: Task, image: str) -> dict[str, Any]:
    """What ECS's agent asks of ContainerCreate for a simple Batch job: on the host's network, memory as a hard limit,
    vCPUs as shares. Its mounts are declared shared in its environment, as one would on AWS."""
    shared = ":".join(wanted.destination for wanted in task.mounts)
    options = task.options
    environment = {**({"PERDURE_SHARED_MOUNTS": shared} if shared else {}), **task.environment}
    return {
        "Image": image,
        "Cmd": task.command,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": task.user or "",
        "Labels": {"com.amazonaws.ecs.container-name": "default"},
        "HostConfig": {
            "NetworkMode": "host",
            "Memory": task.memory_mib << 20,
            "CpuShares": max(2, round(task.vcpus * 1024)),
            "Privileged": task.privileged,
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": wanted.source,
                    "Target": wanted.destination,
                    "ReadOnly": wanted.read_only,
                }
                for wanted in task.mounts
            ],
            "Ulimits": [{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in options.ulimits],
            "Tmpfs": {one.destination: ",".join([f"size={one.size_mib}m", *one.options]) for one in options.tmpfs},
            "ShmSize": options.shared_memory_mib << 20,
            "Init": options.init,
            "ReadonlyRootfs": options.read_only_root,
            "RestartPolicy": {"Name": "no"},
        },
    }
