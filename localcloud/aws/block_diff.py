"""Which blocks of two files of one XFS file system are not the same bytes: told by where their bytes lie, without
reading them. A snapshot is a clone, so what was not written since shares its place on the disk with the original.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK = 512 * 1024
"""What EBS compares and moves (EBS direct APIs: a block is 512 KiB)."""
FS_IOC_FIEMAP = 0xC020660B  # linux/fiemap.h, like all below
SYNC, LAST, UNWRITTEN = 0x1, 0x1, 0x800
_HEAD, _EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
_AT_ONCE = 512
Place = tuple[int, int, int]
"""Offset in the block, offset on the disk, length."""


def moved_bytes(new: Path, old: Path | None) -> int:
    """Bytes of the blocks of `new` that hold data and are not those of `old`; of all that hold data without `old`."""
    before = _places(old) if old is not None else {}
    return BLOCK * sum(before.get(block) != places for block, places in _places(new).items())


def _places(path: Path) -> dict[int, list[Place]]:
    """Where each block's data lies; neighbours on the disk are one, however the file system cut them."""
    blocks: dict[int, list[Place]] = {}
    for logical, physical, length in _extents(path):
        while length:
            block, offset = divmod(logical, BLOCK)
            part = min(length, BLOCK - offset)
            places = blocks.setdefault(block, [])
            if places and places[-1][0] + places[-1][2] == offset and places[-1][1] + places[-1][2] == physical:
                places[-1] = (places[-1][0], places[-1][1], places[-1][2] + part)
            else:
                places.append((offset, physical, part))
            logical, physical, length = logical + part, physical + part, length - part
    return blocks


def _extents(path: Path) -> Iterator[tuple[int, int, int]]:
    """(offset in the file, offset on the disk, length) of what was written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start, end = 0, os.fstat(descriptor).st_size
        while start < end:
            buffer = bytearray(_HEAD.pack(start, end - start, SYNC, 0, _AT_ONCE, 0) + bytes(_EXTENT.size * _AT_ONCE))
            fcntl.ioctl(descriptor, FS_IOC_FIEMAP, buffer)
            mapped = _HEAD.unpack_from(buffer)[3]
            flags = LAST
            for index in range(mapped):
                found = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
                logical, physical, length, flags = found[0], found[1], found[2], found[5]
                start = logical + length
                if not flags & UNWRITTEN:
                    yield logical, physical, length
            if flags & LAST:
                return
    finally:
        os.close(descriptor)
