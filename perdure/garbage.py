"""Python's search for garbage, where it costs more than it finds.

The collector goes through all young objects each time that 700 more were made than dropped, and now and then through
all that there are. What makes hundred thousands of small objects and keeps them to its end is slowed down by it: a
first upload took 0.85 seconds of a processor for each GiB with it, and 0.55 without (docs/performance.md, "Stores").
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_RARELY = (100_000, 50, 1000)
"""Thresholds (gc.set_threshold). What is garbage is still found, later: each of those objects takes 50 to 200 bytes."""
_lock = threading.Lock()
_inside: list[tuple[int, int, int]] = []
"""The thresholds as they were, once for each that is inside."""


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Inside, the whole process looks for garbage more rarely. May be entered by several threads at a time."""
    with _lock:
        _inside.append(_inside[0] if _inside else gc.get_threshold())
        gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                gc.set_threshold(*before)


def none_while_loading() -> None:
    """For a program, before its other imports: a search takes a fifth of the start and finds nothing. None until
    `keep_what_is_loaded`."""
    gc.disable()


def keep_what_is_loaded() -> None:
    """What is loaded by now stays, and is not gone through any more: that takes a tenth of a second each time, while
    everything else waits."""
    gc.collect()
    gc.freeze()
    gc.enable()
