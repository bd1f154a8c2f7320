"""What a store must do: named objects, written once, read in parts. Every store passes tests/unit/test_stores.py.

Calls block and may be made from several threads at once. Errors are those of perdure.domain.errors:

    StoreUnavailable   it did not answer, or asks for patience (503, a time-out): the same call may succeed later, and
                       nobody knows whether this one took effect
    StoreRefused       it will refuse for ever: no such bucket, no right, another owner, a full disk
    ObjectMissing      there is no such object
    ObjectExists       `put_new` found one
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perdure.domain.errors import ConfigurationInvalid
from perdure.stores.meter import Meter

Content = bytes | bytearray | memoryview
LONGEST_KEY = 600
"""Characters. S3 allows 1024 bytes, of which the store's own prefix needs some."""
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Listed:
    """An object as a listing shows it; `size` in bytes."""

    key: str
    size: int


class Objects(ABC):
    """A flat set of objects. A key is words of letters, digits and `._-`, with `/` between them; no word begins with a
    dot. Nothing else of a key's form has a meaning."""

    @abstractmethod
    def put(self, key: str, content: Content) -> None:
        """Store the object under that key, whatever was there. Readers see the whole object or none, never a part; when
        it returns, the object survives the loss of this machine."""

    @abstractmethod
    def put_new(self, key: str, content: Content) -> None:
        """As `put`, but only if nothing is there: of several writers at the same time exactly one succeeds, the others
        get ObjectExists. After a StoreUnavailable the object may be there: who asks again may meet their own."""

    @abstractmethod
    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The object's bytes from `offset` (≥ 0) on, `length` (> 0) of them or up to its end. Fewer, or none, where the
        object ends before. ObjectMissing."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins with `prefix` (empty, or ending with `/`), in no certain order. What was put
        or deleted before the call is seen so; what changes meanwhile may be seen or not."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete these objects. One that is not there is no error. After an error, some may be gone."""

    @abstractmethod
    def check(self) -> None:
        """Is the store there, and may we read it? StoreRefused says what is wrong; StoreUnavailable."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for people: `s3://bucket/prefix` or a folder."""

    @abstractmethod
    def counted_by(self, meter: Meter) -> Objects:
        """The same store, with the same connections, whose requests that meter counts. It learns what the store is."""

    def close(self) -> None:  # noqa: B027 - a store may have nothing to close
        """Let go of connections. No call may follow."""


def check_key(key: str) -> str:
    """The key itself. ConfigurationInvalid unless it has the form of one: a key never leads out of its store."""
    if len(key) > LONGEST_KEY or not _KEY.fullmatch(key):
        raise ConfigurationInvalid(f"{key[:100]!r} is not a key of an object")
    return key


def check_prefix(prefix: str) -> str:
    """The same for a prefix: empty, or a key and `/`."""
    if prefix and not prefix.endswith("/"):
        raise ConfigurationInvalid(f"{prefix[:100]!r} is not a prefix of keys")
    if prefix:
        check_key(prefix[:-1])
    return prefix
