"""Keyset paging: a page and an opaque cursor to the next one, equally fast anywhere in a long list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from perdure.domain.errors import ConfigurationInvalid

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a list; `next` asks for what follows and is None at the end. A page may be short, even empty, while
    `next` is not None."""

    items: list[T]
    next: str | None = None


def fingerprint(*question: object) -> str:
    """What a list was asked for, in few characters: a cursor that bears it fits no other list."""
    return hashlib.sha256(repr(question).encode()).hexdigest()[:12]


def encode_cursor(*key: str | int) -> str:
    """An opaque cursor that says after which key to go on."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[str | int]:
    """The key in a cursor of ours, of exactly these types. Raises ConfigurationInvalid for anything else, such as a
    number or text that no database takes."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    if (
        not isinstance(key, list)
        or [type(part) for part in key] != list(types)
        or not all(_storable(part) for part in key)
    ):
        raise ConfigurationInvalid(f"{cursor[:40]!r} is not a cursor of this list; ask for the first page again")
    return key


def decode_bound_cursor(cursor: str, of: str, *types: type) -> list[str | int]:
    """The same for a cursor that begins with the fingerprint `of` its list, which is left out of the answer."""
    found, *key = decode_cursor(cursor, str, *types)
    if found != of:
        raise ConfigurationInvalid(
            "the cursor belongs to a list with other filters or another order; ask for the first page again"
        )
    return key


def _storable(part: str | int) -> bool:
    if isinstance(part, int):
        return -(2**63) <= part < 2**63
    return "\0" not in part and not any("\ud800" <= character <= "\udfff" for character in part)
