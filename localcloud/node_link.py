"""The seam between the cloud (Batch, EC2, EBS, metadata) and a node (namespaces, its "ECS agent" and "dockerd").

The cloud process imports a `NodeLauncher`, named in its configuration, and asks it for nodes. A node and the cloud
then talk over one stream socket, the node's *link*: one JSON object a line, `RunTask`, `StopTask` and `SetEcsAgent`
down, `NodeEvent`s up. The link is one end of a socketpair that the node's init inherits, so it needs no address and
cannot be mistaken for another node's. End of file on the cloud's side means that the node's init is dead; on the
node's side that the cloud is gone, and the node then ends itself: nodes never outlive their cloud.

Who does what at a power loss: the cloud keeps a file descriptor on each mounted volume and calls
`NodeLauncher.power_loss`, which freezes the node, lets the cloud shut those file systems down without a log flush
(`cut_disks`), kills everything and returns when it is dead; then the cloud takes the loop devices away. The file
systems must go first: a dying overlay syncs the volume below it (tried), which no power loss does. Frozen, no process
ever sees an I/O error that a real one would not.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

CHUNK_BYTES = 64 * 1024
"""Largest piece of output in one `Output` event."""


class _Message(BaseModel):
    # A newer peer's fields are ignored, so that cloud and node can be changed one after the other.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


class Mount(_Message):
    """A host folder or file seen in the container (job definition volumes and mountPoints)."""

    source: str
    destination: str
    read_only: bool = False


class Ulimit(_Message):
    """A process's limit by its name without RLIMIT_, such as `nofile`."""

    name: str
    soft: int
    hard: int


class Tmpfs(_Message):
    """A file system in memory, seen in the container."""

    destination: str
    size_mib: int = Field(gt=0)
    options: list[str] = Field(default_factory=list)


class ContainerOptions(_Message):
    """What a job definition may ask for besides (ulimits, readonlyRootFilesystem, linuxParameters)."""

    ulimits: list[Ulimit] = Field(default_factory=list)
    tmpfs: list[Tmpfs] = Field(default_factory=list)
    shared_memory_mib: int = Field(64, gt=0)
    """Size of /dev/shm."""
    init: bool = False
    """A small init (tini) as process 1, which reaps orphans and passes signals on."""
    read_only_root: bool = False


class Task(_Message):
    """One container to run: what ECS's agent would be told by its task definition.

    `environment` is complete: Batch's variables, the endpoint and credential defaults and the job's own. It is
    untrusted, as is `command`. `image`: a name that was built (localcloud/images); None or the reserved name means the
    machine's own root.
    """

    container_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    job_id: str
    attempt: int
    command: list[str]
    environment: dict[str, str] = Field(default_factory=dict)
    vcpus: float = 1.0
    memory_mib: int = 512
    mounts: list[Mount] = Field(default_factory=list)
    image: str | None = None
    user: str | None = None
    privileged: bool = False
    options: ContainerOptions = ContainerOptions()
    start_timeout_seconds: float = 180.0


class RunTask(_Message):
    """Create and start the task's container. Answered by `Started` or `StartFailed`, once."""

    do: Literal["run_task"] = "run_task"
    task: Task


class StopTask(_Message):
    """SIGTERM to the container's init, SIGKILL after `grace_seconds`. Unknown or ended containers are ignored.

    One that is still being created is stopped as soon as that can be done. A frozen one gets its SIGKILL and is
    thawed. The end comes as `Exited` (or `StartFailed`).
    """

    do: Literal["stop_task"] = "stop_task"
    container_id: str
    grace_seconds: float = 30.0


class SetEcsAgent(_Message):
    """Stop or start the node's ECS agent. While it is stopped no `Started`, `StartFailed` or `Exited` is sent and no
    `RunTask` or `StopTask` is carried out; what was held back is sent or done when it starts again. `Output` goes on:
    that is dockerd's log driver."""

    do: Literal["set_ecs_agent"] = "set_ecs_agent"
    running: bool


class Ready(_Message):
    """The node is up: network, /dev/disk, agent started, ECS agent registered. Sent once, before anything else."""

    event: Literal["ready"] = "ready"


class Started(_Message):
    """The runtime's `start` returned well: the job runs. The attempt counts from here."""

    event: Literal["started"] = "started"
    container_id: str


