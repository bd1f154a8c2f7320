"""The release for instances: the installer, ready to be piped into a shell, and the files that it fetches.

Anyone may have them: an instance has no account here, and there is nothing secret in a release. What is piped into a
shell is as good as the TLS that it came by; the pinned way takes `/install/perdure-install` and compares its checksum.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from fastapi import Path as InPath
from starlette.responses import FileResponse, Response

from api.auth.rules import anyone_may
from api.dependencies import Settings
from api.serving.errors import NothingThere
from perdure.settings import ApiSettings

router = APIRouter(include_in_schema=False)
"""Below /api/v1: MMBatch's path."""
root = APIRouter(include_in_schema=False)
"""At the top."""
INSTALLER = "perdure-install"
_FILE = r"^(perdure-install|perdure-worker-[A-Za-z0-9_.+-]+\.tar\.gz|MANIFEST(\.minisig)?|perdure\.pub|user-data\.txt)$"
FileName = Annotated[str, InPath(pattern=_FILE, max_length=120)]
_ADDRESS = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
"""What may stand between a shell's quotes."""


def _file(settings: ApiSettings, name: str) -> Path:
    if settings.release_dir is None:
        raise NothingThere("This server has no release for instances: set PERDURE_RELEASE_DIR to the folder of one.")
    path = settings.release_dir / name
    if not path.is_file():
        raise NothingThere(f"The release of this server has no {name}.")
    return path


@router.get("/scripts/install-pagent")
@root.get("/install")
@anyone_may
def install(settings: Settings, request: Request) -> Response:
    """The installer, told where it came from: `curl -fsS https://SERVER/install | sh -s -- --temporal HOST:PORT`."""
    script = _file(settings, INSTALLER).read_text()
    host, temporal = request.url.netloc, settings.instances_temporal
    if not all(_ADDRESS.fullmatch(word) for word in (host, temporal) if word):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The address of this request cannot be put into a script.")
    first, _, rest = script.partition("\n")
    words = [f"--from '{request.url.scheme}://{host}/install'", *([f"--temporal '{temporal}'"] if temporal else [])]
    return Response(f'{first}\nset -- {" ".join(words)} "$@"\n{rest}', media_type="text/x-shellscript")


@root.get("/install/{name}")
@anyone_may
def release_file(settings: Settings, name: FileName) -> Response:
    """A file of the release, byte for byte."""
    return FileResponse(_file(settings, name), filename=name)
