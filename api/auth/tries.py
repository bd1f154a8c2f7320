"""One question to a user pool, counted: too many failures by address or user name have to wait."""

from __future__ import annotations

import time
from typing import cast

from fastapi import Request

from api.auth.audit_trail import address_of
from api.auth.rate_limit import FailedTries
from perdure.domain.errors import NotSignedIn


class Tries:
    """Around a question to Cognito: failures are counted by address and user name, and too many have to wait."""

    def __init__(self, request: Request, username: str) -> None:
        self._failed_tries = cast(FailedTries, request.app.state.failed_tries)
        self._address, self._username = address_of(request.scope), username
        request.state.audit |= {"user": username}

    def __enter__(self) -> None:
        self._failed_tries.check(self._address, self._username, time.monotonic())

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, NotSignedIn):
            self._failed_tries.failed(self._address, self._username, time.monotonic())
