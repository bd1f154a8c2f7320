"""Log files under the paths and names that MMBatch's users know.

Source: the reference's console and documentation: `/api/v1/nodes/{id}/files`, `/nodes/{id}/{path}`, `/mmab.log`,
`/mmab-access.log`; the files pagent.log (agent), mmrunc.log (runtime), output.log, restore.log and dump.log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.auth.rules import admins_only
from api.dependencies import Database, InstanceId, Settings, Workflows
from api.log_bundle import SERVER_LOG_BYTES, Known, read_access_log, read_server_log
from api.routes.logs import ask_node, make_bundle
from api.serving.errors import NothingThere, described
from api.workflows import JobWorkflows
from perdure.log_files import members
from perdure.settings import ApiSettings

router = APIRouter(tags=["mmbatch"])
"""Below /api/v1."""
root = APIRouter(tags=["mmbatch"])
"""At the top."""
NodeLogName = Literal["pagent.log", "mmrunc.log", "output.log", "restore.log", "dump.log"]
_OURS: dict[NodeLogName, str] = {
    "pagent.log": "agent.log",
    "mmrunc.log": "runtime.log",
    "output.log": "output.log",
    "restore.log": "restore.log",
    "dump.log": "dump.log",
}
_TEXT = "text/plain; charset=utf-8"


class NodeFile(BaseModel):
    """One log file of a node."""

    name: NodeLogName = Field(description="Its name in MMBatch.", examples=["pagent.log"])
    size: int = Field(description="Bytes, of all containers together.", examples=[18320])


@router.get(
    "/nodes/{instance_id}/files",
    summary="Log files of a node, by MMBatch's names",
    responses=described(HTTPStatus.NOT_FOUND),
)
async def node_files(database: Database, workflows: Workflows, instance_id: InstanceId) -> list[NodeFile]:
    """Of the living node, else of what it sent before it went. See `/nodes/{id}/logs` for everything at once."""
    found = await _files(database, workflows, instance_id)
    return [NodeFile(name=name, size=len(text)) for name, text in found.items()]


@root.get(
    "/nodes/{instance_id}/{name}",
    summary="One log file of a node, by MMBatch's name",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **described(HTTPStatus.NOT_FOUND)},
)
async def node_file(database: Database, workflows: Workflows, instance_id: InstanceId, name: NodeLogName) -> Response:
    found = await _files(database, workflows, instance_id)
    if name not in found:
        raise NothingThere(f"Node {instance_id} has no {name}; `/api/v1/nodes/{instance_id}/files` lists what it has.")
    return Response(found[name], media_type=_TEXT)


@root.get(
    "/mmab.log",
    summary="The end of the server's log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **described(HTTPStatus.NOT_FOUND)},
)
@admins_only
def server_log(settings: Settings) -> Response:
    """Its last MiB at most."""
    return _download(settings, "mmab.log")


@root.get(
    "/mmab-access.log",
    summary="The end of the server's access log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **described(HTTPStatus.NOT_FOUND)},
)
@admins_only
def access_log(settings: Settings) -> Response:
    """Its last MiB at most."""
    return _download(settings, "mmab-access.log")


def _download(settings: ApiSettings, name: str) -> Response:
    read = read_server_log if name == "mmab.log" else read_access_log
    try:
        text = read(settings.log_file, SERVER_LOG_BYTES)
    except OSError as problem:
        raise NothingThere(f"{name} is not to be had: {problem}.") from problem
    return Response(text, media_type=_TEXT, headers={"Content-Disposition": f'attachment; filename="{name}"'})


async def _files(database: Database, workflows: JobWorkflows, instance_id: str) -> dict[NodeLogName, bytes]:
    """The node's files under MMBatch's names, those of several containers one after the other."""
    known = await run_in_threadpool(Known, database, instance_id=instance_id)
    live = await ask_node(workflows, known)
    with await run_in_threadpool(make_bundle, database, known, live, None, admin=False) as file:
        found = dict(members(file.read(), most=1000))
    kept_too = not any(path.startswith("live/") for path in found)
    files: dict[NodeLogName, bytes] = {}
    for name, ours in _OURS.items():
        parts = [
            f"==> {path} <==\n".encode() + text + b"\n"
            for path, text in found.items()
            if (kept_too or path.startswith("live/")) and _is(path.rpartition("/")[2], ours)
        ]
        if parts:
            files[name] = b"".join(parts)
    return files


def _is(name: str, ours: str) -> bool:
    """`dump.log`, or a kept log of a failed dump: `20260101T000000-dump-….log`."""
    return name == ours or (ours in {"dump.log", "restore.log"} and f"-{ours.removesuffix('.log')}-" in name)
