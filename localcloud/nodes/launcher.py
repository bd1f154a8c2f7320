"""Makes and ends nodes: a cgroup, namespaces, a veth pair and a folder on the pool for each."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from localcloud.cgroups import Cgroup
from localcloud.linux import mount_table
from localcloud.node_link import Link, NodeHandle, NodeLauncher, NodeSpec
from localcloud.nodes.images.catalogue import CACHE
from localcloud.nodes.inside.configuration import DockerPrograms, EngineName, NodeConfiguration
from localcloud.nodes.network import FIRST_NODE, LAST_NODE, Subnet, plug_in, remove_link
from perdure.waiting import until

BOOT_LIMIT_SECONDS = 120.0
FREEZE_LIMIT_SECONDS = 1.0


class LauncherOptions(BaseModel):
    """What every node of a stack has in common. The supervisor writes it into the cloud's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cgroup: str
    """Path of the stack's group; each node's lies in it."""
    stacks_folder: Path
    pool: Path
    logs: Path
    subnet: int
    temporal_address: str
    temporal_namespace: str = "default"
    container_start_timeout: float = 180.0
    runtime: str = "runc"
    engine: EngineName = "runc"
    docker: DockerPrograms = DockerPrograms()
    images_folder: Path = CACHE
    with_agent: bool = True
    environment: dict[str, str] = Field(default_factory=dict)
    """More variables for the agents."""


def make_launcher(options: dict[str, object]) -> NodeLauncher:
    """The cloud's way in: it names this function in its configuration."""
    return NamespaceLauncher(LauncherOptions.model_validate(options))


