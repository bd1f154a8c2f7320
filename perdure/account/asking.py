"""Questions to AWS. A refused question is noted and the rest goes on; AWS out of reach is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, ProfileNotFound

from perdure.domain.errors import CloudUnavailable, ConfigurationInvalid

T = TypeVar("T")
_CONFIG = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})
NOT_ALLOWED = "not allowed"
"""How AWS's words begin in `refused` when a right is missing; otherwise with AWS's own code."""
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "Client.UnauthorizedOperation"}


class Aws:
    """boto3 with the caller's own profile and region. `refused`: which right was missing, and AWS's words."""

    def __init__(self, region: str | None = None) -> None:
        """`region`: None takes the environment's. Raises ConfigurationInvalid for a profile that does not exist."""
        try:
            self._session = boto3.session.Session(region_name=region)
        except ProfileNotFound as problem:
            raise ConfigurationInvalid(f"{problem}; see `aws configure list-profiles`") from problem
        self._clients: dict[str, Any] = {}
        self.refused: dict[str, str] = {}

    @property
    def region(self) -> str:
        """Where we look."""
        return str(self.client("batch").meta.region_name)

    def client(self, service: str) -> Any:
        """A client, made once. Raises ConfigurationInvalid without a region."""
        if service not in self._clients:
            try:
                self._clients[service] = self._session.client(service, config=_CONFIG)  # type: ignore[call-overload]
            except NoRegionError as problem:
                raise ConfigurationInvalid("no AWS region is set: give --region, or set AWS_REGION") from problem
        return self._clients[service]

    def ask(self, right: str, question: Callable[[], T], instead: T) -> T:
        """The answer; `instead` where AWS refuses or knows nothing of the kind, and then `right` is in `refused`.

        Raises CloudUnavailable when AWS does not answer, ConfigurationInvalid without credentials.
        """
        try:
            return question()
        except ClientError as problem:
            code = str(problem.response.get("Error", {}).get("Code", ""))
            message = str(problem.response.get("Error", {}).get("Message", ""))
            self.refused[right] = f"{NOT_ALLOWED if code in _DENIED else code}: {message}"[:300]
            return instead
        except NoCredentialsError as problem:
            raise ConfigurationInvalid(
                "no AWS credentials are set: set AWS_PROFILE, or run `aws sso login`"
            ) from problem
        except BotoCoreError as problem:
            raise CloudUnavailable(f"AWS did not answer ({right}): {problem}") from problem

    def pages(self, service: str, operation: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        """All of a paginated answer's `key`. botocore's own errors."""
        pages = self.client(service).get_paginator(operation).paginate(**arguments)
        return [one for page in pages for one in page.get(key, [])]
