"""A cloud in this process, with nodes whose part the test plays: it reads what the cloud asks and says what happens."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from localcloud.aws.account import Clients
from localcloud.aws.cloud import Cloud
from localcloud.aws.cloud_config import CloudConfig, Timing
from localcloud.node_link import (
    Exited,
    Link,
    NodeCommand,
    NodeHandle,
    NodeSpec,
    Output,
    Ready,
    RunTask,
    Started,
    StartFailed,
    Task,
)
from perdure import waiting
from tests.patience import PATIENCE

ZONES = ["us-east-1a", "us-east-1b"]
QUICK = Timing(
    volume_create=0.05,
    attach=0.05,
    detach=0.05,
    snapshot=0.05,
    device_poll=0.02,
    dead_host_release=0.05,
    late_host_notice=0.05,
    terminate=0.02,
    shortest_notice=0.05,
    launch_retry=0.05,
    shortest_attempt=1,
)


Found = TypeVar("Found")


def wait_for(what: Callable[[], Found | None]) -> Found:
    """Look until it is true; what it was then."""
    found = waiting.until(what, PATIENCE, 0.03)
    assert found is not None
    return found


class PlayedNode:
    """The node's end of a link."""

    def __init__(self, spec: NodeSpec, init_pid: int) -> None:
        self.spec = spec
        self.alive = True
        mine, theirs = socket.socketpair()
        self.link = Link(mine)
        self.handle = NodeHandle(spec.instance_id, init_pid, Link(theirs), "10.77.0.2")
        self._asked: queue.Queue[NodeCommand | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def asked(self) -> NodeCommand:
        """The next thing that the cloud asks. A dead node hears nothing more."""
        command = self._asked.get(timeout=PATIENCE)
        assert command is not None, f"{self.spec.instance_id} is dead"
        return command

    def dies(self) -> None:
        """By itself. The cloud finds out in its own time, and calls the node ready until then."""
        self.alive = False
        self.link.close()

    def task(self) -> Task:
        """The next thing asked, which must be a task to run."""
        command = self.asked()
        assert isinstance(command, RunTask), command
        return command.task

    def started(self, task: Task) -> None:
        self.link.send(Started(container_id=task.container_id))

    def exited(self, task: Task, exit_code: int, reason: str | None = None) -> None:
        self.link.send(Exited(container_id=task.container_id, exit_code=exit_code, reason=reason))

    def start_failed(self, task: Task, reason: str) -> None:
        self.link.send(StartFailed(container_id=task.container_id, reason=reason))

    def wrote(self, task: Task, data: bytes) -> None:
        self.link.send(Output(container_id=task.container_id, data=data))

    def _read(self) -> None:
        try:
            for command in self.link.commands():
                self._asked.put(command)
        finally:
            self._asked.put(None)


class PlayedLauncher:
    """Launches played nodes, ready at once unless `slow` says otherwise."""

    def __init__(self) -> None:
        self.nodes: dict[str, PlayedNode] = {}
        self.slow = False
        self.failures = 0

    def launch(self, spec: NodeSpec) -> NodeHandle:
        if self.failures:
            self.failures -= 1
            raise OSError("no node today")
        node = self.nodes[spec.instance_id] = PlayedNode(spec, self.start_init(spec))
        if not self.slow:
            node.link.send(Ready())
        return node.handle

    def start_init(self, spec: NodeSpec) -> int:
        """A pid that no process can have: nothing is behind a played node."""
        return 2**22 + 1

    def power_loss(self, node: NodeHandle, cut_disks: Callable[[], None] = lambda: None) -> None:
        cut_disks()
        self.nodes[node.instance_id].dies()

    def sweep(self, node: NodeHandle) -> None:
        assert not self.nodes[node.instance_id].alive


class CloudBed:
    """What a test has at hand."""

    def __init__(self, cloud: Cloud, launcher: PlayedLauncher, region: str) -> None:
        self.cloud, self.launcher = cloud, launcher
        self.aws = Clients(cloud.endpoint_url, region)
        self.http = httpx.Client(base_url=cloud.endpoint_url, timeout=PATIENCE)

    def refresh(self) -> None:
        """End all jobs and nodes and launch a node in each zone: a cloud is dear to start, so tests share one."""
        self.launcher.failures = 0
        for job in self.cloud.engine.jobs():
            self.cloud.engine.terminate(job.job_id, "the test is over")
        for node in self.cloud.fleet.nodes():
            self.cloud.fleet.end(node.instance_id)
        wait_for(lambda: all(job.stopped_at is not None for job in self.cloud.engine.jobs()))
        wait_for(lambda: all(node.ended for node in self.cloud.fleet.nodes()))
        zones = self.status()["zones"]
        self.http.post("/_local/capacity", json={"zones": zones}).raise_for_status()
        for zone in zones:
            self.http.post("/_local/nodes", json={"zone": zone}).raise_for_status()
            self.node_in(zone)

    def node_in(self, zone: str) -> PlayedNode:
        """The newest living node of a zone, once it is ready."""

        def ready() -> PlayedNode | None:
            states = {node["id"]: node["state"] for node in self.status()["nodes"]}
            found = [node for node in list(self.launcher.nodes.values()) if node.spec.zone == zone and node.alive]
            return next((node for node in reversed(found) if states.get(node.spec.instance_id) == "ready"), None)

        return wait_for(ready)

    def node_of(self, job_id: str, but: PlayedNode | None = None) -> PlayedNode:
        """Where a job is placed, once it is. `but`: a node that died; the job may be called its own for a while."""

        def placed() -> PlayedNode | None:
            at = self.http.get(f"/_local/jobs/{job_id}").json()["node"]
            node = self.launcher.nodes[at] if at else None
            return None if node is but else node

        return wait_for(placed)

    def run_instance(self, zone: str) -> str:
        """A running instance that is no node; its id."""
        subnets = self.aws.ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
        image = "ami-12c6146b"
        run = self.aws.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnets[0]["SubnetId"])
        return run["Instances"][0]["InstanceId"]

    def living(self, vcpus: float) -> PlayedNode | None:
        """A living node of that size, when there is one."""
        nodes = list(self.launcher.nodes.values())
        return next((node for node in nodes if node.alive and node.spec.vcpus == vcpus), None)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/_local/status").json()
        return answer

    def submit(self, **request: Any) -> str:
        """SubmitJob with defaults; the job's id."""
        asked = {"jobName": "try", "jobQueue": "default", "jobDefinition": "perdure-local", **request}
        return self.aws.batch.submit_job(**asked)["jobId"]

    def job(self, job_id: str) -> dict[str, Any]:
        """As DescribeJobs shows it."""
        return dict(self.aws.batch.describe_jobs(jobs=[job_id])["jobs"][0])

    def wait_status(self, job_id: str, status: str) -> dict[str, Any]:
        """The job, once it has that status."""

        def there() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] == status else None

        return wait_for(there)


