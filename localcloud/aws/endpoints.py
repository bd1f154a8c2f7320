"""The control endpoints, /_local/*: what no AWS offers. The CLI, the demo and the tests see and push the cloud here.

    GET  /_local/status                    nodes, jobs, zones with capacity
    GET  /_local/jobs/ID                   attempts with their nodes and containers, volumes
    GET  /_local/volumes/ID                backing file, deleted or not
    GET  /_local/nodes/ID                  one node
    POST /_local/nodes                     {"zone"?}: launch one
    POST /_local/nodes/ID/ecs-agent        {"running"}
    POST /_local/capacity                  {"zones"}
    POST /_local/credentials               {"life_seconds"}: of credentials that job roles get from now on
    POST /_local/reclaim                   reclaim.ReclaimRequest
    GET  /_local/reclaims/ID[?wait=S]      how far it is
    …    /_local/ebs, faults, snapshots    ebs_endpoints.EbsEndpoints

Errors are 4xx with {"error": "one sentence"}.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError

from localcloud.aws.batch.engine import Engine
from localcloud.aws.batch.jobs import Attempt, Job
from localcloud.aws.cloud_config import CloudConfig
from localcloud.aws.credentials import TaskCredentials
from localcloud.aws.ebs import Disks
from localcloud.aws.ebs_endpoints import EbsEndpoints
from localcloud.aws.ec2_wire import Environ, StartResponse, read_body, respond_json
from localcloud.aws.fleet import Fleet, Node
from localcloud.aws.moto_backend import MotoEc2
from localcloud.aws.reclaim import ReclaimRequest, Reclaims
from localcloud.aws.volume_states import VolumeStates
from localcloud.errors import Refused
from localcloud.node_link import SetEcsAgent

PREFIX = "/_local/"
Body = dict[str, Any]


class Endpoints:
    """A WSGI application."""

    def __init__(
        self,
        lock: threading.RLock,
        config: CloudConfig,
        endpoint_url: str,
        engine: Engine,
        fleet: Fleet,
        reclaims: Reclaims,
        ec2: MotoEc2,
        states: VolumeStates,
        disks: Disks,
        credentials: TaskCredentials,
        ebs: EbsEndpoints,
    ) -> None:
        self._credentials = credentials
        self._lock, self._config, self._endpoint_url = lock, config, endpoint_url
        self._engine, self._fleet, self._reclaims = engine, fleet, reclaims
        self._ec2, self._states, self._disks = ec2, states, disks
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., tuple[int, Any]]]] = [
            ("GET", re.compile("status"), self._status),
            ("GET", re.compile("jobs/([^/]+)"), self._job),
            ("GET", re.compile("volumes/([^/]+)"), self._volume),
            ("GET", re.compile("nodes/([^/]+)"), self._node),
            ("POST", re.compile("nodes"), self._launch),
            ("POST", re.compile("nodes/([^/]+)/ecs-agent"), self._ecs_agent),
            ("POST", re.compile("capacity"), self._capacity),
            ("POST", re.compile("credentials"), self._credentials_life),
            ("POST", re.compile("reclaim"), self._reclaim),
            ("GET", re.compile("reclaims/([^/]+)"), self._reclaim_state),
            *ebs.routes,
        ]

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one control request."""
        try:
            status, value = self._route(environ)
        except Refused as refusal:
            status, value = refusal.status, {"error": str(refusal)}
        return respond_json(start, value, status)

    def _route(self, environ: Environ) -> tuple[int, Any]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(PREFIX)
        for wanted, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match and wanted == method:
                given = _parse(read_body(environ)) if method == "POST" else _query(environ)
                return handler(given, *match.groups())
        raise Refused(404, f"There is no {method} {PREFIX}{path}.")

    def _status(self, _: Body) -> tuple[int, Any]:
        with self._lock:
            return 200, {
                "stack": self._config.stack,
                "region": self._config.region,
                "zones": self._config.zones,
                "queues": self._config.queues,
                "aws_endpoint_url": self._endpoint_url,
                "capacity_zones": sorted(self._engine.capacity),
                "nodes": [self._show_node(node) for node in self._fleet.nodes()],
                "jobs": [_summary(job) for job in self._engine.jobs()],
            }

    def _job(self, _: Body, job_id: str) -> tuple[int, Any]:
        with self._lock:
            job = self._engine.job(job_id)
            if job is None:
                raise Refused(404, f"There is no job {job_id}.")
            last = job.attempts[-1] if job.attempts else None
            volumes = self._states.deleted | {volume.volume_id: volume for volume in self._ec2.data_volumes()}
            owned = [volume for volume in volumes.values() if job_id in volume.tags.values()]
            return 200, {
                **_summary(job),
                "status_reason": job.status_reason,
                "container_id": last.container_id if last else None,
                "exit_code": last.ending.exit_code if last and last.ending else None,
                "zones": [attempt.zone for attempt in job.attempts if attempt.started_at is not None],
                "attempts": [_attempt(attempt) for attempt in job.attempts],
                "volumes": [volume.volume_id for volume in sorted(owned, key=lambda each: each.created_at)],
            }

    def _volume(self, _: Body, volume_id: str) -> tuple[int, Any]:
        with self._lock:
            volume, deleted = self._ec2.volume(volume_id), False
            if volume is None:
                volume, deleted = self._states.deleted.get(volume_id), True
            if volume is None:
                raise Refused(404, f"There is no volume {volume_id}.")
            file = self._disks.backing_file(volume_id)
            attachment = None if deleted else volume.attachment
            return 200, {
                "id": volume_id,
                "zone": volume.zone,
                "size_gib": volume.size_gib,
                "state": "deleted" if deleted else volume.status,
                "attached_to": attachment.instance_id if attachment else None,
                "attachment_state": attachment.status if attachment else None,
                "device": self._disks.device(volume_id),
                "initialization": None if deleted else self._disks.initialization(volume_id),
                "backing_file": str(file) if file else None,
                "deleted": deleted,
                "created_at": volume.created_at.timestamp(),
                "tags": volume.tags,
            }

    def _node(self, _: Body, node_id: str) -> tuple[int, Any]:
        return 200, self._show_node(self._known_node(node_id))

    def _launch(self, given: Body) -> tuple[int, Any]:
        zone = given.get("zone", self._config.zones[0])
        self._check_zones([zone])
        return 201, self._show_node(self._fleet.launch(zone, self._config.shape))

    def _ecs_agent(self, given: Body, node_id: str) -> tuple[int, Any]:
        node = self._known_node(node_id)
        running = given.get("running")
        if not isinstance(running, bool):
            raise Refused(400, '"running" must be true or false.')
        self._fleet.send(node_id, SetEcsAgent(running=running))
        return 200, self._show_node(node)

    def _credentials_life(self, given: Body) -> tuple[int, Any]:
        seconds = given.get("life_seconds")
        if not isinstance(seconds, int | float) or not 0 < seconds <= 36 * 3600:
            raise Refused(400, "life_seconds must be a number above 0, at most 36 hours.")
        self._credentials.life_seconds = float(seconds)
        return 200, {"life_seconds": self._credentials.life_seconds}

    def _capacity(self, given: Body) -> tuple[int, Any]:
        zones = given.get("zones")
        if not isinstance(zones, list):
            raise Refused(400, '"zones" must be a list of zones.')
        self._check_zones(zones)
        self._engine.limit_capacity(zones, [])
        return 200, {"capacity_zones": sorted(self._engine.capacity)}

    def _reclaim(self, given: Body) -> tuple[int, Any]:
        try:
            request = ReclaimRequest.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refused(400, f"{where}: {first['msg']} (got `{str(first['input'])[:80]}`).") from error
        reclaim = self._reclaims.start(request)
        if request.wait:
            reclaim.done.wait()
        return 200 if request.wait else 202, reclaim.describe()

    def _reclaim_state(self, given: Body, reclaim_id: str) -> tuple[int, Any]:
        reclaim = self._reclaims.get(reclaim_id)
        try:
            reclaim.done.wait(float(given.get("wait", 0)))
        except (ValueError, OverflowError) as error:
            raise Refused(400, "`wait` is a number of seconds.") from error
        return 200, reclaim.describe()

    def _known_node(self, node_id: str) -> Node:
        node = self._fleet.node(node_id)
        if node is None:
            raise Refused(404, f"There is no node {node_id}.")
        return node

    def _check_zones(self, zones: list[Any]) -> None:
        unknown = [zone for zone in zones if zone not in self._config.zones]
        if unknown:
            raise Refused(400, f"There is no zone {unknown[0]}; there are {', '.join(self._config.zones)}.")

    def _show_node(self, node: Node) -> dict[str, Any]:
        return {
            "id": node.instance_id,
            "zone": node.zone,
            "state": node.state,
            "instance_type": node.shape.name,
            "vcpus": node.shape.vcpus,
            "memory_mib": node.shape.memory_mib,
            "address": node.handle.address if node.handle else None,
            "init_pid": node.handle.init_pid if node.handle else None,
            "imds_url": node.imds.url,
            "jobs": self._engine.containers_on(node.instance_id),
        }


def _summary(job: Job) -> dict[str, Any]:
    current = job.current
    return {
        "id": job.job_id,
        "name": job.name,
        "queue": job.queue,
        "status": job.status,
        "attempts": job.counted,
        "node": current.instance_id if current else None,
        "zone": current.zone if current else None,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    ending = attempt.ending
    return {
        "number": attempt.number,
        "node": attempt.instance_id,
        "zone": attempt.zone,
        "container_id": attempt.container_id,
        "log_stream": attempt.log_stream,
        "started_at": attempt.started_at and attempt.started_at / 1000,
        "stopped_at": attempt.stopped_at and attempt.stopped_at / 1000,
        "exit_code": ending.exit_code if ending else None,
        "reason": ending.reason if ending else None,
        "status_reason": ending.status_reason if ending else None,
    }


def _query(environ: Environ) -> Body:
    return {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}


def _parse(body: bytes) -> Body:
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise Refused(400, "The request is not JSON.") from error
    if not isinstance(given, dict):
        raise Refused(400, "The request must be a JSON object.")
    return given
