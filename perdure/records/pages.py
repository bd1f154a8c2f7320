"""Keyset paging: a page and an opaque cursor to the next one, equally fast anywhere in a long list."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from perdure.domain.errors import ConfigurationInvalid

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a list; `next` asks for what follows and is None at the end."""

    items: list[T]
    next: str | None = None


def encode_cursor(*key: str | int) -> str:
    """An opaque cursor that says after which key to go on."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[str | int]:
    """The key in a cursor of ours, of exactly these types. Raises ConfigurationInvalid for anything else."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != list(types):
        raise ConfigurationInvalid(f"{cursor[:40]!r} is not a cursor of this list; ask for the first page again")
    return key
