"""The checkpoint configuration of the system: read it, change it. Running jobs hear of a change at once."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from sqlalchemy import Engine
from sqlmodel import Session

from api.dependencies import Database, Reading, Workflows
from api.errors import OutOfDate, described
from api.responses import Wire
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.errors import TemporalUnavailable
from perdure.domain.values import parse_duration
from perdure.records.configuration import configuration_history, current_configuration, save_configuration
from perdure.records.database import writing

router = APIRouter(prefix="/checkpoint-config", tags=["configuration"])
log = structlog.get_logger(__name__)

LARGEST_RESERVE_MIB = 16 * 1024 * 1024
"""16 TiB, the largest EBS volume."""


def _seconds(value: object) -> object:
    """Seconds as a number, or a duration as text (`15m`)."""
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or (isinstance(value, int | float) and not math.isfinite(value)):
        raise ValueError("must be a number of seconds, or a duration such as 15m, 90s or 1h30m")
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=float | str),
]


class CheckpointConfig(Wire):
    """When checkpoints are taken and what is kept, for jobs whose environment says nothing else."""

    enabled: bool = Field(description="Take checkpoints at all.")
    interval_seconds: float = Field(description="Seconds between periodic checkpoints; 0: off.", examples=[900])
    diagnosis: bool = Field(description="Keep volumes and checkpoints of finished jobs.")
    keep: int = Field(description="Committed checkpoints kept per job, newest first.")
    reserve_mib: int = Field(description="MiB of the job volume that no checkpoint may use.")
    dump_limit_seconds: float = Field(description="A dump that takes longer is ended and the job thawed.")
    memory_chain: int = Field(description="Checkpoints in a row that hold only the memory that changed; 1: none do.")
    predump: bool = Field(
        description="Copy most memory before the freeze, where the kernel can tell what changes then."
    )
    refuse_io_uring: bool = Field(description="Containers get no io_uring, which cannot be saved.")
    own_network: bool = Field(description="Each protected job has a network namespace of its own.")


class CheckpointConfigChange(BaseModel):
    """What is to change; fields that are left out keep their value. Durations: seconds, or text such as `15m`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"interval_seconds": "15m", "keep": 2}, {"enabled": False}]}
    )

    enabled: StrictBool | None = Field(None, description="Take checkpoints at all.")
    interval_seconds: Seconds | None = Field(
        None, description="Between periodic checkpoints: 0 (off), or 1 s to 366 days.", examples=["15m", 900]
    )
    diagnosis: StrictBool | None = Field(None, description="Keep volumes and checkpoints of finished jobs.")
    keep: StrictInt | None = Field(None, description="Committed checkpoints kept per job: 1 to 20.")
    reserve_mib: Annotated[StrictInt, Field(le=LARGEST_RESERVE_MIB)] | None = Field(
        None, description="MiB of the job volume that no checkpoint may use."
    )
    dump_limit_seconds: Seconds | None = Field(None, description="Longest dump: above 0, up to an hour.")
    memory_chain: StrictInt | None = Field(
        None, description="Checkpoints in a row that hold only the memory that changed: 1 (none do) to 64."
    )
    predump: StrictBool | None = Field(
        None, description="Copy most memory before the freeze, where the kernel can tell what changes then."
    )
    refuse_io_uring: StrictBool | None = Field(None, description="Containers get no io_uring, which cannot be saved.")
    own_network: StrictBool | None = Field(None, description="Each protected job has a network namespace of its own.")


class CheckpointConfigChanged(CheckpointConfig):
    """The configuration as it is now, and who knows already."""

    jobs_told: int | None = Field(description="Running jobs that heard of it; null when they could not be told.")
    warning: str | None = Field(description="What a person should know, if anything.")


def _etag(session: Session) -> str:
    newest = configuration_history(session, limit=1)
    return f'"{newest[0].number if newest else 0}"'


@router.get("", summary="The checkpoint configuration")
def read(session: Reading, response: Response) -> CheckpointConfig:
    """The ETag names this version; send it as If-Match with a change to be sure that nobody else changed it since."""
    response.headers["ETag"] = _etag(session)
    return CheckpointConfig.model_validate(current_configuration(session).checkpoint)


@router.put("", summary="Change the checkpoint configuration", responses=described(HTTPStatus.PRECONDITION_FAILED))
async def change(
    database: Database,
    workflows: Workflows,
    response: Response,
    wanted: CheckpointConfigChange,
    if_match: Annotated[str | None, Header(max_length=100, description="ETag of the version to change.")] = None,
) -> CheckpointConfigChanged:
    """Stores it, then tells the running jobs; what a job's own environment says still wins for that job."""
    configuration, etag = await run_in_threadpool(_store, database, wanted.model_dump(exclude_unset=True), if_match)
    told: int | None = None
    warning: str | None = None
    try:
        told = await workflows.configuration_changed()
    except TemporalUnavailable as problem:
        log.warning("running jobs were not told of the new configuration", problem=str(problem))
        warning = f"Stored, but not all running jobs could be told, so send it again later: {problem}"
    response.headers["ETag"] = etag
    current = CheckpointConfig.model_validate(configuration)
    return CheckpointConfigChanged(**dict(current), jobs_told=told, warning=warning)


def _store(database: Engine, changes: dict[str, Any], if_match: str | None) -> tuple[CheckpointConfiguration, str]:
    """Read, check and write in one transaction. OutOfDate, RequestValidationError."""
    with writing(database) as session:
        if if_match not in (None, "*", _etag(session)):
            raise OutOfDate("The configuration was changed since you read it; read it again.")
        before = current_configuration(session)
        try:
            checkpoint = CheckpointConfiguration.model_validate(before.checkpoint.model_dump() | changes)
        except ValidationError as problem:
            raise RequestValidationError(
                [{**error, "loc": ("body", *error["loc"])} for error in problem.errors(include_url=False)]
            ) from problem
        if checkpoint != before.checkpoint:
            after = SystemConfiguration(checkpoint=checkpoint, job_volume=before.job_volume)
            save_configuration(session, after, at=datetime.now(UTC), by="api")
        return checkpoint, _etag(session)
