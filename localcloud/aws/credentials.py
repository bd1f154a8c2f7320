"""Credentials of tasks with a job role: issued by the node's ECS endpoint, expiring, and checked at AWS's.

Source: ECS developer guide, "Task IAM role": the answer at AWS_CONTAINER_CREDENTIALS_RELATIVE_URI. As on AWS the
*address* answers only while the task lives, on its own host; what was issued is good until it expires. Static keys,
which localcloud gives to everyone else, are checked by nobody.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.sax.saxutils import escape

from localcloud.aws.ec2_wire import Environ, StartResponse, respond, service_of

KEY_PREFIX = "ASIA"
"""Temporary keys (IAM user guide, "Unique identifiers")."""
LIFE_SECONDS = 6 * 3600.0
_REMEMBERED = 10_000
"""Issued keys that are kept; the oldest are forgotten, and refused like any unknown one."""


@dataclass(frozen=True)
class _Issued:
    token: str
    until: datetime


class TaskCredentials:
    """One per stack. Any thread may call."""

    def __init__(self, life_seconds: float = LIFE_SECONDS) -> None:
        self.life_seconds = life_seconds
        """Seconds that credentials issued from now on are good for."""
        self._lock = threading.Lock()
        self._issued: dict[str, _Issued] = {}

    def issue(self, role_arn: str) -> dict[str, Any]:
        """Fresh credentials, as the endpoint answers."""
        key, token = KEY_PREFIX + secrets.token_hex(8).upper(), secrets.token_urlsafe(60)
        until = datetime.now(UTC) + timedelta(seconds=self.life_seconds)
        with self._lock:
            self._issued[key] = _Issued(token, until)
            while len(self._issued) > _REMEMBERED:
                del self._issued[next(iter(self._issued))]
        return {
            "RoleArn": role_arn,
            "AccessKeyId": key,
            "SecretAccessKey": secrets.token_urlsafe(30),
            "Token": token,
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def refusal(self, environ: Environ) -> tuple[str, str] | None:
        """AWS's error code and message for a request signed with temporary keys that are not good; None: let it in."""
        match = re.search(r"Credential=([^/,\s]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key = match[1] if match else ""
        if not key.startswith(KEY_PREFIX):
            return None
        with self._lock:
            issued = self._issued.get(key)
        if issued is None:
            return "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
        if not secrets.compare_digest(environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "").encode(), issued.token.encode()):
            return "InvalidToken", "The provided token is malformed or otherwise invalid."
        if datetime.now(UTC) >= issued.until:
            return "ExpiredToken", "The provided token has expired."
        return None


def refuse(environ: Environ, start: StartResponse, code: str, message: str) -> Iterable[bytes]:
    """Answer such a request, in the way of its service (S3's XML, or JSON)."""
    if service_of(environ) == "s3":
        said = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n{said}'
        return respond(start, body.encode(), 403 if code == "InvalidAccessKeyId" else 400, "application/xml")
    answer = json.dumps({"__type": f"{code}Exception", "message": message}).encode()
    return respond(start, answer, 400, "application/x-amz-json-1.1")
