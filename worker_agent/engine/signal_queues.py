"""Signals that waited for a process at the dump, as CRIU's images have them.

CRIU cannot restore a SIGCONT that waits: it sends it to a process that it traces, which stops because of it, and the
restore fails ("stopped by signal 5", tried with CRIU 4.2.1). So it restores images without it, and quiet_continue.py
sends it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Field, Message

CORE_MAGIC = 0x55053847
"""CRIU, criu/include/magic.h."""
_QUEUES = ((3, 10), (5, 9))
"""CRIU, images/core.proto: core_entry.tc.signals_s, of the process, and .thread_core.signals_p, of the thread."""
_SIGNALS = 1
_INFO = 1


def waiting(images: Path, pids: Mapping[int, int]) -> dict[int, frozenset[int]]:
    """The signals that waited for each process or its first thread. `pids`: by its number, the one that the container
    gives it. ImageInvalid, OSError. Blocks."""
    return {pid: frozenset(_numbers((images / f"core-{inner}.img").read_bytes())) for pid, inner in pids.items()}


def without_sigcont(images: Path) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name; mostly none. ImageInvalid, OSError. Blocks."""
    changed = {}
    for path in sorted(images.glob("core-*.img")):
        image = path.read_bytes()
        if signal.SIGCONT in _numbers(image):
            entries = [_cleared(criu_image.parse(entry)) for entry in criu_image.entries(image, CORE_MAGIC)]
            changed[path.name] = criu_image.image(CORE_MAGIC, map(criu_image.encode, entries))
    return changed


def _numbers(image: bytes) -> set[int]:
    found: set[int] = set()
    for entry in criu_image.entries(image, CORE_MAGIC):
        core = criu_image.parse(entry)
        for owner, queue in _QUEUES:
            signals = criu_image.part(criu_image.part(core, owner) or [], queue) or []
            found.update(_number(one) for one in signals)
    return found


def _number(one: Field) -> int:
    """si_signo, the first of siginfo's fields."""
    info = criu_image.parse(one.value) if one.number == _SIGNALS and isinstance(one.value, bytes) else []
    raw = next((part.value for part in info if part.number == _INFO and isinstance(part.value, bytes)), b"")
    return int.from_bytes(raw[:4], "little")


def _cleared(core: Message) -> Message:
    for owner, queue in _QUEUES:
        inside = criu_image.part(core, owner)
        signals = criu_image.part(inside, queue) if inside else None
        if inside and signals:
            kept = criu_image.encode([one for one in signals if _number(one) != signal.SIGCONT])
            core = criu_image.with_field(core, owner, criu_image.encode(criu_image.with_field(inside, queue, kept)))
    return core
