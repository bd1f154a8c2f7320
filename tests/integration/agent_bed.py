"""What the agent's tests run on: nodes (mount namespaces with an agent of their own), one job volume, a metadata
service, a Temporal server that can be killed, and a scripted workflow in place of the job's.

Containers are made as a container engine makes them: a bundle with an overlay root, then the real perdure-runtime.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from localcloud.aws.imds import Identity, MetadataService
from localcloud.stack.waiting import free_port
from perdure import waiting
from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.contracts.node import (
    CheckpointOutcome,
    CheckpointRequest,
    CheckpointSettings,
    FinalCheckpointRequest,
    NodeActivities,
)
from perdure.contracts.protection import AttachReply, AttachRequest, JobProtectionInput, NodeReport, ReportKind, Verdict
from perdure.domain.configuration import CheckpointConfiguration, EffectiveConfiguration, JobVolumeConfiguration
from perdure.domain.nodes import Notice
from perdure.image.mounts import delete_tree
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "worker_agent/runtime/perdure-runtime"
MASKED = ("home", "root", "tmp", "run", "var/tmp", "var/lib")
VOLUME = "vol-0123456789abcdef0"
REHEARSAL_LIMIT = 600.0
"""Seconds: a rehearsal has the lowest priority, so beside other work it takes minutes."""

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36


def tool(*argv: str | Path) -> str:
    """Run a program that must succeed."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


async def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something true, and return it."""
    return await waiting.until_async(condition, seconds, 0.02, what)


async def written_whole(log: Path, wanted: list[str]) -> None:
    """What a job said last is still on its way when it has ended."""
    await until(lambda: len(log.read_text().splitlines()) >= len(wanted), f"the output in {log}")
    assert log.read_text().splitlines() == wanted


# -------------------------------------------------------------------------------------------------- the other end


@workflow.defn(name=names.JOB_PROTECTION)
class ScriptedJob:
    """Answers `attach` with the plan that the test has set last, and keeps what the node reports."""

    def __init__(self) -> None:
        self.plan = AttachReply(verdict=Verdict.WAIT)
        self.told: list[NodeReport] = []
        self.notices: list[Notice] = []

    @workflow.run
    async def run(self, start: JobProtectionInput) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def set_plan(self, plan: AttachReply) -> None:
        self.plan = plan

    @workflow.update
    async def attach(self, request: AttachRequest) -> AttachReply:
        return self.plan

    @workflow.signal
    def report(self, report: NodeReport) -> None:
        self.told.append(report)

    @workflow.signal
    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    @workflow.query
    def reports(self) -> list[NodeReport]:
        return self.told

    @workflow.query
    def heard_notices(self) -> list[Notice]:
        return self.notices


@workflow.defn(name=names.NODE_WATCH)
class ScriptedNode:
    @workflow.run
    async def run(self, start: NodeWatchInput) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def node_changed(self, change: NodeChanged) -> None:
        pass


@workflow.defn
class Ask:
    """One activity on a node."""

    @workflow.run
    async def run(
        self,
        instance_id: str,
        request: CheckpointRequest | None,
        final: FinalCheckpointRequest | None,
        settings: CheckpointSettings | None = None,
        notice: Notice | None = None,
    ) -> CheckpointOutcome:
        options: dict[str, Any] = {
            "task_queue": names.node_queue(instance_id),
            "start_to_close_timeout": timedelta(seconds=PATIENCE),
            "heartbeat_timeout": timedelta(seconds=PATIENCE),
            "retry_policy": RetryPolicy(maximum_attempts=1),
        }
        if settings is not None:
            await workflow.execute_activity_method(NodeActivities.apply_checkpoint_settings, settings, **options)
            return CheckpointOutcome()
        if notice is not None:
            await workflow.execute_activity_method(NodeActivities.hear_notice, notice, **options)
            return CheckpointOutcome()
        if final is not None:
            return await workflow.execute_activity_method(NodeActivities.final_checkpoint, final, **options)
        assert request is not None
        return await workflow.execute_activity_method(NodeActivities.checkpoint, request, **options)


class Temporal:
    """A dev server on a file, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._file = folder / "temporal.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Until it answers, if it does not run already."""
        if self._process is not None:
            return
        program = shutil.which("temporal", path=sysconfig.get_path("scripts")) or shutil.which("temporal")
        assert program, "temporal is missing; run `make setup`"
        argv = [
            program,
            "server",
            "start-dev",
            "--headless",
            "--port",
            str(self.port),
            "--db-filename",
            str(self._file),
        ]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await self.client()

    async def client(self) -> Client:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                client = await Client.connect(self.address, data_converter=pydantic_data_converter)
                await client.count_workflows()
                return client
            except (RuntimeError, RPCError):
                assert time.monotonic() < end, "the Temporal server does not answer"
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


