"""The metadata service of one node: IMDSv2 on the bridge address, a port for each node.

Source: EC2 user guide, "Use instance metadata", "Spot Instance interruption notices", "EC2 instance rebalance
recommendations"; ECS developer guide, "Task metadata endpoint version 4" and "Task IAM role" for /v4 and
/v2/credentials, which containers find at 169.254.170.2 (the node leads that address here). Tokens are required
(AMIs of today set HttpTokens=required); a missing item is 404, as spot/instance-action is until there is a notice.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from localcloud.aws.cloud_config import ACCOUNT, CREDENTIALS
from localcloud.aws.credentials import TaskCredentials

log = logging.getLogger(__name__)

LONGEST_TOKEN = 21600
"""Seconds, IMDSv2's limit."""
ROLE = "perdure-node"
TTL_HEADER, TOKEN_HEADER = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
CREDENTIAL_LIFE = timedelta(hours=6)
TASK_ENDPOINT = "http://169.254.170.2"
"""Where containers find ECS's endpoints."""


@dataclass(frozen=True)
class Identity:
    """What an instance knows of itself."""

    instance_id: str
    instance_type: str
    zone: str
    region: str
    private_ip: str
    image_id: str


class MetadataService:
    """Serves one node from construction until `close`. Notices may be set by any thread."""

    def __init__(self, host: str, identity: Identity, credentials: TaskCredentials | None = None) -> None:
        self.identity = identity
        self._task_credentials = credentials or TaskCredentials()
        self._roles: dict[str, tuple[str, str]] = {}
        self._tokens: dict[str, float] = {}
        self._notices: dict[str, str] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._server = _Server((host, 0), self)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        # The interval is how long `close` may take: a power loss should not wait for its metadata service.
        serve = partial(self._server.serve_forever, poll_interval=0.05)
        threading.Thread(target=serve, name=f"imds-{identity.instance_id}", daemon=True).start()

    def close(self) -> None:
        """The node is gone, and its metadata service with it."""
        self._server.shutdown()
        self._server.server_close()

    def recommend_rebalance(self, at: datetime) -> None:
        """A rebalance recommendation."""
        self._notices["events/recommendations/rebalance"] = json.dumps({"noticeTime": _stamp(at)})

    def give_notice(self, deadline: datetime) -> None:
        """A Spot interruption notice: the instance is terminated at `deadline` (UTC)."""
        self._notices["spot/instance-action"] = json.dumps({"action": "terminate", "time": _stamp(deadline)})
        self._notices["spot/termination-time"] = _stamp(deadline)

    def add_task(self, container_id: str, metadata: dict[str, Any], role_arn: str = "") -> dict[str, str]:
        """Publish a container's metadata, and credentials if it has a role; returns the variables that say where."""
        self._tasks[container_id] = metadata
        variables = {"ECS_CONTAINER_METADATA_URI_V4": f"{TASK_ENDPOINT}/v4/{container_id}"}
        if role_arn:
            path = f"/v2/credentials/{uuid.uuid4()}"
            self._roles[path] = (container_id, role_arn)
            variables["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = path
        return variables

    def remove_task(self, container_id: str) -> None:
        """The container has ended: nothing is published of it any more."""
        self._tasks.pop(container_id, None)
        self._roles = {path: role for path, role in self._roles.items() if role[0] != container_id}

    def task_credentials(self, path: str) -> str | None:
        """Fresh ones for the living task that `path` belongs to."""
        role = self._roles.get(path)
        return None if role is None else json.dumps(self._task_credentials.issue(role[1]))

    def issue_token(self, seconds: int) -> str:
        """A session token."""
        token = secrets.token_urlsafe(40)
        self._tokens[token] = time.monotonic() + seconds
        return token

    def accepts(self, token: str) -> bool:
        """Is this a token of ours that has not expired?"""
        return self._tokens.get(token, 0.0) > time.monotonic()

    def task(self, path: str) -> str | None:
        """`/v4/<container id>` or `/v4/<container id>/task`."""
        container_id, _, rest = path.removeprefix("/v4/").partition("/")
        found = self._tasks.get(container_id)
        if found is None or rest not in {"", "task"}:
            return None
        return json.dumps(found["task"] if rest else found["container"])

    def item(self, path: str) -> str | None:
        """The text at `path` (below /latest/), a listing for a folder, None for 404."""
        items = self._items()
        if path in items:
            return items[path]
        prefix = path.rstrip("/") + "/"
        children = {
            rest.split("/", 1)[0] + ("/" if "/" in rest else "")
            for name in items
            if name.startswith(prefix) and (rest := name.removeprefix(prefix))
        }
        return "\n".join(sorted(children)) or None

    def _items(self) -> dict[str, str]:
        identity = self.identity
        host = f"ip-{identity.private_ip.replace('.', '-')}.ec2.internal"
        meta = {
            "ami-id": identity.image_id,
            "hostname": host,
            "local-hostname": host,
            "local-ipv4": identity.private_ip,
            "instance-action": "none",
            "instance-id": identity.instance_id,
            "instance-life-cycle": "spot",
            "instance-type": identity.instance_type,
            "placement/availability-zone": identity.zone,
            "placement/region": identity.region,
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
            "iam/info": json.dumps(
                {"Code": "Success", "InstanceProfileArn": f"arn:aws:iam::{ACCOUNT}:instance-profile/{ROLE}"}
            ),
            f"iam/security-credentials/{ROLE}": self._credentials(),
            **self._notices,
        }
        items = {f"meta-data/{name}": text for name, text in meta.items()}
        items["dynamic/instance-identity/document"] = self._document()
        return items

    def _document(self) -> str:
        identity = self.identity
        return json.dumps(
            {
                "accountId": ACCOUNT,
                "architecture": "x86_64",
                "availabilityZone": identity.zone,
                "imageId": identity.image_id,
                "instanceId": identity.instance_id,
                "instanceType": identity.instance_type,
                "privateIp": identity.private_ip,
                "region": identity.region,
                "version": "2017-09-30",
            }
        )

    def _credentials(self) -> str:
        now = datetime.now(UTC)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": _stamp(now),
                "Expiration": _stamp(now + CREDENTIAL_LIFE),
                "AccessKeyId": CREDENTIALS["AWS_ACCESS_KEY_ID"],
                "SecretAccessKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                "Token": "local",
            }
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: MetadataService) -> None:
        super().__init__(address, _Handler)
        self.service = service


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 60.0
    disable_nagle_algorithm = True  # else each answer waits for a delayed acknowledgement

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token":
            return self._answer(404)
        if self.headers.get("X-Forwarded-For"):
            return self._answer(403)  # IMDSv2 refuses tokens to requests that came through a proxy
        try:
            seconds = int(self.headers.get(TTL_HEADER, ""))
        except ValueError:
            return self._answer(400)
        if not 1 <= seconds <= LONGEST_TOKEN:
            return self._answer(400)
        self._answer(200, self.server.service.issue_token(seconds), {TTL_HEADER: str(seconds)})

    def do_GET(self) -> None:
        service = self.server.service
        if self.path.startswith("/v4/"):
            return self._found(service.task(self.path))
        if self.path.startswith("/v2/credentials/"):
            return self._found(service.task_credentials(self.path))
        if not service.accepts(self.headers.get(TOKEN_HEADER, "")):
            return self._answer(401)
        path = self.path.split("?", 1)[0]
        self._found(service.item(path.removeprefix("/latest/")) if path.startswith("/latest/") else None)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: nodes poll every second."""

    def _found(self, text: str | None) -> None:
        if text is None:
            self._answer(404)
        else:
            self._answer(200, text)

    def _answer(self, status: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
