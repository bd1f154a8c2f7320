"""What the orchestration costs: real workflows and records, a real Temporal server, simulated agents.

`.venv/bin/python bench/lifecycle.py [--jobs 100,1000,10000] [--seconds 120] [--nodes 100] [--in-memory]`

Three processes: Temporal's dev server as localcloud runs it, a control worker (this file, `control`), and this process,
which plays the agents. AWS answers at once and from memory; the database is SQLite. Everything else is the product's.

Steady: the jobs' workflows begin in the state in which continue-as-new would start them, running and with a volume, so
that an hour of starts need not be waited for. Then agents report committed checkpoints, evenly, at the rate of that
many jobs with that interval, for the measured time: a window of the steady state, not a compressed one. A report's
latency counts from when it is sent until its record is in the database. A backlog shows as latency that rises, and as
tasks that wait when the window ends.

Notice: after the steady part, that many nodes with a job each hear their interruption notices within one second. An
agent begins its final checkpoint in the same instant, by itself (here: ten seconds of waiting); what is measured is how
soon the workflow has joined it on the node, and how soon after its end the hand-over is in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import temporalio
from temporalio import activity
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.__main__ import WORKER, register_search_attributes
from activities.batch import BatchLookups
from activities.instances import InstanceLookups
from activities.reconciling import Reconciler
from activities.records import Records
from perdure.contracts import names
from perdure.contracts.control import (
    AttachVolume,
    BatchActivities,
    BatchJob,
    CreateVolume,
    DetachVolume,
    JobRecord,
    JobRef,
    VolumeActivities,
    VolumeRef,
)
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.contracts.node import CheckpointOutcome, FinalCheckpointRequest, NodeActivities
from perdure.contracts.protection import AttachReply, AttachRequest, NodeReport, ReportKind, Verdict
from perdure.contracts.reconciling import ReconciliationState
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, EffectiveConfiguration, JobVolumeConfiguration
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.retries import HandOver, RetryStrategy
from perdure.domain.volumes import JobVolume, VolumeLife
from perdure.records.schema.database import migrate, open_engine
from workflows.job_protection import JobProtection
from workflows.job_state import JobProgress, JobStart, Stage
from workflows.node_watch import NodeWatch
from workflows.reconciliation import Reconciliation
from workflows.volume_migration import VolumeMigration

DUMP_SECONDS = 10.0
STARTS_AT_ONCE = 50
RETRY = RetryStrategy(attempts=10)


def instant() -> datetime:
    """Now, UTC."""
    return datetime.now(UTC)


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; NaN without values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")


# ------------------------------------------------------------------------------------------------ the control worker


class Cloud(BatchActivities, VolumeActivities):
    """AWS, which answers at once: every job runs, every volume is there."""

    @activity.defn(name="describe_job")
    async def describe_job(self, job: JobRef) -> BatchJob:
        return BatchJob(job_id=job.job_id, name="bench", queue="bench", status="RUNNING", retry=RETRY)

    @activity.defn(name="create_volume")
    async def create_volume(self, request: CreateVolume) -> JobVolume:
        return JobVolume(volume_id=f"vol-{request.job_id}", zone=request.zone, size_gib=request.size_gib)

    @activity.defn(name="attach_volume")
    async def attach_volume(self, request: AttachVolume) -> JobVolume:
        return JobVolume(volume_id=request.volume_id, zone="z", size_gib=1, attached_to=request.instance_id)

    @activity.defn(name="detach_volume")
    async def detach_volume(self, request: DetachVolume) -> JobVolume:
        return JobVolume(volume_id=request.volume_id, zone="z", size_gib=1)

    @activity.defn(name="delete_volume")
    async def delete_volume(self, request: VolumeRef) -> None:
        pass

    # What boto3's clients answer.
    def describe_instances(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        found = [{"InstanceId": one, "State": {"Name": "running"}} for one in Filters[0]["Values"]]
        return {"Reservations": [{"Instances": found}]}

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": [{"jobId": one, "status": "RUNNING"} for one in jobs]}


class TimedRecords(Records):
    """The product's own, and a line for each checkpoint and hand-over that has come into the database."""

    def __init__(self, engine: Any, log: Any) -> None:
        super().__init__(engine)
        self._log = log

    @activity.defn(name="record_job")
    async def record_job(self, record: JobRecord) -> None:
        await super().record_job(record)
        for event in record.events:
            if event.kind in {"checkpoint", "handed over"}:
                newest = record.job.checkpoints[-1].committed_at.timestamp() if record.job.checkpoints else 0.0
                print(json.dumps([event.kind, record.job.job_id, newest, time.time()]), file=self._log, flush=True)


