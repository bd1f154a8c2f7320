"""What need not be read again for the next upload: chunks whose pages the page index says are as they were.

Reading, cutting and hashing all of a job's memory costs half a second of a processor for each GiB, whatever changed.
The page index (perdure/image/pages/index.py) has a fingerprint of every page, made while the job stood still; with the
same seed, equal fingerprints are equal pages, as they are where checkpoints share pages on a volume. A full checkpoint
has a new seed, and is read as a whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from blake3 import blake3

from perdure.image.pages.index import PageIndex
from perdure.image.pages.prints import PAGE, PRINT

_CHUNK = struct.Struct("<QQ32s16s")
"""Begin and end in the file, BLAKE3, and a mark of its pages' fingerprints."""
Chunk = tuple[int, int, bytes]
"""Begin, end, BLAKE3."""


class SentPages:
    """Of the files of one checkpoint that is in the store: where their chunks were cut. 64 bytes for each chunk."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytes]] = {}

    def note(self, path: str, index: PageIndex, chunks: Iterable[Chunk]) -> None:
        """The file, whose index this is, was cut into these chunks, which rise."""
        marked = (_CHUNK.pack(begin, end, digest, _mark(index, begin, end)) for begin, end, digest in chunks)
        self._files[path] = index.seed, b"".join(marked)

    def unchanged(self, path: str, index: PageIndex) -> Iterator[Chunk]:
        """Those chunks of the file that it still has at the same places, by the index that it has now; they rise."""
        seed, chunks = self._files.get(path, (index.seed, b""))
        if seed != index.seed:
            return
        for begin, end, digest, mark in _CHUNK.iter_unpack(chunks):
            if end > index.pages * PAGE:
                return
            if _mark(index, begin, end) == mark:
                yield begin, end, digest


def _mark(index: PageIndex, begin: int, end: int) -> bytes:
    """The page before the chunk counts too: it is the one that ended the chunk before, so that this one begins where a
    reader of everything would cut."""
    first = max(0, begin // PAGE - 1)
    return blake3(memoryview(index.prints)[first * PRINT : end // PAGE * PRINT]).digest(length=16)
