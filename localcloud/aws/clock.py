"""What happens later, and what takes long: one thread that keeps time, and threads that do the work.

The cloud's threading model, whole: one lock (`threading.RLock`, made in cloud.py) guards the memory of Batch, EC2 and
EBS and is held for memory only. Anything slow (launching, losetup, sending to a node) runs in a job given to
`Clock.run` or `Clock.after`, takes the lock only to write down what came of it, and never waits while holding it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

WORKERS = 32
"""Reclaims wait in a worker for minutes, so there are more of these than the machine has cores."""


class Clock:
    """Runs functions, at once or after a delay, on worker threads. A function that raises is logged, once, here."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="cloud")
        self._keeper = threading.Thread(target=self._keep, name="clock", daemon=True)
        self._keeper.start()

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        """Run `work` once, `seconds` from now. Not run at all when the clock is closed before."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), work))
            self._changed.notify()

    def run(self, work: Callable[[], object]) -> None:
        """Run `work` on a worker now. Ignored once the clock is closed."""
        with self._changed:
            if not self._closed:
                self._workers.submit(self._logged, work)

    def close(self) -> None:
        """Drop what is not due yet and wait for what runs."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        self._keeper.join()
        self._workers.shutdown(wait=True)

    def _keep(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._due:
                    self._changed.wait()
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                work = heapq.heappop(self._due)[2]
            self.run(work)

    @staticmethod
    def _logged(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("the cloud could not do a piece of its work")