async def control(port: int, folder: Path) -> None:
    """The control worker, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = open_engine(f"sqlite:///{folder}/records.db")
    migrate(engine)
    client = await Client.connect(f"127.0.0.1:{port}", data_converter=pydantic_data_converter)
    await register_search_attributes(client)
    cloud = Cloud()
    with (folder / "recorded.jsonl").open("a") as log:
        records = TimedRecords(engine, log)
        reconciler = Reconciler(engine, client, InstanceLookups(cloud), BatchLookups(cloud))
        worker = Worker(
            client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[JobProtection, VolumeMigration, NodeWatch, Reconciliation],
            activities=[
                *(cloud.describe_job, cloud.create_volume, cloud.attach_volume, cloud.detach_volume),
                *(cloud.delete_volume, records.record_job, records.record_node, records.load_configuration),
                *(records.load_log_settings, reconciler.reconcile_instances, reconciler.reconcile_jobs),
            ],
            **WORKER,
        )
        async with worker:
            (folder / "ready").touch()
            await stop.wait()


# ------------------------------------------------------------------------------------------------------ the bed


class Bed:
    """The server and the control worker, measured from outside."""

    def __init__(self, folder: Path, in_memory: bool) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        program = shutil.which("temporal", path=sysconfig.get_path("scripts")) or "temporal"
        storage = ["--db-filename", str(folder / "temporal.db")]
        storage += ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"]
        with (folder / "temporal.log").open("w") as log:
            server = subprocess.Popen(
                [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port)]
                + ([] if in_memory else storage),
                stdout=log,
                stderr=log,
            )
        self.server = psutil.Process(server.pid)
        self._children = [server]

    async def connect(self) -> Client:
        """A client, once the server and the control worker are there."""
        for _ in range(600):
            with contextlib.suppress(RuntimeError):
                client = await Client.connect(f"127.0.0.1:{self.port}", data_converter=pydantic_data_converter)
                if await client.service_client.check_health():
                    break
            await asyncio.sleep(0.1)
        await register_search_attributes(client)
        with (self.folder / "control.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, __file__, "control", str(self.port), str(self.folder)], stdout=log, stderr=log
            )
        self.worker = psutil.Process(worker.pid)
        self._children.append(worker)
        while not (self.folder / "ready").exists():
            assert worker.poll() is None, (self.folder / "control.log").read_text()[-2000:]
            await asyncio.sleep(0.1)
        return client

    def cpu(self) -> dict[str, float]:
        """CPU seconds spent so far, by process."""
        used = {"server": self.server, "control": self.worker, "agents": psutil.Process()}
        return {name: sum(process.cpu_times()[:2]) for name, process in used.items()}

    async def backlog(self, client: Client) -> int:
        """Tasks that wait in the control queue."""
        waiting = 0
        for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
            answer = await client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=client.namespace,
                    task_queue=TaskQueue(name=names.CONTROL_QUEUE),
                    task_queue_type=kind,
                    report_stats=True,
                )
            )
            waiting += answer.stats.approximate_backlog_count
        return waiting

    def recorded(self) -> list[tuple[str, str, float, float]]:
        """Kind, job, when its newest checkpoint was committed, when that was in the database."""
        lines = (self.folder / "recorded.jsonl").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines if line.endswith("]")]

    def close(self) -> None:
        """End both."""
        for child in reversed(self._children):
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
            child.kill()


# ------------------------------------------------------------------------------------------------- simulated agents


class Agent(NodeActivities):
    """One instance with one job."""

    def __init__(self, client: Client, number: int, interval: float) -> None:
        self.client = client
        self.job_id, self.instance_id = f"bench-{number:06}", f"i-{number:017x}"
        self.interval = interval
        self.taken = 0
        self.noticed_at = self.joined_at = 0.0
        self._handed_over = asyncio.Event()
        self._final: Checkpoint | None = None
        self.handle = client.get_workflow_handle(names.job_workflow_id(self.job_id))

    def carried(self) -> JobStart:
        """The job as it runs, as continue-as-new would carry it."""
        now = instant()
        configuration = EffectiveConfiguration(
            checkpoint=CheckpointConfiguration(interval_seconds=self.interval), job_volume=JobVolumeConfiguration()
        )
        volume = JobVolume(volume_id=f"vol-{self.job_id}", zone="z", size_gib=100, attached_to=self.instance_id)
        attempt = Attempt(
            epoch=1,
            attempt=1,
            instance_id=self.instance_id,
            zone="z",
            container_id=f"c-{self.job_id}",
            accepted_at=now,
            started_at=now,
        )
        life = VolumeLife(volume_id=volume.volume_id, zone="z", volume_type="gp3", size_gib=100, created_at=now)
        job = Job(
            job_id=self.job_id,
            name="bench",
            queue="bench",
            state=JobState.RUNNING,
            created_at=now,
            epoch=1,
            attempts=[attempt],
            volumes=[life],
            volume_id=volume.volume_id,
            volume_zone="z",
            interval_seconds=self.interval,
            retry=RETRY,
        )
        request = AttachRequest(
            job_id=self.job_id,
            container_id=attempt.container_id,
            attempt=1,
            instance_id=self.instance_id,
            zone="z",
            asked_at=now,
        )
        reply = AttachReply(verdict=Verdict.FRESH, epoch=1, volume_id=volume.volume_id, configuration=configuration)
        progress = JobProgress(
            job=job,
            stage=Stage.RUNNING,
            request=request,
            reply=reply,
            configuration=configuration,
            retry=RETRY,
            volume=volume,
        )
        return JobStart(job_id=self.job_id, carried=progress)

    async def start(self) -> None:
        """The job's workflow, and its node's."""
        await self.client.start_workflow(
            names.JOB_PROTECTION, self.carried(), id=self.handle.id, task_queue=names.CONTROL_QUEUE
        )
        await self.tell_node(NodeState.READY, None)

    async def tell_node(self, state: NodeState, notice: Notice | None) -> None:
        """As an agent speaks of its instance."""
        node = Node(instance_id=self.instance_id, zone="z", state=state, changed_at=instant(), notice=notice)
        await self.client.start_workflow(
            names.NODE_WATCH,
            NodeWatchInput(instance_id=self.instance_id),
            id=names.node_workflow_id(self.instance_id),
            task_queue=names.CONTROL_QUEUE,
            start_signal="node_changed",
            start_signal_args=[NodeChanged(node=node, at=instant())],
        )

    async def report(self, kind: ReportKind, **fields: Any) -> None:
        """A fact, as the spool sends it."""
        key = f"{self.job_id}-{kind}-{self.taken}"
        told = NodeReport(
            report_id=key,
            job_id=self.job_id,
            epoch=1,
            kind=kind,
            at=instant(),
            instance_id=self.instance_id,
            **fields,
        )
        await self.handle.signal("report", told)

    async def commit(self, kind: CheckpointKind) -> Checkpoint:
        """A checkpoint has just been committed."""
        self.taken += 1
        now = instant()
        checkpoint = Checkpoint(
            number=self.taken,
            kind=kind,
            epoch=1,
            frozen_at=now,
            committed_at=now,
            image_bytes=1 << 30,
            phases={"pause": 0.01, "dump": 0.8, "frozen": 0.9},
        )
        await self.report(ReportKind.CHECKPOINT, checkpoint=checkpoint, max_rootfs_bytes=1 << 20)
        return checkpoint

    async def interrupt(self) -> None:
        """A notice comes: the final checkpoint begins in this instant, Temporal is told beside it."""
        self.noticed_at = time.time()
        now = instant()
        notice = Notice(
            notice_id=f"n-{self.instance_id}",
            kind=NoticeKind.INTERRUPTION,
            instance_id=self.instance_id,
            seen_at=now,
            deadline=now + timedelta(seconds=120),
        )
        await asyncio.gather(
            self.handle.signal("notice", notice), self.tell_node(NodeState.NOTICED, notice), self._save_and_hand_over()
        )

    async def _save_and_hand_over(self) -> None:
        await asyncio.sleep(DUMP_SECONDS)
        self._final = await self.commit(CheckpointKind.FINAL)
        await self.report(ReportKind.HANDED_OVER, hand_over=HandOver.END_CONTAINER, checkpoint=self._final)
        self._handed_over.set()

    @activity.defn(name="final_checkpoint")
    async def final_checkpoint(self, request: FinalCheckpointRequest) -> CheckpointOutcome:
        self.joined_at = self.joined_at or time.time()
        while not self._handed_over.is_set():
            activity.heartbeat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._handed_over.wait(), 1)
        return CheckpointOutcome(checkpoint=self._final, handed_over=HandOver.END_CONTAINER)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Its task queue, as the agent serves it."""
        worker = Worker(
            self.client,
            task_queue=names.node_queue(self.instance_id),
            activities=[self.final_checkpoint],
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        )
        async with worker:
            yield