_servers: list[Temporal] = []
"""The one server of this process, once a bed needed it."""


async def shared_temporal() -> Temporal:
    """A server that runs, the same for all beds of this process: each has a job and nodes of its own, and so queues and
    workflows of its own. A test that kills it has it start again."""
    if not _servers:
        folder = Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp"))
        atexit.register(delete_tree, folder)
        _servers.append(Temporal(folder))
        atexit.register(_servers[0].kill)
    await _servers[0].start()
    return _servers[0]


# ------------------------------------------------------------------------------------------------------ the node


@dataclass
class Launched:
    """A container that the runtime made; its output goes to files, as a container engine would read it."""

    id: str
    bundle: Path
    pid: int = 0
    status: int = 0
    said: str = ""

    def output(self, name: str = "stdout") -> str:
        return (self.bundle / name).read_text()

    def lines(self) -> list[str]:
        return self.output().splitlines()

    async def more_lines(self, count: int) -> None:
        """Until the job has written `count` lines more."""
        wanted = len(self.lines()) + count
        await until(lambda: len(self.lines()) >= wanted, f"{count} more lines, {self.output('stderr')}")

    async def first_line(self) -> None:
        """Until the job has written a line at all: it may have done so long ago."""
        await until(self.lines, f"the first line, {self.output('stderr')}")

    async def exit_code(self) -> int:
        """Wait for the container's end."""

        def ended() -> tuple[int, int] | None:
            done = os.waitpid(self.pid, os.WNOHANG)
            return done if done[0] else None

        _, status = await until(ended, "the container's end")
        return os.waitstatus_to_exitcode(status)


