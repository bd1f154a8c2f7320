"""Trying again: full jitter between tries, within a limit of seconds that the caller sets.

Source of the rule: AWS Architecture Blog, "Exponential Backoff And Jitter". Many nodes that were refused at the same
moment (a zone's reclaims come together) must not come back at the same moment.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from perdure.domain.errors import ObjectExists, StoreUnavailable
from perdure.stores.meter import Meter
from perdure.stores.metered import Metered
from perdure.stores.objects import Content, Listed, Objects

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
"""Seconds; a pause is anything between nothing and this, doubled at each try."""


class Stopped(StoreUnavailable):
    """Whoever waited does not want it any more."""


class Patient(Objects):
    """Asks `store` again while it is unavailable, each call for at most `limit_seconds`; `stop` ends the waiting with
    Stopped. A `put_new` that is asked again after an answer was lost may meet its own object: it looks."""

    def __init__(self, store: Objects, limit_seconds: float = 60.0, stop: threading.Event | None = None) -> None:
        self._store = store
        self._limit = limit_seconds
        self._stop = stop or threading.Event()

    def within(self, limit_seconds: float, stop: threading.Event | None = None) -> Patient:
        """The same store with another patience."""
        return Patient(self._store, limit_seconds, stop)

    def metered(self, meter: Meter) -> Patient:
        """The same store, with a meter that counts each try."""
        return Patient(Metered(self._store, meter), self._limit, self._stop)

    def counted_by(self, meter: Meter) -> Patient:
        return Patient(self._store.counted_by(meter), self._limit, self._stop)

    @property
    def place(self) -> str:
        return self._store.place

    def put(self, key: str, content: Content) -> None:
        self._again(lambda: self._store.put(key, content))

    def put_new(self, key: str, content: Content) -> None:
        asked = 0

        def put() -> None:
            nonlocal asked
            asked += 1
            try:
                self._store.put_new(key, content)
            except ObjectExists:
                if asked == 1 or self._store.get(key) != bytes(content):
                    raise

        self._again(put)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._again(lambda: self._store.get(key, offset, length))

    def list(self, prefix: str) -> Iterator[Listed]:
        # As a whole: a listing that broke off is not gone on with.
        yield from self._again(lambda: [*self._store.list(prefix)])

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._again(lambda: self._store.delete(wanted))

    def check(self) -> None:
        self._again(self._store.check)

    def close(self) -> None:
        self._store.close()

    def _again(self, call: Callable[[], T]) -> T:
        end, pause = time.monotonic() + self._limit, FIRST_PAUSE
        while True:
            if self._stop.is_set():
                raise Stopped(f"{self.place}: not wanted any more")
            try:
                return call()
            except StoreUnavailable:
                rest = random.uniform(0, pause)
                if time.monotonic() + rest > end:
                    raise
                self._stop.wait(rest)
                pause = min(2 * pause, LONGEST_PAUSE)
