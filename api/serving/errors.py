"""One shape for every error, and which of our errors is which HTTP status. Errors are logged here, once."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.exceptions import HTTPException
from starlette.types import Scope

from perdure.domain.errors import (
    CheckpointFailed,
    CloudUnavailable,
    ConfigurationInvalid,
    LockOut,
    NotAllowed,
    NotResumable,
    NotSignedIn,
    PerdureError,
    PoolMisconfigured,
    TemporalUnavailable,
    TooManyTries,
    UnknownJob,
    UnknownNode,
    UnknownToken,
    UnknownVolume,
    VolumeInUse,
)

log = structlog.get_logger(__name__)


class NotRunning(PerdureError):
    """The job is known, but no container of it runs that could be asked."""


class NoAnswer(PerdureError):
    """Nobody answered in time; what was asked for may still happen."""

    retryable = True


class NothingThere(PerdureError):
    """What is asked for is known, but there is none of it."""


class Crowded(PerdureError):
    """As many as can be served at once are served already."""

    retryable = True


class OutOfDate(PerdureError):
    """Somebody else changed the value since the caller read it."""


class ErrorDetail(BaseModel):
    """One unusable value."""

    field: str = Field(description="Where it stands, such as `body.keep` or `query.limit`.", examples=["body.keep"])
    message: str = Field(description="What is allowed.", examples=["Input should be less than or equal to 20"])


class ErrorContent(BaseModel):
    code: str = Field(description="Short and stable, for programs.", examples=["unknown_job"])
    message: str = Field(description="What happened and what to do, for people.")
    details: list[ErrorDetail] = Field(default_factory=list, description="The unusable values of a request, if any.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorContent


COMMON: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request cannot be read at all, such as a body that is no text."},
    401: {"model": ErrorBody, "description": "Nobody is signed in, or what was sent as proof is not good."},
    403: {"model": ErrorBody, "description": "Whoever is signed in may not do this."},
    422: {"model": ErrorBody, "description": "A value is not usable; `details` names each."},
    503: {"model": ErrorBody, "description": "The database or Temporal is out of reach; try again."},
}

_STATUS: list[tuple[type[Exception], HTTPStatus, str]] = [
    (UnknownJob, HTTPStatus.NOT_FOUND, "unknown_job"),
    (UnknownNode, HTTPStatus.NOT_FOUND, "unknown_node"),
    (UnknownToken, HTTPStatus.NOT_FOUND, "unknown_token"),
    (UnknownVolume, HTTPStatus.NOT_FOUND, "unknown_volume"),
    (VolumeInUse, HTTPStatus.CONFLICT, "volume_in_use"),
    (NotSignedIn, HTTPStatus.UNAUTHORIZED, "not_signed_in"),
    (NotAllowed, HTTPStatus.FORBIDDEN, "not_allowed"),
    (TooManyTries, HTTPStatus.TOO_MANY_REQUESTS, "too_many_tries"),
    (PoolMisconfigured, HTTPStatus.CONFLICT, "pool_misconfigured"),
    (LockOut, HTTPStatus.CONFLICT, "lock_out"),
    (NothingThere, HTTPStatus.NOT_FOUND, "nothing_there"),
    (ConfigurationInvalid, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request"),
    (NotRunning, HTTPStatus.CONFLICT, "not_running"),
    (NotResumable, HTTPStatus.CONFLICT, "not_resumable"),
    (CheckpointFailed, HTTPStatus.CONFLICT, "checkpoint_failed"),
    (OutOfDate, HTTPStatus.PRECONDITION_FAILED, "out_of_date"),
    (NoAnswer, HTTPStatus.GATEWAY_TIMEOUT, "no_answer"),
    (Crowded, HTTPStatus.SERVICE_UNAVAILABLE, "crowded"),
    (CloudUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "cloud_unavailable"),
    (TemporalUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "temporal_unavailable"),
]


def described(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """For an endpoint's `responses`: these failures have the common shape."""
    return {int(status): {"model": ErrorBody, "description": status.phrase} for status in statuses}


def answer(status: int, code: str, message: str, details: Sequence[ErrorDetail] = ()) -> JSONResponse:
    """The one shape. Text that a request brought along may hold lone surrogates, which no encoder takes."""
    content = ErrorContent(
        code=code,
        message=_printable(message),
        details=[ErrorDetail(field=_printable(d.field), message=_printable(d.message)) for d in details],
    )
    return JSONResponse(ErrorBody(error=content).model_dump(), status_code=status)


def add_to(app: FastAPI) -> None:
    """Turn every exception that leaves an endpoint into the one shape."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PerdureError, _ours)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(NoConnection, _database)
    app.add_exception_handler(Exception, unexpected)


async def _invalid(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestValidationError | ValidationError)
    details = [
        # The value itself is left out: it may be huge, secret or not encodable.
        ErrorDetail(field=".".join(map(str, error["loc"]))[:200], message=error["msg"].removeprefix("Value error, "))
        for error in problem.errors()[:20]
    ]
    named = "; ".join(f"{detail.field}: {detail.message}" for detail in details[:3])
    tell_audit(request.scope, "invalid_request", ", ".join(detail.field for detail in details[:3]))
    return answer(422, "invalid_request", f"The request is not usable: {named}", details)


async def _http(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, HTTPException)
    phrase = HTTPStatus(problem.status_code).phrase
    message = problem.detail if problem.detail != phrase else f"{phrase}: {request.method} {request.url.path[:200]}"
    code = phrase.lower().replace(" ", "_")
    tell_audit(request.scope, code)
    response = answer(problem.status_code, code, message)
    response.headers.update(problem.headers or {})
    return response


async def _ours(request: Request, problem: Exception) -> JSONResponse:
    for kind, status, code in _STATUS:
        if isinstance(problem, kind):
            access = isinstance(problem, NotSignedIn | NotAllowed | TooManyTries)
            tell_audit(request.scope, code, str(problem) if access else "")
            response = answer(status, code, str(problem))
            response.headers.update(_headers(problem))
            return response
    return await unexpected(request, problem)


async def answer_to(request: Request, problem: PerdureError | OperationalError) -> JSONResponse:
    """What an endpoint that raised this would have answered; for what stands before the endpoints."""
    return await (_database if isinstance(problem, OperationalError) else _ours)(request, problem)


def _headers(problem: Exception) -> dict[str, str]:
    if isinstance(problem, NotSignedIn):
        return {"WWW-Authenticate": 'Bearer realm="perdure"'}
    if isinstance(problem, TooManyTries):
        return {"Retry-After": str(problem.retry_after_seconds)}
    return {}


async def _database(request: Request, problem: Exception) -> JSONResponse:
    log.error("the database failed", path=request.url.path, problem=str(problem)[:500])
    return answer(503, "database_unavailable", "The database does not answer; try again in a moment.")


def tell_audit(scope: Scope, code: str, reason: str = "") -> None:
    """Leave word of why this request is refused for the audit log. A reason holds nothing that a client sent as proof
    or as a value."""
    scope.setdefault("state", {})["error"] = {"error": code} | ({"reason": reason} if reason else {})


async def unexpected(request: Request, problem: Exception) -> JSONResponse:
    """Of a mistake of ours: the log has it, the client does not."""
    log.error("a request failed", method=request.method, path=request.url.path, exc_info=problem)
    return answer(500, "internal", "Perdure made a mistake; the server's log has the details.")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
