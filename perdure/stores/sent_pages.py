"""What need not be read again for the next upload: pages that the page index says are as they were.

Reading, cutting and hashing all of a job's memory costs half a second of a processor for each GiB, whatever changed.
The page index (perdure/image/pages/index.py) has a fingerprint of every page, made while the job stood still; with the
same seed, equal fingerprints are equal pages, as they are where checkpoints share pages on a volume. A full checkpoint
has a new seed: it is read as a whole, for fingerprints by the seed before.

Where some pages of a chunk have changed, the others are parts of that chunk still, and are not sent again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.manifest import encode_name
from perdure.image.pages.index import PageIndex, read_index
from perdure.image.pages.prints import PAGE, print_of
from perdure.stores.stored_manifest import CHECKPOINT, HOLE, Entry, StoredManifest

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
_BLOCK = 1 << 20


class SentPages:
    """Of the files of one checkpoint that is in the store: where their chunks were cut, and marks of their pages. 42
    bytes for each chunk and 8 for each page."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytes, bytes]] = {}

    @classmethod
    def of(cls, stored: StoredManifest, folder: Path) -> SentPages:
        """As the upload of this checkpoint noted them. It lies in `folder`, as it was brought back. Left out is what of
        it cannot be read."""
        sent = cls()
        indexed = {f"{CHECKPOINT}/{encode_name(one.path)}": one for one in stored.checkpoint.images if one.index}
        for entry in stored.entries:
            image = indexed.get(entry.path)
            if image is None:
                continue
            try:
                index = read_index(folder / image.index, image.blake3)
            except ImageInvalid:
                continue
            if index.pages * PAGE == entry.size:
                sent.note(entry.path, index, _cuts(stored, entry))
        return sent

    def note(self, path: str, index: PageIndex, chunks: Iterable[Cut]) -> None:
        """The file, whose index this is, was cut into these chunks, which rise."""
        noted = []
        for begin, end, which, size in chunks:
            if begin % PAGE or end % PAGE or size % PAGE:
                continue
            skip = which[DIGEST] if len(which) > DIGEST else 0
            noted.append(_CHUNK.pack(begin // PAGE, (end - begin) // PAGE, which[:DIGEST], skip, size // PAGE))
        self._files[path] = index.seed, b"".join(noted), _marks(index)

    def unchanged(self, path: str, index: PageIndex, marks_by: Callable[[int], bytes]) -> Iterator[Chunk]:
        """Chunks and parts of chunks that the file still has at the same places, by the index that it has now; they
        rise. `marks_by` makes the marks of its pages by another seed."""
        seed, chunks, marks = self._files.get(path, (index.seed, b"", b""))
        if not chunks:
            return
        now = _marks(index) if seed == index.seed else marks_by(seed)
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


def marks_of(path: Path, pages: int, seed: int, go_on: Callable[[], None]) -> bytes:
    """The marks of a pages file by that seed. `go_on` is called for each MiB, and may raise."""
    found, block = [], memoryview(bytearray(_BLOCK))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW), buffering=0) as file:
        while count := file.readinto(block):
            go_on()
            found += [print_of(block[at : at + PAGE], seed)[:_MARK] for at in range(0, count, PAGE)]
    return b"".join(found[:pages])


def _cuts(stored: StoredManifest, entry: Entry) -> Iterator[Cut]:
    position = 0
    for first, count in entry.runs:
        if first == HOLE:
            position += count
            continue
        for _, row in stored.chunks[first : first + count]:
            which = row.blake3 + bytes((row.skip, row.pages)) if row.pages else row.blake3
            yield position, position + row.length, which, row.size
            position += row.length


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
