"""Temporal's server and the control worker, each a process, measured from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.__main__ import register_search_attributes
from perdure.contracts import names
from perdure.settings import ControlSettings

CACHED: int = ControlSettings.model_fields["cached_workflows"].default


class Bed:
    """The server and the control worker, measured from outside."""

    def __init__(self, folder: Path, in_memory: bool, cached_workflows: int = CACHED) -> None:
        self.folder, self.cached_workflows = folder, cached_workflows
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
        command = [sys.executable, "-m", "bench.lifecycle.control"]
        command += [str(self.port), str(self.folder), str(self.cached_workflows)]
        with (self.folder / "control.log").open("w") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=log)
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


@contextlib.asynccontextmanager
async def made(in_memory: bool, cached_workflows: int = CACHED) -> AsyncIterator[tuple[Bed, Client]]:
    """A bed with both processes up, and nothing of it left behind."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
    bed = Bed(folder, in_memory, cached_workflows)
    try:
        yield bed, await bed.connect()
    finally:
        bed.close()
        shutil.rmtree(folder, ignore_errors=True)


async def quiet(bed: Bed, client: Client) -> None:
    """Wait until nothing is in the queue any more, and nobody works."""
    calm = 0
    while calm < 3:
        before = bed.cpu()
        await asyncio.sleep(2)
        after = bed.cpu()
        busy = after["control"] - before["control"] > 0.3
        calm = 0 if busy or await bed.backlog(client) else calm + 1
