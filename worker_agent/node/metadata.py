"""The EC2 instance metadata service, version 2: who this instance is, and what AWS announces about it.

A 404 is normal: it means that nothing is announced (AWS's own termination handler reads it so, too).
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from perdure.domain.errors import CloudUnavailable
from perdure.domain.values import Frozen

_TOKEN_SECONDS = 21_600
"""The longest life of a token that the service grants."""
_RENEW_EARLY = 300
"""Seconds before its end at which a token is renewed."""
_TIMEOUT = 2.0


class Identity(Frozen):
    """The part of the instance identity document that we need."""

    instanceId: str
    availabilityZone: str
    instanceType: str = ""
    region: str = ""
    privateIp: str = ""
    architecture: str = ""


class Metadata:
    """A client that keeps its session token; every method raises CloudUnavailable when the service does not answer."""

    def __init__(self, url: str) -> None:
        # Never through a proxy of the environment: the service is link-local.
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=_TIMEOUT, trust_env=False)
        self._token = ""
        self._token_ends = 0.0

    async def close(self) -> None:
        """Let go of the connection."""
        await self._http.aclose()

    async def identity(self) -> Identity:
        """Which instance this is."""
        document = await self.read("/latest/dynamic/instance-identity/document")
        if document is None:
            raise CloudUnavailable("the metadata service has no identity document: is this an EC2 instance?")
        try:
            return Identity.model_validate_json(document)
        except ValueError as problem:
            raise CloudUnavailable(f"the instance identity document is not understood: {problem}") from problem

    async def read(self, path: str) -> str | None:
        """The text at `path`; None when there is none (404). One new token is tried when the old one is refused."""
        response = await self._get(path)
        if response.status_code == 401:
            self._token = ""
            response = await self._get(path)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise CloudUnavailable(f"the metadata service answered {response.status_code} for {path}")
        return response.text

    async def _get(self, path: str) -> httpx.Response:
        if not self._token or time.monotonic() > self._token_ends:
            await self._renew()
        return await self._request("GET", path, {"X-aws-ec2-metadata-token": self._token})

    async def _renew(self) -> None:
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        response = await self._request("PUT", "/latest/api/token", wanted)
        if response.status_code != 200:
            raise CloudUnavailable(f"the metadata service gives no token (status {response.status_code})")
        self._token = response.text
        granted: Any = response.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        seconds = int(granted) if str(granted).isdigit() else _TOKEN_SECONDS
        self._token_ends = time.monotonic() + max(1, seconds - min(_RENEW_EARLY, seconds // 2))

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
        try:
            return await self._http.request(method, path, headers=headers)
        except httpx.HTTPError as problem:
            raise CloudUnavailable(f"the metadata service does not answer: {type(problem).__name__}") from problem