class Node:
    """A mount namespace with an agent in it. Network and processes are the machine's."""

    folder = Path("/run/node")
    """Everything of the node, on a file system of its own (a socket's address must be short)."""

    def __init__(self, temporal: str, start_timeout: float = 145.0, **environment: str) -> None:
        self.instance_id = f"i-{secrets.token_hex(8)}"
        self.imds = MetadataService(
            "127.0.0.1", Identity(self.instance_id, "c5.large", "us-east-1a", "us-east-1", "127.0.0.1", "ami-1")
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"], start_new_session=True
        )
        self.agent: subprocess.Popen[bytes] | None = None
        self._environment = {
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "TEMPORAL_ADDRESS": temporal,
            "PERDURE_RUN_DIR": str(self.folder / "run"),
            "PERDURE_STATE_DIR": str(self.folder / "state"),
            "PERDURE_METADATA_URL": self.imds.url,
            "PERDURE_CONTAINER_START_TIMEOUT": str(start_timeout),
            "PERDURE_ATTACH_PATIENCE": "120",
            "PERDURE_NOTICE_POLL": "0.1",
            **environment,
        }

    def boot(self) -> None:
        """Private folders, as on a machine of its own. The namespace exists once `sleep` runs in it."""
        waiting.until(
            lambda: os.readlink(f"/proc/{self._holder.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"), PATIENCE, 0.01
        )
        # The namespace begins with every mount of the machine, and would keep other stacks' disks busy.
        subprocess.run([*self.inside, "umount", "-a", "-l", "-t", "xfs,overlay"], capture_output=True, timeout=PATIENCE)
        Path("/dev/disk").mkdir(exist_ok=True)
        self.run("mount", "-t", "tmpfs", "none", "/dev/disk")
        self.run("mkdir", "/dev/disk/by-id")
        self.run("mount", "-t", "tmpfs", "-o", "mode=755", "none", "/run")
        self.run("mkdir", "-p", *(self.folder / "mask" / name for name in MASKED))
        for name in MASKED:
            os.setxattr(self.path(self.folder / "mask" / name), "trusted.overlay.opaque", b"y")

    @property
    def inside(self) -> list[str]:
        return ["nsenter", "--mount", "--target", str(self._holder.pid)]

    def path(self, path: Path) -> Path:
        """The same file, seen from the tests' own namespace."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(self, *argv: str | Path) -> str:
        return tool(*self.inside, *argv)

    def attach(self, device: str) -> None:
        self.run("ln", "-s", device, f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{VOLUME.replace('-', '')}")

    def mounted(self) -> str:
        """The mount table."""
        return Path(f"/proc/{self._holder.pid}/mountinfo").read_text()

    async def start_agent(self, module: str = "worker_agent", **environment: str) -> None:
        """Until it serves."""
        log = self.path(self.folder / "agent.log")
        with log.open("ab") as file:
            self.agent = subprocess.Popen(
                [*self.inside, sys.executable, "-m", module],
                env={**self._environment, **environment},
                cwd=ROOT,
                stdout=file,
                stderr=file,
            )
        await until(self.path(self.folder / "run" / "agent.sock").exists, "the agent's socket")

    def agent_log(self) -> str:
        return self.path(self.folder / "agent.log").read_text()

    def kill_agent(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
            self.path(self.folder / "run" / "agent.sock").unlink(missing_ok=True)
            self.agent = None

    def container(self, command: str, cgroup: str, **environment: str) -> Launched:
        """A bundle with an overlay root, as a container engine makes it."""
        name = secrets.token_hex(32)
        bundle = self.folder / "bundles" / name
        self.run("mkdir", "-p", *(bundle / part for part in ("rootfs", "upper", "work")))
        layers = f"lowerdir={self.folder}/mask:/,upperdir={bundle}/upper,workdir={bundle}/work"
        self.run("mount", "-t", "overlay", "-o", layers, "overlay", bundle / "rootfs")
        config = _config(command, f"{cgroup}/{name}", environment)
        self.path(bundle / "config.json").write_text(json.dumps(config))
        return Launched(name, self.path(bundle))

    async def runtime(self, launched: Launched, *words: str, keep_output: bool = False) -> tuple[int, str]:
        """perdure-runtime, as a container engine calls it. Its status and what it said."""
        argv = [*self.inside, str(RUNTIME), "--root", str(self.folder / "runc"), *words]
        bundle = launched.bundle
        out, err = (bundle / "stdout", bundle / "stderr") if keep_output else (bundle / "said", bundle / "said")
        with open(out, "ab") as stdout, open(err, "ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *argv, env=self._environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        status = await asyncio.wait_for(process.wait(), PATIENCE)
        return status, err.read_text()

    async def create(self, launched: Launched) -> bool:
        """`create`; whether the container stands."""
        bundle = self.folder / "bundles" / launched.id
        words = ("create", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), launched.id)
        launched.status, launched.said = await self.runtime(launched, *words, keep_output=True)
        if launched.status == 0:
            launched.pid = int((launched.bundle / "pid").read_text())
        return launched.status == 0

    async def start(self, launched: Launched) -> None:
        status, said = await self.runtime(launched, "start", launched.id)
        assert status == 0, said

    async def delete(self, launched: Launched) -> None:
        status, said = await self.runtime(launched, "delete", launched.id)
        assert status == 0, said

    def close(self) -> None:
        """The end of the node, whatever state it is in."""
        self.kill_agent()
        self.imds.close()
        self._holder.kill()
        self._holder.wait()


def _config(command: str, cgroup: str, environment: dict[str, str]) -> dict[str, Any]:
    fixed = [
        ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ]
    mounts = [dict(zip(("destination", "type", "source", "options"), mount, strict=True)) for mount in fixed]
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", command],
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin", *(f"{name}={value}" for name, value in environment.items())],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {name: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"] for name in sets},
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }


# ------------------------------------------------------------------------------------------------- all of it together


@dataclass
class Bed:
    """One job, one volume, nodes one after the other, and the job's workflow as the test scripts it."""

    temporal: Temporal
    client: Client
    loop: str
    job_id: str
    cgroup: str
    workflow: WorkflowHandle[Any, Any]
    nodes: list[Node] = field(default_factory=list)
    containers: list[tuple[Node, Launched]] = field(default_factory=list)
    epoch: int = 0

    async def new_node(self, **options: Any) -> Node:
        """Booted, its agent running, the job volume attached."""
        node = Node(self.temporal.address, **options)
        self.nodes.append(node)
        node.boot()
        node.attach(self.loop)
        await node.start_agent()
        return node

    def plan(self, verdict: Verdict = Verdict.FRESH, **changes: Any) -> AttachReply:
        """An answer for the next container: the next epoch, small volume settings, no periodic checkpoints, and no
        rehearsals."""
        self.epoch += 1
        settings = CheckpointConfiguration(
            interval_seconds=changes.pop("interval", 0.0),
            diagnosis=changes.pop("diagnosis", False),
            rehearsal=changes.pop("rehearsal", False),
            lazy_restore=changes.pop("lazy_restore", False),
            keep=3,
            reserve_mib=16,
        )
        configuration = EffectiveConfiguration(checkpoint=settings, job_volume=JobVolumeConfiguration(size_gib=1))
        fields = {"epoch": self.epoch, "volume_id": VOLUME, "configuration": configuration, **changes}
        return AttachReply(verdict=verdict, **fields)

    def container(self, node: Node, command: str, attempt: int = 1, **environment: str) -> Launched:
        """A container of the job, not created yet; whatever becomes of it is ended with the test."""
        variables = {"AWS_BATCH_JOB_ID": self.job_id, "AWS_BATCH_JOB_ATTEMPT": str(attempt), **environment}
        launched = node.container(command, self.cgroup, **variables)
        self.containers.append((node, launched))
        return launched

    async def launch(
        self, node: Node, command: str, plan: AttachReply | None, attempt: int = 1, **environment: str
    ) -> Launched:
        """A container of the job, created and started by the runtime."""
        if plan is not None:
            await self.workflow.signal("set_plan", plan)
        launched = self.container(node, command, attempt, **environment)
        assert await node.create(launched), f"{launched.said}\n{node.agent_log()}"
        await node.start(launched)
        return launched

    async def reports(self, kind: ReportKind | None = None) -> list[NodeReport]:
        told: list[NodeReport] = await self.workflow.query("reports", result_type=list[NodeReport])
        return [report for report in told if kind is None or report.kind is kind]

    async def report(self, kind: ReportKind, count: int = 1) -> NodeReport:
        """The `count`-th report of that kind, once it is there."""

        async def told() -> list[NodeReport]:
            return (await self.reports(kind))[count - 1 :]

        limit = REHEARSAL_LIMIT if kind is ReportKind.REHEARSED else PATIENCE
        try:
            return (await waiting.until_async(told, limit))[0]
        except TimeoutError as late:
            raise AssertionError(f"no {kind} report\n{self.nodes[-1].agent_log()}") from late

    async def checkpoint(self, node: Node) -> CheckpointOutcome:
        """As the workflow asks for one."""
        request = CheckpointRequest(job_id=self.job_id, epoch=self.epoch, request_id=secrets.token_hex(8))
        return await self.ask(node, request, None)

    async def tell(self, node: Node, settings: CheckpointSettings) -> None:
        """New settings for the running container, as the workflow brings them."""
        await self.client.execute_workflow(
            Ask.run,
            args=[node.instance_id, None, None, settings],
            id=f"tell-{secrets.token_hex(4)}",
            task_queue=names.CONTROL_QUEUE,
        )

    async def announce(self, node: Node, notice: Notice) -> None:
        """What AWS said by an event, as the node's workflow brings it."""
        await self.client.execute_workflow(
            Ask.run,
            args=[node.instance_id, None, None, None, notice],
            id=f"announce-{secrets.token_hex(4)}",
            task_queue=names.CONTROL_QUEUE,
        )

    async def ask(
        self, node: Node, request: CheckpointRequest | None, final: FinalCheckpointRequest | None
    ) -> CheckpointOutcome:
        return await self.client.execute_workflow(
            Ask.run,
            args=[node.instance_id, request, final],
            id=f"ask-{secrets.token_hex(4)}",
            task_queue=names.CONTROL_QUEUE,
        )

    def job_root(self, node: Node) -> Path:
        return node.path(node.folder / "state/jobs" / self.job_id)

    def hurry(self, node: Node) -> None:
        """Tell a job that looks for it (tests/integration/test_agent.py) to come to its end."""
        (self.job_root(node) / "seen/data/hurry").touch()

    def lose(self, node: Node, launched: Launched) -> None:
        """The node dies at once."""
        node.kill_agent()
        kill_cgroup(f"{self.cgroup}/{launched.id}")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(launched.pid, 0)
        node.close()
        self.nodes.remove(node)


