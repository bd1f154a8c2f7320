"""Keyset paging: a page and an opaque cursor to the next one, equally fast anywhere in a long list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Integer, String, literal, tuple_, type_coerce

from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.values import microseconds
from perdure.records.schema.tables import Instant

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a list; `next` asks for what follows and is None at the end. A page may be short, even empty, while
    `next` is not None."""

    items: list[T]
    next: str | None = None


Key = tuple[Any, ...]
"""Where an entry stands in a list: the values that the list is sorted by; instants in microseconds since 1970."""


class Keyset:
    """The order of one list, and the way from a page to the next.

    `columns` are what the list is sorted by, all in one direction, the last of them unique. `question` is everything
    that the list was asked for: a cursor holds its fingerprint and fits no list that was asked for something else.
    """

    def __init__(self, *columns: Any, down: bool = False, question: Sequence[object]) -> None:
        self._down = down
        self._types = tuple(
            BigInteger() if isinstance(column.type, Integer | Instant) else String() for column in columns
        )
        self.columns = tuple(type_coerce(column, kind) for column, kind in zip(columns, self._types, strict=True))
        self._fingerprint = hashlib.sha256(repr((*question, down)).encode()).hexdigest()[:12]

    def directed(self, *columns: Any) -> list[Any]:
        """For ORDER BY; with `columns` in place of the list's own, where a query has them under other names."""
        return [column.desc() if self._down else column for column in columns or self.columns]

    def beyond(self, key: Key) -> ColumnElement[bool]:
        """The condition for what follows `key`."""
        here = tuple_(*self.columns)
        there = tuple_(*(literal(value, kind) for value, kind in zip(key, self._types, strict=True)))
        return here < there if self._down else here > there

    def read(self, cursor: str) -> Key:
        """The key in a cursor of ours. Raises ConfigurationInvalid for anything else, such as a number or a text that
        no database takes, and for a cursor of another list."""
        kinds = [str if isinstance(kind, String) else int for kind in self._types]
        found, *key = _decoded(cursor, [str, *kinds])
        if found != self._fingerprint:
            raise ConfigurationInvalid(
                "the cursor belongs to a list with other filters or another order; ask for the first page again"
            )
        return tuple(key)

    def write(self, *key: str | int | datetime) -> str:
        """An opaque cursor that says after which entry to go on."""
        plain = [microseconds(value) if isinstance(value, datetime) else value for value in key]
        return base64.urlsafe_b64encode(json.dumps([self._fingerprint, *plain]).encode()).decode().rstrip("=")

    def page(self, found: Sequence[T], limit: int, key: Callable[[T], Sequence[Any]]) -> Page[T]:
        """The first `limit` of what was found; one more was asked for, to know whether more follow."""
        return Page(list(found[:limit]), self.write(*key(found[limit - 1])) if len(found) > limit else None)


def _decoded(cursor: str, types: list[type]) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != types or not all(map(_storable, key)):
        raise ConfigurationInvalid(f"{cursor[:40]!r} is not a cursor of this list; ask for the first page again")
    return key


def _storable(part: str | int) -> bool:
    if isinstance(part, int):
        return -(2**63) <= part < 2**63
    return "\0" not in part and not any("\ud800" <= character <= "\udfff" for character in part)
