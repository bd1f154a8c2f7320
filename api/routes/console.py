"""The console: one page for every address that is not the API's, and the files that it is made of.

The page holds nothing worth hiding, so a stranger gets it too; it then asks who they are, and sends them to sign in.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
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
def page(request: Request, path: str) -> Response:
    """The same for each address: the console finds out by itself what to show there. What that needs is named beside
    it, so that browsers ask for it at once; answers of the API only to those who may have them."""
    headers = {"Content-Security-Policy": POLICY}
    links = [*_code(path), *(_data(path) if request.state.principal else [])]
    if links:
        headers["Link"] = ", ".join(links)
    try:
        return HTMLResponse((BUILT / "index.html").read_bytes(), headers=headers)
    except FileNotFoundError:
        return HTMLResponse(NOT_BUILT, HTTPStatus.SERVICE_UNAVAILABLE)


def _code(path: str) -> list[str]:
    """Links to the files of the page at this path, which begins without a slash."""
    manifest = BUILT / "manifest.json"
    try:
        changed = manifest.stat().st_mtime_ns
    except FileNotFoundError:
        return []
    name, _, one = path.partition("/")
    folder = ONE_OF.get(name, name) if one else name or "dashboard"
    files = _files_by_folder(manifest, changed).get(folder, [])
    return [
        f"</{file}>; rel={'modulepreload' if file.endswith('.js') else 'preload; as=style'}; crossorigin"
        for file in files
    ]


ONE_OF = {"jobs": "job", "nodes": "node"}
"""The folder of the page of one of them (console/src/pages)."""


@functools.lru_cache(maxsize=2)
def _files_by_folder(manifest: Path, changed: int) -> dict[str, list[str]]:
    """What each page needs beside what every page needs, as Vite wrote it down. `changed`: a console that is built
    anew is looked at anew."""
    known = json.loads(manifest.read_bytes())
    everywhere = _needed(known, (name for name, one in known.items() if one.get("isEntry")))
    pages = {name.split("/")[2]: name for name in known if re.fullmatch("src/pages/[^/]+/index.tsx", name)}
    return {
        folder: [file for file in _needed(known, [name]) if file not in everywhere] for folder, name in pages.items()
    }


def _needed(manifest: dict[str, dict[str, list[str]]], names: Iterable[str]) -> list[str]:
    """Files of these modules and of all that they import at once."""
    found: dict[str, None] = {}
    left = list(names)
    seen = set(left)
    while left:
        module = manifest[left.pop()]
        found |= dict.fromkeys([str(module["file"]), *module.get("css", [])])
        left += [name for name in module.get("imports", []) if name not in seen]
        seen.update(module.get("imports", []))
    return list(found)


def _data(path: str) -> list[str]:
    """Links to what the page of one job or node asks for first."""
    name, _, one = path.partition("/")
    if name not in ONE_OF or not one or "/" in one:
        return []
    address = f"/api/v1/{name}/{quote(one, safe=_AS_BROWSERS)}"
    asked = [address, f"{address}/life-line"] if name == "jobs" else [address]
    return [f"<{one}>; rel=preload; as=fetch; crossorigin" for one in asked]


_AS_BROWSERS = "!'()*-._~"
"""What `encodeURIComponent` leaves as it is: an address that differs is asked for twice."""


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
