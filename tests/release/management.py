"""The other side of an installed instance: Temporal, the control worker's workflows, and the metadata service.

A real development server of Temporal and the real workflows; Batch, EBS and the records are tests/fakes.py. The one
job volume is always `vol-1`: whoever uses this shows it to the agent as udev would.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from temporalio import activity
from temporalio.worker import Worker

from activities.__main__ import register_search_attributes
from perdure.contracts import names
from perdure.contracts.logs import KeepLogs, LogKeepingActivities
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from tests.fakes import RETRY_ALL, FakeCloud
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working
from workflows.job_protection import JobProtection
from workflows.log_keeping import LogKeeping
from workflows.node_watch import NodeWatch
from workflows.volume_migration import VolumeMigration

VOLUME = "vol-1"
_TOKEN = "token-of-the-metadata-service"


@dataclass
class MetadataService:
    """One instance's metadata service (version 2), on loopback."""

    instance_id: str = "i-0000000000000001"
    noticed: bool = False
    notice_seconds: float = PATIENCE
    asked: dict[str, Callable[[], str]] = field(default_factory=dict)
    """What a machine that cannot be reached from here asks for, below /_test/."""
    _end: datetime | None = None
    """What the notice says, from the first look on."""
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        answers, service = self._answer, self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say(_TOKEN)

            def do_POST(self) -> None:
                """What such a machine tells whoever runs the test."""
                print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
                self._say("")

            def do_GET(self) -> None:
                text = answers(self.path)
                if self.path.startswith("/_test/"):
                    self._say(service.asked[self.path.removeprefix("/_test/")]())
                elif self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
                    self.send_error(401)
                elif text is None:
                    self.send_error(404)
                else:
                    self._say(text)

            def _say(self, text: str) -> None:
                self.send_response(200)
                self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, path: str) -> str | None:
        if path == "/latest/dynamic/instance-identity/document":
            about = {"instanceId": self.instance_id, "availabilityZone": "eu-central-1a", "instanceType": "m6i.large"}
            return json.dumps(about | {"region": "eu-central-1", "architecture": "x86_64"})
        if path == "/latest/meta-data/spot/instance-action" and self.noticed:
            self._end = self._end or datetime.now(UTC) + timedelta(seconds=self.notice_seconds)
            return json.dumps({"action": "terminate", "time": self._end.strftime("%Y-%m-%dT%H:%M:%SZ")})
        return None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class KeptLogs(LogKeepingActivities):
    """Logs that an instance sends before it goes; nobody reads them here."""

    @activity.defn(name="keep_logs")
    async def keep_logs(self, bundle: KeepLogs) -> None:
        pass


@dataclass
class Management:
    """What an instance needs around it."""

    temporal: str
    """HOST:PORT on loopback."""
    metadata: MetadataService
    cloud: FakeCloud

    def reclaimed(self, job_id: str, new_instance: str) -> None:
        """Batch has put the job back, and its next container lands on another instance."""
        self.cloud.attempt_over(job_id, "RUNNABLE", datetime.now(UTC), exit_code=137)
        self.metadata.instance_id, self.metadata.noticed = new_instance, False
        self.metadata._end = None

    def ended(self, job_id: str) -> None:
        self.cloud.attempt_over(job_id, "SUCCEEDED", datetime.now(UTC), exit_code=0)

    def happened(self, job_id: str) -> list[str]:
        """The job's timeline, a line each."""
        return [f"{event.kind}: {event.message}" for event in self.cloud.timeline(job_id)]


@asynccontextmanager
async def management(job_id: str) -> AsyncIterator[Management]:
    """Serves until the end of the block. `job_id` is a Batch job whose rules retry reclaims."""
    cloud, metadata = FakeCloud(), MetadataService()
    cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=3600))
    cloud.job(job_id, retry=RETRY_ALL)
    try:
        async with await dev_server() as environment:
            client = environment.client
            await register_search_attributes(client)
            activities: list[Callable[..., Any]] = [
                cloud.describe_job,
                cloud.create_volume,
                cloud.attach_volume,
                cloud.detach_volume,
                cloud.create_snapshot,
                cloud.delete_volume,
                cloud.delete_snapshot,
                cloud.record_job,
                cloud.record_node,
                cloud.load_configuration,
                cloud.load_log_settings,
                KeptLogs().keep_logs,
            ]
            async with working(
                Worker(
                    client,
                    task_queue=names.CONTROL_QUEUE,
                    workflows=[JobProtection, VolumeMigration, NodeWatch, LogKeeping],
                    activities=activities,
                )
            ):
                yield Management(client.service_client.config.target_host, metadata, cloud)
    finally:
        metadata.close()