class NamespaceLauncher:
    """Nodes as namespaces of this machine."""

    def __init__(self, options: LauncherOptions) -> None:
        self._options = options
        self._subnet = Subnet(options.subnet)
        self._lock = threading.Lock()
        self._hosts: dict[str, int] = {}
        self._last_host = FIRST_NODE - 1
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def launch(self, spec: NodeSpec) -> NodeHandle:
        """See NodeLauncher."""
        host = self._claim_address(spec.instance_id)
        try:
            return self._launch(spec, host)
        except BaseException:
            self._end(spec.instance_id)
            self._sweep(spec.instance_id)
            raise

    def power_loss(self, node: NodeHandle, cut_disks: Callable[[], None] = lambda: None) -> None:
        """See NodeLauncher."""
        self._end(node.instance_id, cut_disks)
        node.link.close()

    def sweep(self, node: NodeHandle) -> None:
        """See NodeLauncher."""
        self._sweep(node.instance_id)

    def _end(self, instance_id: str, cut_disks: Callable[[], None] = lambda: None) -> None:
        group = self._group(instance_id)
        if host := self._hosts.get(instance_id):
            remove_link(self._subnet.port_name(host))
        group.freeze(FREEZE_LIMIT_SECONDS)
        try:
            cut_disks()
        finally:
            started = self._started.get(instance_id)
            # `unshare` ends with the init that it waits for; killed before that, it would leave a zombie to others.
            group.kill(spare=started.pid if started else 0)
            if started:
                group.thaw()
                started.wait()

    def _sweep(self, instance_id: str) -> None:
        self._group(instance_id).remove()
        remove_folder(self._options.pool / "nodes" / instance_id)
        with self._lock:
            self._hosts.pop(instance_id, None)
            self._started.pop(instance_id, None)

    def _launch(self, spec: NodeSpec, host: int) -> NodeHandle:
        configuration = self._configuration(spec, host)
        for folder in (configuration.folder / "state", configuration.folder / "docker", configuration.agent_log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        config_file = configuration.folder / "node.json"
        config_file.write_text(configuration.model_dump_json(indent=1))
        system = self._group(spec.instance_id).below("system")
        system.make()
        ours, theirs = socket.socketpair()
        argv = [
            *("unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--propagation", "private", "--mount-proc"),
            *("--fork", "--kill-child", sys.executable, "-m", "localcloud.nodes.inside"),
            *("--config", str(config_file), "--link-fd", str(theirs.fileno())),
        ]
        with theirs, (configuration.agent_log.parent / "node.log").open("ab") as log:
            process = subprocess.Popen(
                system.enter(argv),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=Path(__file__).resolve().parents[2],
                env=configuration.environment,
            )
        self._started[spec.instance_id] = process
        assert process.stdin is not None
        with process.stdin:
            init_pid = _only_child(process)
            plug_in(self._subnet, host, init_pid)
            process.stdin.write(b"plugged in\n")
        return NodeHandle(spec.instance_id, init_pid, Link(ours), self._subnet.address(host))

    def _configuration(self, spec: NodeSpec, host: int) -> NodeConfiguration:
        options = self._options
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **options.environment,
            "TEMPORAL_ADDRESS": options.temporal_address,
            "TEMPORAL_NAMESPACE": options.temporal_namespace,
            "PERDURE_METADATA_URL": spec.imds_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": spec.imds_url,
            "AWS_ENDPOINT_URL": spec.aws_endpoint_url,
            "AWS_REGION": spec.region,
            "AWS_DEFAULT_REGION": spec.region,
            "PERDURE_ECS_STOP": _to_init("SIGUSR1"),
            "PERDURE_ECS_START": _to_init("SIGUSR2"),
            "ECS_CONTAINER_START_TIMEOUT": f"{options.container_start_timeout:g}",
        }
        return NodeConfiguration(
            instance_id=spec.instance_id,
            host_name="ip-" + self._subnet.address(host).replace(".", "-"),
            folder=options.pool / "nodes" / spec.instance_id,
            mask_folder=options.pool / "mask",
            stacks_folder=options.stacks_folder,
            cgroup=self._group(spec.instance_id).path,
            runtime=options.runtime,
            engine=options.engine,
            docker=options.docker,
            images_folder=options.images_folder,
            agent_log=options.logs / spec.instance_id / "agent.log",
            with_agent=options.with_agent,
            environment=environment,
        )

    def _group(self, instance_id: str) -> Cgroup:
        return Cgroup.at(f"{self._options.cgroup}/{instance_id}")

    def _claim_address(self, instance_id: str) -> int:
        with self._lock:
            free = set(range(FIRST_NODE, LAST_NODE + 1)) - set(self._hosts.values())
            if not free:
                raise OSError(f"the stack's subnet has no address left for {instance_id}")
            # Not the lowest: a new node should not get the address of the one that just died.
            self._last_host = min((number for number in free if number > self._last_host), default=min(free))
            self._hosts[instance_id] = self._last_host
            return self._last_host


def remove_folder(folder: Path) -> None:
    """Delete a folder tree. Raises OSError, with nothing deleted, when anything is mounted at or below it."""
    with contextlib.suppress(FileNotFoundError):
        real = folder.resolve(strict=True)
        below = [entry.point for entry in mount_table() if entry.point.is_relative_to(real)]
        if below:
            raise OSError(f"{below[0]} is still mounted; {folder} is not deleted")
        # Renamed first, so that a half-deleted tree is never taken for a whole one.
        doomed = real.with_name(f".{real.name}.{secrets.token_hex(4)}")
        real.rename(doomed)
        shutil.rmtree(doomed)


def _only_child(process: subprocess.Popen[bytes]) -> int:
    """The host's pid of what `unshare --fork` forked. Raises OSError when it ends, or the limit comes, first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(TimeoutError):
        until(lambda: process.poll() is not None or children.read_text().strip(), BOOT_LIMIT_SECONDS, 0.005)
    if process.poll() is None and (found := children.read_text().split()):
        return int(found[0])
    raise OSError(f"the node's namespaces could not be made (status {process.poll()}); its node.log says why")


def _to_init(signal_name: str) -> str:
    """A node's `systemctl stop ecs`: its init has the ECS agent in it, and stops or starts it on a signal."""
    return shlex.join([sys.executable, "-c", f"import os, signal; os.kill(1, signal.{signal_name})"])
