"""Writes the API's OpenAPI document to console/openapi.json, of which the console's client types are generated."""

from __future__ import annotations

import json
from pathlib import Path

from api.app import create_app
from perdure.settings import ApiSettings

DOCUMENT = Path(__file__).parents[1] / "console" / "openapi.json"


def document() -> str:
    """The document as it is committed. One key a line, so that a change of the API is a diff that people can read."""
    return json.dumps(create_app(ApiSettings()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
