"""Packs: objects of 8 to 16 MiB that hold many chunks (docs/image-format.md, "Pack").

    0   8  magic `PDRPACK\\n`     8  2  version (1)     10 6  zero
    16  …  the chunks as stored, one after the other
    …   48 each: BLAKE3 of the chunk (32), offset (4), bytes as stored (4), bytes (4), codec (1), zero (3)
    -48    count of chunks (4), zero (4), BLAKE3 of the table (32), magic `PDREND.\\n` (8)

A manifest names each chunk's place itself. The table is for a pack that has lost its manifests, or not got one yet: an
upload that was cut short goes on with the packs that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from blake3 import blake3

from perdure.domain.errors import ImageInvalid
from perdure.stores import codecs
from perdure.stores.cutting import LARGEST, PAGE

VERSION = 1
FULL = 8 << 20
"""Bytes at which a pack is closed. No pack gets larger than LARGEST_PACK."""
LARGEST_PACK = 16 << 20
_BUFFER = FULL + (1 << 20)
"""Bytes: a pack that is not full yet, and the largest chunk that cutting.py makes."""
MAGIC, END = b"PDRPACK\n", b"PDREND.\n"
HEAD = struct.Struct("<8sH6x")
_ROW = struct.Struct("<32sIIIB3x")
_TAIL = struct.Struct("<I4x32s8s")
_MOST_ROWS = LARGEST_PACK // _ROW.size
_TAIL_GUESS = 64 << 10
"""Bytes at a pack's end that are read first: the tables of most packs fit."""


class Row(NamedTuple):
    """One chunk in a pack: its BLAKE3, where it lies, its size there and unpacked (bytes), and how it is packed. A
    manifest may name a part of one: `pages` of its pages, after `skip` of them; 0 is all of it."""

    blake3: bytes
    offset: int
    stored: int
    size: int
    codec: int
    skip: int = 0
    pages: int = 0

    @property
    def length(self) -> int:
        """Bytes that it stands for."""
        return self.pages * PAGE or self.size

    @property
    def whole(self) -> Row:
        """The chunk that this is a part of."""
        return self._replace(skip=0, pages=0) if self.pages else self


class PackBuilder:
    """A pack that is being filled, in a buffer of _BUFFER bytes that may be used again afterwards: new memory
    costs more than what is written into it. One thread."""

    def __init__(self, buffer: bytearray | None = None) -> None:
        self.buffer = buffer if buffer is not None else bytearray(_BUFFER)
        self._view = memoryview(self.buffer)
        self._end = HEAD.size
        self.size = HEAD.size + _TAIL.size
        """Bytes so far, its table included."""
        HEAD.pack_into(self.buffer, 0, MAGIC, VERSION)
        self.rows: list[Row] = []

    def fits(self, stored: int) -> bool:
        """Has it room for a chunk of so many bytes as stored?"""
        return self.size + stored + _ROW.size <= _BUFFER

    def add(self, digest: bytes, size: int, codec: int, stored: bytes | memoryview) -> int:
        """Put a chunk in; `fits` was asked. Returns `size`."""
        begin, length = self._end, len(stored)
        self._end = end = begin + length
        self._view[begin:end] = stored
        self.rows.append(Row(digest, begin, length, size, codec))
        self.size += length + _ROW.size
        return self.size

    def close(self) -> tuple[str, memoryview]:
        """The pack's id, by which the same chunks in the same order are the same pack, and its bytes."""
        table = b"".join(_ROW.pack(row.blake3, row.offset, row.stored, row.size, row.codec) for row in self.rows)
        digest = blake3(table).digest()
        table += _TAIL.pack(len(self.rows), digest, END)
        whole = self._end + len(table)
        self._view[self._end : whole] = table
        return digest.hex()[:32], self._view[:whole]


def read_table(get: Callable[[int, int], bytes], size: int, name: str) -> list[Row]:
    """The table of a pack of `size` bytes; `get` reads (offset, length). ImageInvalid, with `name` and offset."""
    if not HEAD.size + _TAIL.size <= size <= LARGEST_PACK:
        raise ImageInvalid(f"{name}: a pack has no {size} bytes")
    begin = max(0, size - _TAIL_GUESS)
    end = get(begin, size - begin)
    if len(end) != size - begin:
        raise ImageInvalid(f"{name} ends at byte {begin + len(end)} instead of {size}: it is cut off")
    count, digest, magic = _TAIL.unpack_from(end, len(end) - _TAIL.size)
    if magic != END:
        raise ImageInvalid(f"{name}, byte {size - len(END)}: this is no pack of Perdure, or it is cut off")
    start = size - _TAIL.size - count * _ROW.size
    if count > _MOST_ROWS or start < HEAD.size:
        raise ImageInvalid(f"{name}, byte {size - _TAIL.size}: it cannot hold {count} chunks")
    head = get(0, HEAD.size) if begin else end
    check_head(head, name)
    table = end[start - begin : -_TAIL.size] if start >= begin else get(start, count * _ROW.size)
    if blake3(table).digest() != digest:
        raise ImageInvalid(f"{name}, byte {start}: its table has a wrong checksum")
    rows = [Row(*fields) for fields in _ROW.iter_unpack(table)]
    for place, row in enumerate(rows):
        check_row(row, f"{name}, byte {start + place * _ROW.size}", start)
    return rows


def check_head(content: bytes, name: str) -> None:
    """ImageInvalid unless it begins as a pack of our version."""
    if len(content) < HEAD.size:
        raise ImageInvalid(f"{name} ends at byte {len(content)}: it is cut off")
    magic, version = HEAD.unpack_from(content)
    if magic != MAGIC:
        raise ImageInvalid(f"{name}, byte 0: this is no pack of Perdure")
    if version != VERSION:
        raise ImageInvalid(f"{name}, byte 8: it has version {version}, this Perdure reads version {VERSION}")


def check_row(row: Row, name: str, end: int) -> None:
    """ImageInvalid unless the row can be one of a pack whose chunks end at byte `end`."""
    if not 0 < row.size <= LARGEST or not 0 < row.stored <= row.size or row.codec not in set(codecs.Codec):
        raise ImageInvalid(f"{name}: a chunk of {row.size} bytes, {row.stored} as stored by way {row.codec}")
    if row.skip * PAGE + row.length > row.size:
        raise ImageInvalid(f"{name}: {row.pages} pages after {row.skip} of a chunk of {row.size} bytes")
    if not HEAD.size <= row.offset <= end - row.stored:
        raise ImageInvalid(f"{name}: a chunk at byte {row.offset}, outside of its pack")


def open_chunk(row: Row, stored: memoryview, name: str) -> bytes | memoryview:
    """The chunk, all of it and verified. ImageInvalid, with `name` (the pack) and the offset in it."""
    chunk = codecs.unpack(row.codec, stored, row.size) if len(stored) == row.stored else None
    if chunk is None:
        raise ImageInvalid(f"{name}, byte {row.offset}: the chunk there does not unpack to {row.size} bytes")
    if blake3(chunk).digest() != row.blake3:
        raise ImageInvalid(f"{name}, byte {row.offset}: the chunk there has a wrong checksum: it is damaged")
    return chunk
