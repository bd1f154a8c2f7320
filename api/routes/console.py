"""The console: one page for every address that is not the API's, and the files that it is made of.

The page holds nothing worth hiding, so a stranger gets it too; it then asks who they are, and sends them to sign in.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.auth.rules import anyone_may

router = APIRouter(include_in_schema=False)

BUILT = Path(__file__).parents[1] / "static"
"""What `make setup` builds of console/."""
# Fonts are data: addresses in the components' own style sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self' data:; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_EVER = "public, max-age=31536000, immutable"
"""Names of files hold a hash of their content: another content has another name."""
NOT_BUILT = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Perdure</title>'
    "<p>The console is not built on this server. Run <code>make console</code> in the repository and load this page "
    'again. The <a href="/docs">API</a> and the command <code>perdure</code> work without it.</p></html>'
)


class _Page(StringConvertor):
    """Any path but those below /api and /docs, and but a file's at the top, such as /favicon.ico."""

    regex = r"(?!(?:api|docs)(?:/|$))[^/.]*(?:/.*)?"


register_url_convertor("page", _Page())


@router.api_route("/{path:page}", methods=["GET", "HEAD"])
@anyone_may
def page(path: str) -> Response:
    """The same for each address: the console finds out by itself what to show there."""
    headers = {"Content-Security-Policy": POLICY}
    try:
        return HTMLResponse((BUILT / "index.html").read_bytes(), headers=headers)
    except FileNotFoundError:
        return HTMLResponse(NOT_BUILT, HTTPStatus.SERVICE_UNAVAILABLE)


class _Files(StaticFiles):
    """Hashed files: kept for ever by browsers, and sent as they were compressed when they were built."""

    async def check_config(self) -> None:
        """Without a built console there is no folder, and no file in it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        compressed = f"{path}.gz"
        if "gzip" in Headers(scope=scope).get("accept-encoding", "") and self.lookup_path(compressed)[1] is not None:
            response = await super().get_response(compressed, scope)
            response.headers["Content-Encoding"] = "gzip"
            response.headers["Content-Type"] = _TYPES.get(os.path.splitext(path)[1], "application/octet-stream")
        else:
            response = await super().get_response(path, scope)
        response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = FOR_EVER
        return response


_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def add_to(app: FastAPI) -> None:
    """Serve the files, and last of all the page: its route matches what no other does."""
    app.mount("/assets", _Files(directory=BUILT / "assets", check_dir=False), name="console-assets")
    app.include_router(router)
