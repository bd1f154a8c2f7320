"""Where the API server of a command line is, and asking it. Every error is one sentence."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import httpx
import typer

from perdure.domain.errors import PerdureError, StackMissing, UnknownJob

SERVERS = "perdure.servers"
"""Entry-point group of functions that know of a server running on this machine: its URL, or None."""
_LIMIT_SECONDS = 30.0

Server = Annotated[
    str, typer.Option("--server", envvar="PERDURE_SERVER", help="URL of the API server; else the local stack's.")
]


def get(server: str, path: str) -> Any:
    """The answer to GET `path` as JSON. UnknownJob for 404, StackMissing without a server, PerdureError else."""
    base = (server or _local_server()).rstrip("/")
    try:
        answer = httpx.get(base + path, timeout=_LIMIT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise PerdureError(f"the server at {base} does not answer: {problem}") from problem
    if answer.is_success:
        return answer.json()
    raise (UnknownJob if answer.status_code == httpx.codes.NOT_FOUND else PerdureError)(_words(answer))


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"


def _local_server() -> str:
    for entry in entry_points(group=SERVERS):
        try:
            url = entry.load()()
        except ImportError:  # its extra is not installed
            continue
        if url:
            return str(url)
    raise StackMissing("no server is named (--server URL or PERDURE_SERVER), and no local stack runs here")
