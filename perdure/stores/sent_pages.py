"""What need not be read again for the next upload: pages that the page index says are as they were.

Reading, cutting and hashing all of a job's memory costs half a second of a processor for each GiB, whatever changed.
The page index (perdure/image/pages/index.py) has a fingerprint of every page, made while the job stood still; with the
same seed, equal fingerprints are equal pages, as they are where checkpoints share pages on a volume. A full checkpoint
has a new seed, and is read as a whole.

Where some pages of a chunk have changed, the others are parts of that chunk still, and are not sent again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from perdure.image.pages.index import PageIndex
from perdure.image.pages.prints import PAGE

_CHUNK = struct.Struct("<II32sBB")
"""First page in the file, pages, BLAKE3 of the whole chunk; pages of it before these, and all of its pages."""
_MARK = 8
"""Bytes of a fingerprint that are kept: half. Each is compared with one other alone, so 64 bits are enough."""
_WORTH = 16
"""A part that is less than this fraction of its chunk is sent again: a restore reads all of the chunk for it."""
Chunk = tuple[int, int, bytes]
"""Begin and end in the file, and which chunk: its BLAKE3; of a part, a byte more for its pages before, and its own."""
Cut = tuple[int, int, bytes, int]
"""The same, and the bytes of the whole chunk."""
DIGEST = 32


class SentPages:
    """Of the files of one checkpoint that is in the store: where their chunks were cut, and marks of their pages. 42
    bytes for each chunk and 8 for each page."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytes, bytes]] = {}

    def note(self, path: str, index: PageIndex, chunks: Iterable[Cut]) -> None:
        """The file, whose index this is, was cut into these chunks, which rise."""
        noted = []
        for begin, end, which, size in chunks:
            if begin % PAGE or end % PAGE or size % PAGE:
                continue
            skip = which[DIGEST] if len(which) > DIGEST else 0
            noted.append(_CHUNK.pack(begin // PAGE, (end - begin) // PAGE, which[:DIGEST], skip, size // PAGE))
        self._files[path] = index.seed, b"".join(noted), _marks(index)

    def unchanged(self, path: str, index: PageIndex) -> Iterator[Chunk]:
        """Chunks and parts of chunks that the file still has at the same places, by the index that it has now; they
        rise."""
        seed, chunks, marks = self._files.get(path, (index.seed, b"", b""))
        if seed != index.seed:
            return
        now = _marks(index)
        for first, pages, digest, skip, size in _CHUNK.iter_unpack(chunks):
            if first + pages > index.pages:
                return
            begin, end = first * _MARK, (first + pages) * _MARK
            if marks[begin:end] == now[begin:end]:
                yield _chunk(first, pages, digest, skip, size)
                continue
            for at, count in _runs(marks[begin:end], now[begin:end]):
                if count * _WORTH >= size:
                    yield _chunk(first + at, count, digest, skip + at, size)


def _chunk(first: int, pages: int, digest: bytes, skip: int, size: int) -> Chunk:
    part = b"" if pages == size else bytes((skip, pages))
    return first * PAGE, (first + pages) * PAGE, digest + part


def _runs(before: bytes, now: bytes) -> Iterator[tuple[int, int]]:
    """Runs of equal marks, as (first, how many)."""
    first = 0
    for at in range(0, len(now) + _MARK, _MARK):
        if before[at : at + _MARK] != now[at : at + _MARK] or at == len(now):
            if at // _MARK > first:
                yield first, at // _MARK - first
            first = at // _MARK + 1


def _marks(index: PageIndex) -> bytes:
    return memoryview(index.prints).cast("Q")[::2].tobytes()
