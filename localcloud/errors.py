"""How the local cloud says no: as AWS does to AWS's clients, and in one sentence on its own control endpoints."""

from __future__ import annotations

from perdure.domain.errors import StackError


class AwsError(StackError):
    """An AWS error answer: `code` and `status` as AWS gives them, so that botocore raises the same exception."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code = code
        self.status = status
        super().__init__(message)


class Refused(StackError):
    """A control request that cannot be carried out: `status` is the HTTP status, the message what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)
