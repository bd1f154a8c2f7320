"""One plan for a node's way to its stores: so many transfers at a time, and whose deadline is nearest goes first.

When AWS takes a node back, all its jobs must be saved within the same two minutes; and a job that is saved on its
rhythm must not slow down one that is saved for its life.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Iterator

NO_DEADLINE = float("inf")
AT_ONCE = 8
"""Transfers of a node at the same time. S3 gives one connection some 80 MB/s (its performance guidelines: 85 to 90)."""


class Bandwidth:
    """Turns for transfers of one node. Threads only."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self._free = at_once
        self._waiting: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, deadline: float = NO_DEADLINE) -> Iterator[None]:
        """Wait for a turn, and have it until the end of the block. The smallest `deadline` (monotonic seconds) of those
        who wait is the next; of equal ones, who came first."""
        ticket = (deadline, next(self._numbers))
        with self._changed:
            heapq.heappush(self._waiting, ticket)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == ticket)
            heapq.heappop(self._waiting)
            self._free -= 1
            self._changed.notify_all()  # another turn may be free
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
