"""TCP connections with bytes that had not been sent when the job was frozen: a writer faster than its reader.

CRIU restores such bytes by really sending them, before the other end of the connection exists again: inside one
container the answer is a reset, and the whole restore fails ("Can't restore not-sent send queue data … Broken pipe",
CRIU 4.2.1, tried). So the images to restore from call them sent but not acknowledged. The kernel then sends them
anew by its own timers, once both ends are there.
"""

from __future__ import annotations

import struct
from pathlib import Path

from worker_agent.engine import criu_image

_MAGIC = 0x51465506
"""CRIU, criu/include/magic.h: TCP_STREAM_MAGIC."""
_UNSENT = 12
"""tcp_stream_entry.unsq_len (images/tcp-stream.proto): how many bytes at the end of the queue were not sent."""
_HEAD = 12
"""Bytes before the message: two magic numbers and its size. After it follow the queues themselves."""


def all_sent(images: Path) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name, so that nothing is sent before its time; mostly none.

    ImageInvalid if one cannot be read. Blocks.
    """
    changed = {}
    for path in sorted(images.glob("tcp-stream-*.img")):
        image = path.read_bytes()
        entry = next(criu_image.entries(image, _MAGIC), b"")
        message = criu_image.parse(entry)
        if criu_image.number(message, _UNSENT):
            sent = criu_image.encode(criu_image.with_field(message, _UNSENT, 0))
            size = struct.pack("<I", len(sent))
            changed[path.name] = image[: _HEAD - 4] + size + sent + image[_HEAD + len(entry) :]
    return changed
