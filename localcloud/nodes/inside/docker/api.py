"""The few calls of Docker's Engine API that ECS's agent makes, over dockerd's unix socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx

Stream = Literal["stdout", "stderr"]
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_HEADER_BYTES = 8
ANSWER_SECONDS = 180.0
"""For calls that do not wait for a container."""


class DockerProblem(Exception):
    """dockerd refused, or does not answer. `status` is the HTTP status, 0 without one; str() is dockerd's sentence."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class DockerTimeout(DockerProblem):
    """dockerd did not answer within the limit; what was asked may still happen."""


class DockerApi:
    """One dockerd. Every call raises DockerProblem; usable from any thread.

    Paths without a version: each dockerd then speaks its own newest, and what is asked here is the same in all.
    """

    def __init__(self, socket: Path) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=4)
        transport = httpx.HTTPTransport(uds=str(socket), limits=limits)
        self._http = httpx.Client(transport=transport, base_url="http://docker", timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Let go of all connections."""
        self._http.close()

    def ping(self) -> None:
        """Answers once dockerd serves."""
        self._call("GET", "/_ping", limit=5.0)

    def load(self, archive: bytes) -> None:
        """Load images from an archive as `docker save` writes it."""
        answer = self._call("POST", "/images/load", content=archive, params={"quiet": "1"})
        for line in answer.text.splitlines():  # a failure comes with status 200
            with contextlib.suppress(ValueError):
                if words := json.loads(line).get("error"):
                    raise DockerProblem(200, str(words))

    def image(self, name: str) -> dict[str, Any]:
        """Inspect an image."""
        found: dict[str, Any] = self._call("GET", f"/images/{name}/json").json()
        return found

    def create(self, name: str, container: dict[str, Any]) -> str:
        """Create a container; its id."""
        return str(self._call("POST", "/containers/create", params={"name": name}, json=container).json()["Id"])

    def start(self, container_id: str, limit_seconds: float) -> None:
        """Start it; returns when the runtime has started it. DockerTimeout when that takes longer."""
        self._call("POST", f"/containers/{container_id}/start", limit=max(0.01, limit_seconds))

    def stop(self, container_id: str, grace_seconds: float) -> None:
        """SIGTERM, SIGKILL after the grace; returns when it has ended. Nothing happens to one that does not run."""
        grace = max(0, round(grace_seconds))
        self._call("POST", f"/containers/{container_id}/stop", params={"t": grace}, limit=grace + ANSWER_SECONDS)

    def kill(self, container_id: str) -> None:
        """SIGKILL to its init."""
        self._call("POST", f"/containers/{container_id}/kill")

    def wait(self, container_id: str) -> None:
        """Return when it does not run (any more), however long that takes."""
        self._call("POST", f"/containers/{container_id}/wait", limit=None)

    def inspect(self, container_id: str) -> dict[str, Any]:
        """Everything about it."""
        found: dict[str, Any] = self._call("GET", f"/containers/{container_id}/json").json()
        return found

    def remove(self, container_id: str, limit_seconds: float = ANSWER_SECONDS) -> None:
        """Remove it with its anonymous volumes, running or not. One that is gone already is no problem."""
        params = {"force": "1", "v": "1"}
        try:
            self._call("DELETE", f"/containers/{container_id}", params=params, limit=limit_seconds)
        except DockerProblem as problem:
            if problem.status != 404:
                raise

    @contextlib.contextmanager
    def attach(self, container_id: str) -> Iterator[Iterator[tuple[Stream, bytes]]]:
        """All that it writes from now on, as it writes it, until its end.

        dockerd subscribes before it answers, so that attached before the start no byte is missed. Its `logs` would not
        do: json-file keeps text, and replaces bytes that are not UTF-8.
        """
        params = {"stream": "1", "stdout": "1", "stderr": "1"}
        path = f"/containers/{container_id}/attach"
        try:
            with self._http.stream(
                "POST", path, params=params, timeout=httpx.Timeout(ANSWER_SECONDS, read=None)
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise DockerProblem(answer.status_code, _sentence(answer))
                yield demultiplexed(answer.iter_raw())
        except httpx.HTTPError as problem:
            raise DockerProblem(0, f"dockerd does not answer: {problem}") from problem

    def _call(self, method: str, path: str, *, limit: float | None = ANSWER_SECONDS, **more: Any) -> httpx.Response:
        timeout = httpx.Timeout(ANSWER_SECONDS, read=limit)
        try:
            answer = self._http.request(method, path, timeout=timeout, **more)
        except httpx.TimeoutException as problem:
            raise DockerTimeout(0, f"dockerd did not answer within {limit or ANSWER_SECONDS:g} s") from problem
        except httpx.HTTPError as problem:
            raise DockerProblem(0, f"dockerd does not answer: {problem}") from problem
        if answer.is_error:
            raise DockerProblem(answer.status_code, _sentence(answer))
        return answer


def demultiplexed(pieces: Iterator[bytes]) -> Iterator[tuple[Stream, bytes]]:
    """stdout and stderr out of Docker's one stream, each byte as soon as it is there.

    Frames of a header (stream, three zeros, length big-endian) and that many bytes; a frame may come in any pieces.
    Source: Engine API, ContainerAttach, "Stream format". Raises DockerProblem for a stream that is none.
    """
    buffer, left, stream = b"", 0, _STREAMS[1]
    for piece in pieces:
        buffer += piece
        while buffer:
            if left == 0:
                if len(buffer) < _HEADER_BYTES:
                    break
                kind, length = buffer[0], int.from_bytes(buffer[4:_HEADER_BYTES], "big")
                if kind not in _STREAMS or buffer[1:4] != b"\0\0\0":
                    raise DockerProblem(0, "dockerd sent output that cannot be understood")
                stream, left, buffer = _STREAMS[kind], length, buffer[_HEADER_BYTES:]
                continue
            data, buffer = buffer[:left], buffer[left:]
            left -= len(data)
            yield stream, data


def _sentence(answer: httpx.Response) -> str:
    try:
        words = answer.json().get("message")
    except (ValueError, AttributeError):
        words = None
    return str(words or f"{answer.request.url.path} answers {answer.status_code}")
