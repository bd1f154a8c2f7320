"""Logs of a job and of a node, as one zip archive or to look at."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from sqlalchemy import Engine
from starlette.responses import JSONResponse, Response, StreamingResponse

from api.dependencies import Asking, Database, InstanceId, JobId, Settings, Workflows
from api.log_bundle import LARGEST, MISSING, Known, write_bundle
from api.serving.errors import described
from api.workflows import JobWorkflows
from perdure.contracts.logs import CollectedLogs, CollectLogs
from perdure.domain.jobs import folder_name
from perdure.log_files import Archive, is_text, members
from perdure.settings import ApiSettings

router = APIRouter(tags=["logs"])
IN_MEMORY = 8 << 20
"""Bytes of a bundle that are held in memory; a larger one goes through a temporary file."""
SHOWN_BYTES = 64 << 10
"""Of the end of each file, where it is shown as text."""
_CHUNK = 64 << 10
Format = Annotated[
    Literal["zip", "json"],
    Query(description="`zip`: everything, to download. `json`: names and sizes, and the end of what is text."),
]
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip archive; with `format=json`, its files to look at.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class LogFileView(BaseModel):
    """One file of a bundle."""

    name: str = Field(description="Path inside the bundle.", examples=["live/i-0abc/agent.log"])
    size: int = Field(description="Bytes.", examples=[1832])
    text: str | None = Field(description="The end of it, if it is text; bytes that are none are replaced.")
    cut: bool = Field(description="Is the begin of `text` left out?", examples=[False])


class LogBundleView(BaseModel):
    """A bundle to look at without downloading it."""

    files: list[LogFileView]
    missing: str = Field(description="What could not be had, and why; one line each.")


@router.get(
    "/jobs/{job_id}/logs",
    summary="A job's logs",
    response_model=LogBundleView,
    responses={**_ZIP, **described(HTTPStatus.NOT_FOUND)},
)
async def job_logs(
    database: Database, workflows: Workflows, settings: Settings, asking: Asking, job_id: JobId, format: Format = "zip"
) -> Response:
    """What its nodes sent when something ended, what the node that has it says now (asked for at most 12 s), its
    record, timeline and checkpoints, and for admins the server's own logs of that time. `MISSING.txt` says what could
    not be had and why. Memory images and the job's environment are never in it."""
    known = await run_in_threadpool(Known, database, job_id=job_id)
    return await _answer(database, workflows, settings, known, f"job-{folder_name(job_id)}", asking.is_admin, format)


@router.get(
    "/nodes/{instance_id}/logs",
    summary="A node's logs",
    response_model=LogBundleView,
    responses={**_ZIP, **described(HTTPStatus.NOT_FOUND)},
)
async def node_logs(
    database: Database,
    workflows: Workflows,
    settings: Settings,
    asking: Asking,
    instance_id: InstanceId,
    format: Format = "zip",
) -> Response:
    """The same for a node and all jobs on it: agent, runtime, dump and restore logs, and facts of the machine."""
    known = await run_in_threadpool(Known, database, instance_id=instance_id)
    return await _answer(database, workflows, settings, known, f"node-{instance_id}", asking.is_admin, format)


async def ask_node(workflows: JobWorkflows, known: Known) -> CollectedLogs:
    """What the node says now, or why nothing."""
    if known.silent:
        return CollectedLogs(failure=known.silent)
    job_id = known.job.job_id if known.job else ""
    return await workflows.collect_logs(
        CollectLogs(instance_id=known.instance_id, job_id=job_id, containers=known.containers), uuid.uuid4().hex
    )


async def _answer(
    engine: Engine,
    workflows: JobWorkflows,
    settings: ApiSettings,
    known: Known,
    name: str,
    admin: bool,
    format: Literal["zip", "json"],
) -> Response:
    live = await ask_node(workflows, known)
    file = await run_in_threadpool(make_bundle, engine, known, live, settings.log_file, admin=admin)
    if format == "json":
        return JSONResponse((await run_in_threadpool(_look, file)).model_dump())
    headers = {"Content-Disposition": f'attachment; filename="perdure-{name}-logs.zip"'}
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=headers)


def make_bundle(
    engine: Engine, known: Known, live: CollectedLogs, server_log: Path | None, *, admin: bool
) -> IO[bytes]:
    """A bundle, to be read from its begin and closed. Blocks."""
    file: IO[bytes] = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # the caller closes it
    try:
        write_bundle(Archive(file, LARGEST), engine, known, live, server_log, admin)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _look(file: IO[bytes]) -> LogBundleView:
    with file:
        content = file.read()
    files, missing = [], ""
    for name, data in members(content, LARGEST, 1000):
        if name == MISSING:
            missing = data.decode("utf-8", "replace")
            continue
        text = data[-SHOWN_BYTES:].decode("utf-8", "replace") if is_text(name) else None
        files.append(LogFileView(name=name, size=len(data), text=text, cut=len(data) > SHOWN_BYTES))
    return LogBundleView(files=files, missing=missing)
