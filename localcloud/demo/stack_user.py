"""Someone who uses the demo's stack: `perdure local …`, boto3 and the API, nothing that other users lack."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from localcloud.demo.jobs import (
    ENVIRONMENT,
    IMAGE,
    IMAGE_PACKAGES,
    IN_A_JOB,
    INTERVAL,
    MEMORY_MIB,
    VCPUS,
    DemoJob,
)
from localcloud.demo.references import Evidence, tokens
from localcloud.demo.verdict import CommittedCheckpoint, OutageFact
from localcloud.nodes.images.catalogue import MACHINE
from localcloud.nodes.inside.configuration import EngineName
from localcloud.stack.client import StackClient
from localcloud.stack.job_files import copy_output
from localcloud.stack.job_request import retry_strategy
from localcloud.stack.stack import StackPlace
from perdure.domain.errors import PerdureError, StackError

PROGRESS = re.compile(rb"^\[[0-9a-f]{16}\] progress (\d+)/(\d+)", re.MULTILINE)
RECLAIM_LIMIT_SECONDS = 420.0
COMMAND_LIMIT_SECONDS = 180.0
BUILD_LIMIT_SECONDS = 1800.0
BUCKET, SCRATCH_GIB = "perdure-demo", 4
"""Of a demo without volumes: where checkpoints are kept, and how much of its node's disk a job may take."""
INTERRUPT_SECONDS = 30.0


class Stopped(StackError):
    """The demo is being ended; what was asked for is not done any more."""