def freezer(cgroup: str) -> Path:
    """The freezer folder of a cgroup path (version 1 here; version 2 has one tree)."""
    old = Path("/sys/fs/cgroup/freezer")
    return (old if old.is_dir() else Path("/sys/fs/cgroup")) / cgroup.strip("/")


def frozen(cgroup: str) -> bool:
    """Does the container stand still?"""
    folder = freezer(cgroup)
    try:
        if (folder / "freezer.state").exists():
            return (folder / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (folder / "cgroup.events").read_text()
    except OSError:
        return False


def kill_cgroup(cgroup: str) -> None:
    """SIGKILL everything in it and thaw, as a power loss does."""
    folder = freezer(cgroup)
    with contextlib.suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (folder / name).exists():
            (folder / name).write_text(word)
    waiting.until(
        lambda: not folder.is_dir() or not (folder / "cgroup.procs").read_text().strip(),
        PATIENCE,
        0.02,
        f"{cgroup} does not become empty",
    )


@contextlib.asynccontextmanager
async def bed() -> AsyncIterator[Bed]:
    """Everything that a test of the agent needs; all of it is removed afterwards, on failure too."""
    assert _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    async with contextlib.AsyncExitStack() as steps:  # run from the last to the first
        disk = Path("/var/tmp") / f"perdure-test-{secrets.token_hex(4)}"
        disk.mkdir()
        steps.callback(delete_tree, disk)
        tool("truncate", "-s", "3000M", disk / "volume.img")
        loop = tool("losetup", "--find", "--show", disk / "volume.img")
        steps.push_async_callback(_detach, loop)
        temporal = await shared_temporal()
        client = await temporal.client()
        worker = Worker(
            client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[ScriptedJob, ScriptedNode, Ask],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        serving = asyncio.create_task(worker.run())
        steps.push_async_callback(_stop, serving)
        job_id = f"job-{secrets.token_hex(4)}"
        handle = await client.start_workflow(
            names.JOB_PROTECTION,
            JobProtectionInput(job_id=job_id),
            id=names.job_workflow_id(job_id),
            task_queue=names.CONTROL_QUEUE,
        )
        cgroup = f"/perdure-test-{secrets.token_hex(4)}"
        made = Bed(temporal, client, loop, job_id, cgroup, handle)
        steps.callback(_close, made)
        yield made


async def _stop(serving: asyncio.Task[None]) -> None:
    """The SDK's worker is left alone where its poll does not come back (tests/temporal_server.py)."""
    serving.cancel()
    await asyncio.wait({serving}, timeout=120)


async def _detach(loop: str) -> None:
    """A namespace that still holds it keeps it busy for a moment."""
    await until(lambda: subprocess.run(["losetup", "--detach", loop], capture_output=True).returncode == 0, "detach")


def _close(made: Bed) -> None:
    for _, launched in made.containers:
        kill_cgroup(f"{made.cgroup}/{launched.id}")
        with contextlib.suppress(ChildProcessError):
            if launched.pid:
                os.waitpid(launched.pid, 0)
    for node in made.nodes:
        node.close()
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        for folder, _, _ in os.walk(hierarchy / made.cgroup.strip("/"), topdown=False):
            os.rmdir(folder)