class StartFailed(_Message):
    """The container never ran. `reason` in ECS's words, such as `CannotStartContainerError: …`,
    `CannotCreateContainerError: …` or `DockerTimeoutError: Could not transition to started; timed out after …`."""

    event: Literal["start_failed"] = "start_failed"
    container_id: str
    reason: str


class Exited(_Message):
    """The container ended; all its `Output` was sent before. `exit_code` 128 + n for signal n. `reason` only when
    the memory limit killed it: `OutOfMemoryError: Container killed due to memory usage`."""

    event: Literal["exited"] = "exited"
    container_id: str
    exit_code: int
    reason: str | None = None


class Output(_Message):
    """What the container wrote, at most CHUNK_BYTES, in order per stream. `data` is base64 on the wire."""

    event: Literal["output"] = "output"
    container_id: str
    stream: Literal["stdout", "stderr"] = "stdout"
    data: bytes


NodeCommand = Annotated[RunTask | StopTask | SetEcsAgent, Field(discriminator="do")]
NodeEvent = Annotated[Ready | Started | StartFailed | Exited | Output, Field(discriminator="event")]

_commands: TypeAdapter[NodeCommand] = TypeAdapter(NodeCommand)
_events: TypeAdapter[NodeEvent] = TypeAdapter(NodeEvent)


class Link:
    """One end of a link. `send` may be called by any thread; one thread reads."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, message: _Message) -> None:
        """Write one line; blocks while the peer does not read. OSError when the peer is gone."""
        line = message.model_dump_json().encode() + b"\n"
        with self._sending:
            self._socket.sendall(line)

    def commands(self) -> Iterator[NodeCommand]:
        """The node's side: what the cloud asks, until the cloud is gone."""
        return (_commands.validate_json(line) for line in self._lines())

    def events(self) -> Iterator[NodeEvent]:
        """The cloud's side: what the node reports, until its init is dead."""
        return (_events.validate_json(line) for line in self._lines())

    def close(self) -> None:
        """Wakes the reader of both ends with end of file."""
        with contextlib.suppress(OSError):  # the peer closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _lines(self) -> Iterator[bytes]:
        with self._socket.makefile("rb") as stream:
            try:
                # A torn last line belongs to a peer that died while writing: it was never said.
                yield from (line for line in stream if line.endswith(b"\n"))
            except ConnectionResetError:
                return


@dataclass(frozen=True)
class NodeSpec:
    """What a node is to be. The launcher knows the stack's folder, bridge, cgroup and Temporal address by itself."""

    instance_id: str
    zone: str
    region: str
    instance_type: str
    vcpus: float
    memory_mib: int
    imds_url: str
    """Base URL of this node's metadata service, for PERDURE_METADATA_URL and AWS_EC2_METADATA_SERVICE_ENDPOINT."""
    aws_endpoint_url: str


@dataclass(frozen=True)
class NodeHandle:
    """A node that was launched. `init_pid` is the host's pid of its init: /proc/<init_pid>/root is its file system,
    with a /dev/disk/by-id folder of its own from `Ready` on. `address` is its IPv4 address on the bridge."""

    instance_id: str
    init_pid: int
    link: Link
    address: str = ""


class NodeLauncher(Protocol):
    """Makes and ends nodes. Called from several threads, never twice at once for one instance."""

    def launch(self, spec: NodeSpec) -> NodeHandle:
        """Start a node and return once its init runs; `Ready` follows on the link. Raises OSError or
        subprocess.SubprocessError when it cannot, leaving nothing behind."""
        ...

    def power_loss(self, node: NodeHandle, cut_disks: Callable[[], None] = lambda: None) -> None:
        """End every process of the node at once: network down, everything frozen, `cut_disks()`, SIGKILL, frozen
        cgroups thawed so that they die. Nothing is told to anyone, nothing flushed. Returns when no process of the
        node is left (and so no mount namespace: only the cloud's descriptors hold the volumes). Idempotent; also for a
        node whose init died. What `cut_disks` raises is raised again, once the node is dead."""
        ...

    def sweep(self, node: NodeHandle) -> None:
        """After a power loss, once volumes are gone: remove the node's veth, cgroup and folders. Idempotent."""
        ...
