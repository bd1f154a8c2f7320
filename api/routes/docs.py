"""The interactive API pages at /docs, complete without the internet: Swagger UI's files come from a package."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

from api.auth.rules import anyone_may
from api.dependencies import PerhapsAsking, ToSignIn
from perdure.domain.errors import NotSignedIn

ASSETS = "/docs/assets"


def add_to(app: FastAPI) -> None:
    """Serve /docs and its files."""
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title="Perdure API",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body).decode())
    app.mount(ASSETS, StaticFiles(directory=_files()), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    @anyone_may
    def docs(asking: PerhapsAsking, elsewhere: ToSignIn) -> Response:
        if asking is None and elsewhere is None:
            raise NotSignedIn("Nobody is signed in: the API pages need an API token or a sign-in, too.")
        return elsewhere or page


def _files() -> Path:
    """The package's folder of files. It is not imported: only its files are wanted."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise RuntimeError("the package fastapi-offline is not installed: run `make setup`")
    return Path(package.origin).parent / "static"


def _policy(html: str) -> str:
    """Allows the page's own inline script by its hash, and what Swagger UI draws; nothing from elsewhere."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
        f"script-src 'self' {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