@contextmanager
def cloud_bed(folder: Path, launcher: PlayedLauncher | None = None, **settings: Any) -> Iterator[CloudBed]:
    """A cloud on loopback; `settings` as in CloudConfig."""
    given = {"stack": "test", "folder": folder, "zones": ZONES, "timing": QUICK, **settings}
    config = CloudConfig.model_validate(given)
    launcher = launcher or PlayedLauncher()
    cloud = Cloud(config, launcher)
    try:
        cloud.start()
        bed = CloudBed(cloud, launcher, config.region)
        with bed.http, contextlib.closing(bed.aws):
            yield bed
    finally:
        cloud.close()


def running_job(bed: CloudBed, **request: Any) -> tuple[str, PlayedNode]:
    """A job that runs, and its node."""
    job_id = bed.submit(retryStrategy={"attempts": 5}, **request)
    node = bed.node_of(job_id)
    node.started(node.task())
    bed.wait_status(job_id, "RUNNING")
    return job_id, node


def reclaim(bed: CloudBed, **request: Any) -> dict[str, Any]:
    """Take a node away; the reclaim as the cloud tells it."""
    answer = bed.http.post("/_local/reclaim", json=request)
    assert answer.status_code in {200, 202}, answer.text
    found: dict[str, Any] = answer.json()
    return found
