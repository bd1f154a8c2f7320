"""What one job asks of a store, and what lies there: counted as it happens, for the ledger.

Requests are counted by the store itself, where they are sent (s3.py). Bytes are known from listings, and from what was
put and deleted since: no request is made for the counting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime

from perdure.domain.store_costs import StoreUse


class Meter:
    """One job's. Any thread may call it."""

    def __init__(self) -> None:
        self.store, self.region = "", ""
        self._lock = threading.Lock()
        self._asked = [0, 0, 0]
        self._sizes: dict[str, int] = {}
        """Bytes by key, of what was seen."""
        self._listed: set[str] = set()
        """Prefixes below which everything was seen."""

    def asked(self, *, writes: int = 0, reads: int = 0, key_requests: int = 0) -> None:
        """So many requests were sent, and are billed."""
        with self._lock:
            self._asked = [a + b for a, b in zip(self._asked, (writes, reads, key_requests), strict=True)]

    def put(self, key: str, size: int) -> None:
        """That object is there."""
        with self._lock:
            self._sizes[key] = size

    def gone(self, keys: Iterable[str]) -> None:
        """These are not there any more."""
        with self._lock:
            for key in keys:
                self._sizes.pop(key, None)

    def listed(self, prefix: str, sizes: Mapping[str, int]) -> None:
        """All that is there below the prefix, by key."""
        with self._lock:
            self._sizes = {key: size for key, size in self._sizes.items() if not key.startswith(prefix)}
            self._sizes |= sizes
            self._listed.add(prefix)

    def held(self, prefix: str, listed: str) -> int | None:
        """Bytes below `prefix`; None while nobody has seen all that is below `listed`."""
        with self._lock:
            if listed not in self._listed:
                return None
            return sum(size for key, size in self._sizes.items() if key.startswith(prefix))

    def take(self, use_id: str, at: datetime, held_bytes: int | None) -> StoreUse:
        """What was asked since the last call."""
        with self._lock:
            (writes, reads, key_requests), self._asked = self._asked, [0, 0, 0]
        return StoreUse(
            use_id=use_id,
            at=at,
            store=self.store,
            region=self.region,
            writes=writes,
            reads=reads,
            key_requests=key_requests,
            held_bytes=held_bytes,
        )