async def start_all(agents: list[Agent]) -> None:
    """Some at once."""
    limit = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(agent: Agent) -> None:
        async with limit:
            await agent.start()

    await asyncio.gather(*map(start, agents))


async def quiet(bed: Bed, client: Client) -> None:
    """Wait until nothing is in the queue any more, and nobody works."""
    calm = 0
    while calm < 3:
        before = bed.cpu()
        await asyncio.sleep(2)
        after = bed.cpu()
        busy = after["control"] - before["control"] > 0.3
        calm = 0 if busy or await bed.backlog(client) else calm + 1


async def steady(bed: Bed, client: Client, agents: list[Agent], seconds: float, interval: float) -> dict[str, float]:
    """Checkpoints at the rate of all agents together, for so long."""
    rate = len(agents) / interval
    count = max(20, round(rate * seconds))
    window = count / rate
    known, cpu, begun = len(bed.recorded()), bed.cpu(), time.time()
    sending: list[asyncio.Task[Any]] = []
    for number, agent in zip(range(count), itertools.cycle(agents), strict=False):
        await asyncio.sleep(max(0.0, begun + number / rate - time.time()))
        sending.append(asyncio.create_task(agent.commit(CheckpointKind.PERIODIC)))
        if time.time() - begun > 1.5 * window:
            break
    await asyncio.gather(*sending)
    took, used, backlog = time.time() - begun, bed.cpu(), await bed.backlog(client)
    await asyncio.sleep(3)
    latencies = [recorded - sent for kind, _, sent, recorded in bed.recorded()[known:] if kind == "checkpoint"]
    half = len(latencies) // 2
    return {
        "rate": len(sending) / took,
        "took": took,
        "sent": len(sending),
        "recorded": len(latencies),
        "control": (used["control"] - cpu["control"]) / took,
        "server": (used["server"] - cpu["server"]) / took,
        "agents": (used["agents"] - cpu["agents"]) / took,
        "each_ms": 1000 * (used["control"] - cpu["control"]) / max(1, len(sending)),
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "early": percentile(latencies[:half], 0.5),
        "late": percentile(latencies[half:], 0.5),
        "backlog": backlog,
    }