@dataclass(frozen=True)
class Look:
    """A job at one moment. `running`: its newest container runs under Perdure's protection and has said so."""

    batch_status: str = "SUBMITTED"
    state: str = ""
    running: bool = False
    epoch: int = 0
    zone: str | None = None
    node: str | None = None
    protections: int = 0
    committed: int = 0
    offered: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, number) of the checkpoints that can be restored."""
    progress: float = 0.0
    tokens: frozenset[str] = frozenset()

    @property
    def finished(self) -> bool:
        """Batch will not run it again."""
        return self.batch_status in {"SUCCEEDED", "FAILED"}


class StackUser:
    """Drives one stack. Every call raises StackError with a sentence, or Stopped once `stop` is set.

    Under the engine docker its jobs run in the demo's image, else over the machine's own root.
    """

    def __init__(self, place: StackPlace, stop: threading.Event, engine: EngineName = "runc") -> None:
        self._place = place
        self._engine = engine
        self._stop = stop
        self._client: StackClient | None = None

    @property
    def client(self) -> StackClient:
        """The running stack; one per thread is not needed, httpx and boto3 clients are thread-safe."""
        if self._client is None:
            self._client = StackClient.of(self._place)
        return self._client

    @property
    def folder(self) -> Path:
        """The demo's own folder, deleted with the stack."""
        return self._place.folder / "demo"

    def up(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Start the stack, and make the image if the jobs need one; what `status --json` says of the stack then."""
        if self._engine == "docker":
            build = ("local", "image", "build", IMAGE, *IMAGE_PACKAGES)
            self._perdure(*build, tell=tell, limit=BUILD_LIMIT_SECONDS)
        # Its last lines are the addresses, which the caller shows better.
        up = ("local", "up", "--detach", "--engine", self._engine)
        self._perdure(*up, tell=lambda line: tell(line) if line.startswith("✓") else None)
        status: dict[str, Any] = json.loads(self._perdure("local", "status", "--json"))
        return status

    def use_store(self, store: str) -> None:
        """From now on jobs have no volume, and their checkpoints are kept in `s3`, or in that directory. What the ended
        jobs leave stays on their nodes, for the comparison."""
        if store == "s3":
            self.client.s3.create_bucket(Bucket=BUCKET)
            section = {"kind": "s3", "bucket": BUCKET, "scratch_gib": SCRATCH_GIB}
        else:
            folder = Path(store).resolve()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            section = {"kind": "directory", "directory": str(folder), "scratch_gib": SCRATCH_GIB}
        body = {"job_volume": {"enabled": False}, "checkpoint": {"diagnosis": True}, "store": section}
        self.client.asked("PATCH", "/api/v1/configuration", json=body)

    def close(self) -> None:
        """Let go of all connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def down(self) -> None:
        """Stop the stack, whatever state it is in; not to be stopped itself."""
        self.close()
        self._stop = threading.Event()
        self._perdure("local", "down")

    def submit(self, job: DemoJob, inputs: Path, interval: str = INTERVAL) -> str:
        """Register a definition and submit the job, by boto3; its id."""
        environment = ENVIRONMENT | {"PERDURE_CHECKPOINT_INTERVAL": interval}
        batch = self.client.batch
        definition = batch.register_job_definition(
            jobDefinitionName=f"demo-{job.name}",
            type="container",
            containerProperties={
                "image": IMAGE if self._engine == "docker" else MACHINE,
                "command": job.command(IN_A_JOB),
                "resourceRequirements": [
                    {"type": "VCPU", "value": str(VCPUS)},
                    {"type": "MEMORY", "value": str(MEMORY_MIB)},
                ],
                "environment": [{"name": name, "value": value} for name, value in environment.items()],
                "volumes": [{"name": "inputs", "host": {"sourcePath": str(inputs)}}],
                "mountPoints": [{"sourceVolume": "inputs", "containerPath": str(IN_A_JOB.inputs), "readOnly": True}],
            },
            retryStrategy=retry_strategy(attempts=10),
        )
        submitted = batch.submit_job(
            jobName=job.name, jobQueue=self.client.state.queues[0], jobDefinition=definition["jobDefinitionArn"]
        )
        return submitted["jobId"]

    def look(self, job_id: str) -> Look:
        """The job now. What cannot be read while it moves is left at its default."""
        placed = self.client.placed(job_id)
        page = self.client.job_page(job_id) or {}
        attempts = page.get("attempts", [])
        newest = attempts[-1] if attempts else None
        running = bool(
            placed["status"] == "RUNNING"
            and newest
            and newest["started_at"]
            and not newest["ended_at"]
            and newest["instance_id"] == placed["node"]
        )
        said = self._said(job_id) if running else b""
        return Look(
            batch_status=placed["status"],
            state=page.get("state", ""),
            running=running,
            epoch=page.get("epoch", 0),
            zone=placed.get("zone"),
            node=placed.get("node"),
            protections=page.get("protections", 0),
            committed=page.get("checkpoints_committed", 0),
            offered=[(each["epoch"], each["number"]) for each in page.get("checkpoints", [])],
            progress=progress(said),
            tokens=tokens(said),
        )

    def reclaim(self, job_id: str, to_zone: str | None, notice: bool, tell: Callable[[str], None]) -> None:
        """`perdure local reclaim`; returns when the node is gone."""
        options = ["--to-zone", to_zone] if to_zone else []
        options += [] if notice else ["--no-notice"]
        self._perdure("local", "reclaim", "--job", job_id, *options, tell=tell, limit=RECLAIM_LIMIT_SECONDS)

    def checkpoint(self, job_id: str) -> int:
        """`perdure local checkpoint`: the number of a checkpoint taken now."""
        return int(self._perdure("local", "checkpoint", "--job", job_id))

    def logs(self, job_id: str) -> tuple[bytes, bytes]:
        """`perdure local logs`: stdout and stderr as the job's owner reads them."""
        done = self._run(["local", "logs", job_id], COMMAND_LIMIT_SECONDS)
        return done.stdout, done.stderr

    def evidence(self, job: DemoJob, job_id: str, folder: Path) -> Evidence:
        """What the finished job left behind, fetched by `perdure local logs` and `cp` into `folder`.

        A file that cannot be fetched is missing there, which no reference equals.
        """
        folder.mkdir(parents=True)
        files = []
        for path in job.outputs(IN_A_JOB):
            target = folder / path.name
            self._run(["local", "cp", f"{job_id}:{path}", str(target)], COMMAND_LIMIT_SECONDS, check=False)
            files.append(target)
        stdout, stderr = self.logs(job_id)
        return Evidence(stdout, stderr, files)

    def summary(self, job_id: str) -> dict[str, Any]:
        """`perdure local wait --json` of a finished job."""
        done = self._run(["local", "wait", job_id, "--json", "--timeout", "60"], COMMAND_LIMIT_SECONDS, check=False)
        summary: dict[str, Any] = json.loads(done.stdout or b"{}")
        return summary

    def outages(self, job_id: str) -> list[OutageFact]:
        """As the API tells them."""
        page = self.client.job_page(job_id) or {}
        names = OutageFact.__dataclass_fields__
        return [OutageFact(**{name: outage[name] for name in names}) for outage in page.get("outages", [])]

    def checkpoints(self, job_id: str) -> list[CommittedCheckpoint]:
        """All that were ever committed, as the API tells them."""
        answer = self.client.api("GET", f"/api/v1/jobs/{job_id}/checkpoints")
        if answer.status_code == 404:
            return []
        return [
            CommittedCheckpoint(
                each["epoch"], each["number"], each["kind"], datetime.fromisoformat(each["committed_at"])
            )
            for each in answer.raise_for_status().json()
        ]

    def _said(self, job_id: str) -> bytes:
        """The job's stdout so far; nothing when the node goes away while it is read."""
        out = BytesIO()
        try:
            copy_output(self.client, self._place, job_id, out, BytesIO())
        except (OSError, PerdureError):
            return b""
        return out.getvalue()

    def _perdure(
        self, *arguments: str, tell: Callable[[str], None] | None = None, limit: float = COMMAND_LIMIT_SECONDS
    ) -> str:
        return self._run(list(arguments), limit, tell=tell).stdout.decode()

    def _run(
        self, arguments: list[str], limit: float, tell: Callable[[str], None] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """One `perdure` command, ended by SIGINT when the demo stops or after `limit` seconds."""
        process = subprocess.Popen(
            [sys.executable, "-c", "from perdure.cli.main import main; main()", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PERDURE_STACK": self._place.name, "PERDURE_LOCAL_DIR": str(self._place.base)},
            start_new_session=True,
        )
        out, err = _Reader(process.stdout, None), _Reader(process.stderr, tell)
        deadline = time.monotonic() + limit
        try:
            while process.poll() is None and not self._stop.is_set() and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            ended = process.poll() is not None
        finally:
            _interrupt(process)
        if not ended and self._stop.is_set():
            raise Stopped("the demo was stopped")
        if not ended:
            raise StackError(f"`perdure {' '.join(arguments[:3])}` did not end within {limit:g} s")
        stdout, stderr = out.all(), err.all()
        if check and process.returncode != 0:
            last = stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise StackError(last[0].removeprefix("perdure: "))
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Make sure that it ends, tidily if it can: Ctrl-C here does not reach it, it has a session of its own."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Reader:
    """Collects a pipe in a thread of its own; each whole line also goes to `tell`."""

    def __init__(self, pipe: Any, tell: Callable[[str], None] | None) -> None:
        self._lines: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=(pipe, tell), daemon=True)
        self._thread.start()

    def _read(self, pipe: Any, tell: Callable[[str], None] | None) -> None:
        with pipe:
            for line in pipe:
                self._lines.append(line)
                if tell and line.strip():
                    tell(line.decode(errors="replace").strip())

    def all(self) -> bytes:
        """Everything, once the pipe is closed."""
        self._thread.join()
        return b"".join(self._lines)


def progress(stdout: bytes) -> float:
    """The share of its work that the job last said to have done."""
    said = PROGRESS.findall(stdout)
    return min(1.0, int(said[-1][0]) / max(1, int(said[-1][1]))) if said else 0.0
