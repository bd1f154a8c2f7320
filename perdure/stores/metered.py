"""A store with a meter on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perdure.stores.meter import Meter
from perdure.stores.objects import Content, Listed, Objects


class Metered(Objects):
    """`store` with a meter that sees what its calls change."""

    def __init__(self, store: Objects, meter: Meter) -> None:
        self._store, self._meter = store.counted_by(meter), meter

    def counted_by(self, meter: Meter) -> Objects:
        return self._store.counted_by(meter)

    @property
    def place(self) -> str:
        return self._store.place

    def put(self, key: str, content: Content) -> None:
        self._store.put(key, content)
        self._meter.put(key, len(content))

    def put_new(self, key: str, content: Content) -> None:
        self._store.put_new(key, content)
        self._meter.put(key, len(content))

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._store.get(key, offset, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        found = [*self._store.list(prefix)]
        self._meter.listed(prefix, {one.key: one.size for one in found})
        yield from found

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._store.delete(wanted)
        self._meter.gone(wanted)

    def check(self) -> None:
        self._store.check()

    def close(self) -> None:
        self._store.close()