async def reclaim(bed: Bed, agents: list[Agent]) -> dict[str, float]:
    """All their nodes are noticed within one second."""
    known, cpu = len(bed.recorded()), bed.cpu()
    async with contextlib.AsyncExitStack() as stack:
        for agent in agents:
            await stack.enter_async_context(agent.serving())
        await asyncio.sleep(2)
        begun = time.time()
        noticed = []
        for number, agent in enumerate(agents):
            await asyncio.sleep(max(0.0, begun + number / len(agents) - time.time()))
            noticed.append(asyncio.create_task(agent.interrupt()))
        spread = time.time() - begun
        await asyncio.gather(*noticed)
        recorded: dict[str, float] = {}
        ours = {agent.job_id: agent for agent in agents}
        while len(recorded) < len(agents) and time.time() - begun < 120:
            for kind, job_id, _, at in bed.recorded()[known:]:
                if kind == "handed over" and job_id in ours:
                    recorded.setdefault(job_id, at - ours[job_id].noticed_at - DUMP_SECONDS)
            await asyncio.sleep(0.2)
        joined = [agent.joined_at - agent.noticed_at for agent in agents if agent.joined_at]
    used = bed.cpu()
    return {
        "nodes": len(agents),
        "spread": spread,
        "joined": len(joined),
        "joined_p50": percentile(joined, 0.5),
        "joined_max": max(joined, default=float("nan")),
        "recorded": len(recorded),
        "recorded_p50": percentile(list(recorded.values()), 0.5),
        "recorded_max": max(recorded.values(), default=float("nan")),
        "control_cpu": used["control"] - cpu["control"],
        "server_cpu": used["server"] - cpu["server"],
    }


