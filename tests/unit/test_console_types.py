"""The OpenAPI document that the console's types are generated of is that of this API."""

from __future__ import annotations

from scripts.openapi import DOCUMENT, document


def test_the_committed_document_is_that_of_the_api() -> None:
    assert DOCUMENT.read_text() == document(), "the API has changed: run `make openapi`, and commit what it wrote"
