"""EC2's query protocol as far as the guards need it: read a request, write an answer or an error.

Source: Amazon EC2 API reference, "Query requests" and "Error codes" (the shape of both answers).
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from werkzeug.test import run_wsgi_app

from localcloud.errors import AwsError

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


def service_of(environ: Environ) -> str:
    """The service in a request's signature, `Credential=KEY/DATE/REGION/SERVICE/…`; "" when it is not signed."""
    match = re.search(r"Credential=[^/,\s]+/[^/]+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    return match[1].lower() if match else ""


def read_body(environ: Environ) -> bytes:
    """The whole body, chunked or not; the request can still be handed on."""
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if length:
        body: bytes = stream.read(int(length))
    else:
        body = stream.read() if environ.get("wsgi.input_terminated") else b""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    return body


def read_query(environ: Environ) -> dict[str, str]:
    """Parameters of a query request, from body and address."""
    return dict(parse_qsl(environ.get("QUERY_STRING", "")) + parse_qsl(read_body(environ).decode("utf-8", "replace")))


def forward(app: Application, environ: Environ) -> tuple[bytes, int, list[tuple[str, str]]]:
    """Ask the application behind: its whole answer, its status, its headers."""
    chunks, status, headers = run_wsgi_app(app, environ, buffered=True)
    return b"".join(chunks), int(status.split(" ", 1)[0]), list(headers)


def respond(
    start: StartResponse,
    body: bytes,
    status: int = 200,
    content_type: str = "text/xml",
    headers: dict[str, str] | None = None,
) -> list[bytes]:
    """A whole answer."""
    reason = "OK" if status < 400 else "Error"
    fixed = {"Content-Type": content_type, "Content-Length": str(len(body)), "x-amzn-RequestId": str(uuid.uuid4())}
    start(f"{status} {reason}", [*fixed.items(), *(headers or {}).items()])
    return [body]


def respond_json(start: StartResponse, value: Any, status: int = 200) -> list[bytes]:
    """A whole JSON answer."""
    return respond(start, json.dumps(value).encode(), status, "application/json")


def answer(action: str, fields: str) -> bytes:
    """The XML of a successful answer; `fields` is XML already."""
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">'
    return f"{head}<requestId>{uuid.uuid4()}</requestId>{fields}</{action}Response>".encode()


def error(raised: AwsError) -> bytes:
    """The XML of an error answer."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(raised.code)}</Code><Message>{escape(str(raised))}</Message>"
        f"</Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
    ).encode()


def field(body: bytes, name: str) -> str:
    """The text of the first element `name` in an answer ("" when there is none)."""
    match = re.search(rf"<{name}>([^<]*)</{name}>", body.decode("utf-8", "replace"))
    return match[1] if match else ""


def timestamp(moment: datetime) -> str:
    """As EC2 writes times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
