"""How fast a job volume takes checkpoints, by those that lie on it; and so whether a last one can be ready in time.

A refusal costs the job its work since the newest checkpoint, and a vain try costs it nothing. So the fastest pace that
was measured counts, and only dumps that were long enough to tell one.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.checkpoints import ManifestHead

_TELLING = 64 << 20
"""Bytes that went to the disk, from which on a dump tells about the volume; below, starting CRIU takes longer."""
_BY_BYTES = ("predump", "dump", "assemble", "sync", "checksums")
"""Steps that take longer for more bytes."""
_BESIDES = ("pause", "measure", "names", "drain", "clone", "commit")


def seconds_needed(size: int, known: Iterable[ManifestHead]) -> float:
    """At least how many seconds a whole dump of `size` bytes takes from the freeze to the commit, by the checkpoints
    that are `known`; 0 if they tell nothing."""
    telling = [head for head in known if _written(head) >= _TELLING and _seconds(head, _BY_BYTES) > 0]
    if not telling:
        return 0.0
    pace = max(_written(head) / _seconds(head, _BY_BYTES) for head in telling)
    return size / pace + min(_seconds(head, _BESIDES) for head in telling)


def _written(head: ManifestHead) -> int:
    return head.image_bytes if head.written_bytes is None else head.written_bytes


def _seconds(head: ManifestHead, steps: Iterable[str]) -> float:
    return sum(head.phases.get(step, 0.0) for step in steps)
