"""Where a file is cut into chunks: by what it holds, at whole pages, so that equal runs of pages make equal chunks.

A heap that grows in front of everything else moves all pages of an image. Cut at fixed places, no chunk would then be
one that the store has; cut by content, all but those at the edges are (docs/performance.md, "Stores").
"""

from __future__ import annotations

import zlib

PAGE = 4096
SMALLEST, LARGEST = 2 * PAGE, 64 * PAGE
_LOOKED_AT = 512
"""Bytes of a page that decide. Which pages end a chunk changes nothing but what can be shared."""
_ONE_IN = 0x07
"""One page in eight ends a chunk: 36 KiB on the average. Of a memory with 5 % of its pages changed here and there, two
thirds of such chunks are as before."""


def cuts(block: memoryview, *, final: bool) -> list[int]:
    """The ends of the chunks in `block`, rising. What lies behind the last end is no whole chunk yet: it belongs before
    the next block. With `final` there is no next one, and the last end is the block's."""
    ends: list[int] = []
    begin, size, crc32 = 0, len(block), zlib.crc32
    position = SMALLEST
    while position <= size:
        last = position - PAGE
        if position - begin >= LARGEST or not crc32(block[last : last + _LOOKED_AT]) & _ONE_IN:
            ends.append(position)
            begin = position
            position += SMALLEST
        else:
            position += PAGE
    if final and size > begin:
        ends.append(size)
    return ends