async def measure(options: argparse.Namespace, jobs: int) -> tuple[dict[str, float], dict[str, float]]:
    """One size, on a bed of its own."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
    bed = Bed(folder, options.in_memory)
    try:
        client = await bed.connect()
        empty = bed.worker.memory_info().rss
        await client.start_workflow(
            names.RECONCILIATION, ReconciliationState(), id=names.RECONCILIATION_ID, task_queue=names.CONTROL_QUEUE
        )
        agents = [Agent(client, number, options.interval) for number in range(jobs)]
        begun = time.time()
        await start_all(agents)
        await quiet(bed, client)
        started = time.time() - begun
        say(f"{jobs} jobs run after {started:.0f} s")
        found = await steady(bed, client, agents, options.seconds, options.interval)
        found["started"] = started
        found["rss_mb"] = bed.worker.memory_info().rss / 1e6
        found["kb_per_job"] = (bed.worker.memory_info().rss - empty) / 1e3 / jobs
        found["server_mb"] = bed.server.memory_info().rss / 1e6
        found["load"] = os.getloadavg()[0]
        noticed = await reclaim(bed, agents[: options.nodes]) if options.nodes else {}
        return found, noticed
    finally:
        bed.close()
        shutil.rmtree(folder, ignore_errors=True)


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def machine(options: argparse.Namespace) -> str:
    """Where and with what this was measured."""
    program = shutil.which("temporal", path=sysconfig.get_path("scripts")) or "temporal"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    storage = "in memory" if options.in_memory else "SQLite file, WAL, synchronous=NORMAL"
    return (
        f"{instant():%Y-%m-%d}, {os.cpu_count()} CPUs, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, temporalio {temporalio.__version__}, "
        f"{version}; Temporal's storage: {storage}; load when begun {os.getloadavg()[0]:.1f}"
    )


async def main(options: argparse.Namespace) -> None:
    """All sizes; the tables as Markdown."""
    print(machine(options) + "\n", flush=True)
    rows, notices = [], []
    for jobs in options.jobs:
        found, noticed = await measure(options, jobs)
        rows.append(
            f"| {jobs:,} | {found['sent']} in {found['took']:.0f} s ({found['rate']:.2f}/s) | {found['recorded']} "
            f"| {100 * found['control']:.1f} % | {found['each_ms']:.1f} ms | {100 * found['server']:.0f} % "
            f"| {1000 * found['p50']:.0f} / {1000 * found['p99']:.0f} ms "
            f"| {1000 * found['early']:.0f} → {1000 * found['late']:.0f} ms | {found['backlog']} "
            f"| {found['kb_per_job']:.0f} KB | {found['rss_mb']:.0f} / {found['server_mb']:.0f} MB "
            f"| {found['load']:.1f} |"
        )
        if noticed:
            notices.append(
                f"| {jobs:,} | {noticed['nodes']} in {noticed['spread']:.2f} s "
                f"| {noticed['joined']}: {noticed['joined_p50']:.2f} / {noticed['joined_max']:.2f} s "
                f"| {noticed['recorded']}: {noticed['recorded_p50']:.2f} / {noticed['recorded_max']:.2f} s "
                f"| {noticed['control_cpu']:.1f} / {noticed['server_cpu']:.1f} s |"
            )
        say(rows[-1])
        say(notices[-1] if noticed else "")
    print("| jobs | reports sent | recorded | control worker, of a core | a cycle | server, of a core |", end="")
    print(" recorded after p50 / p99 | first → second half | backlog | memory a job | worker / server | load |")
    print("| --- " * 12 + "|")
    print("\n".join(rows))
    if notices:
        print("\n| beside | nodes noticed | joined p50 / last | recorded p50 / last | CPU control / server |")
        print("| --- " * 5 + "|")
        print("\n".join(notices))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--jobs", default="100,1000,10000", help="sizes, one after another")
    parser.add_argument("--seconds", type=float, default=120, help="of each measured window")
    parser.add_argument("--interval", type=float, default=900, help="seconds between two checkpoints of a job")
    parser.add_argument("--nodes", type=int, default=100, help="noticed at once after the steady part; 0: none")
    parser.add_argument("--in-memory", action="store_true", help="Temporal without a file")
    found = parser.parse_args()
    found.jobs = [int(one) for one in found.jobs.split(",")]
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["control"]:
        asyncio.run(control(int(sys.argv[2]), Path(sys.argv[3])))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started is ended too
        asyncio.run(main(arguments()))
