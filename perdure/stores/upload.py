"""Bringing a checkpoint into a store: cut, look what is there, pack, send; the manifest last, and only if nobody was
quicker.

    read and cut (one thread) → pack (some threads) → fill packs (the first thread again) → send (some threads)

From "pack" on it is packing.py's.
Of the memory, what the last upload sent and a page index says to be unchanged is not even read (sent_pages.py).
A chunk waits for nobody but the ones before it, and no more than some packs are in memory at a time, however large the
job is. Cut short at any moment, nothing of it is a checkpoint; what was sent is found again by the next try.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blake3 import blake3

from perdure.domain.checkpoints import Manifest
from perdure.domain.errors import ImageInvalid
from perdure.garbage import rarely_collected
from perdure.image.disk import data_parts
from perdure.image.manifest import encode_name
from perdure.image.pages.index import PageIndex, read_index
from perdure.image.pages.prints import PAGE
from perdure.stores.bandwidth import NO_DEADLINE
from perdure.stores.cutting import LARGEST, cuts
from perdure.stores.packing import ARENA, Batch, Destination, Found, Packing
from perdure.stores.packs import Row
from perdure.stores.patience import Stopped
from perdure.stores.sent_pages import DIGEST, Chunk, Cut, SentPages, marks_of
from perdure.stores.stored_manifest import CHECKPOINT, HOLE, Entry, PackRef, Sizes, StoredManifest
from perdure.stores.tree import scan

_BLOCK = 1 << 20
"""Bytes read at a time."""


class Upload:
    """One checkpoint on its way into a store. `run` is called once; it blocks."""

    def __init__(
        self,
        destination: Destination,
        *,
        deadline: float = NO_DEADLINE,
        stop: threading.Event | None = None,
        before: SentPages | None = None,
    ) -> None:
        """`deadline`: monotonic seconds. `stop`: ends it (Stopped). `before`: what the last upload of this job noted in
        its `sent`."""
        self._known, self._before, self.sent = destination.known, before or SentPages(), SentPages()
        self._stop = stop or threading.Event()
        self._cut: list[Cut] | None = None
        """Of the pages file that is being taken."""
        self._ids: dict[bytes, int] = {}
        self._found: Found = []
        self._new: set[bytes] = set()
        self._arena = bytearray(ARENA)
        self._used = 0
        self._batch: Batch = []
        """New chunks in the arena."""
        self._packing = Packing(destination, self._found, deadline=deadline, go_on=self._go_on)

    @rarely_collected()
    def run(self, job_root: Path, folder: Path, checkpoint: Manifest) -> StoredManifest:
        """Send all that the checkpoint in `folder` needs and the store has not; its manifest is the caller's to put.

        Raises the store's errors, ImageInvalid if a file is not what it was said to be, Stopped.
        """
        with self._packing:
            entries = []
            output = {"stdout": checkpoint.stdio.stdout, "stderr": checkpoint.stdio.stderr}
            indexed = {f"{CHECKPOINT}/{encode_name(one.path)}": one for one in checkpoint.images if one.index}
            for entry, path, size in scan(job_root, folder, output):
                image = indexed.get(entry.path)
                if entry.size and image is not None:
                    self._take_pages(entry, path, size, read_index(folder / image.index, image.blake3))
                elif entry.size:
                    self._take(entry, path, size)
                entries.append(entry)
            self._next_arena(self._used)
            self._packing.finish()
        return self._manifest(entries, checkpoint)

    def _take_pages(self, entry: Entry, path: Path, size: int, index: PageIndex) -> None:
        """A pages file. What it had at the last upload already is not read."""
        if index.pages * PAGE != size:
            raise ImageInvalid(f"{path} has {size} bytes, its index covers {index.pages} pages")
        self._cut = []
        marks_by = partial(marks_of, path, index.pages, go_on=self._go_on)
        self._take(entry, path, size, self._before.unchanged(entry.path, index, marks_by))
        self.sent.note(entry.path, index, self._cut)
        self._cut = None

    def _take(self, entry: Entry, path: Path, size: int, unchanged: Iterator[Chunk] | None = None) -> None:
        unchanged = unchanged or iter(())
        chunk = next(unchanged, None)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            position = 0
            for begin, end in data_parts(descriptor, size):
                if begin > position:
                    entry.runs.append((HOLE, begin - position))
                position = begin
                while chunk is not None and chunk[1] <= end:
                    if chunk[0] >= position and self._known.get(chunk[2][:DIGEST]) is not None:
                        self._read(descriptor, position, chunk[0], entry, path)
                        self._add(chunk, entry)
                        position = chunk[1]
                    chunk = next(unchanged, None)
                self._read(descriptor, position, end, entry, path)
                position = end
            if size > position:
                entry.runs.append((HOLE, size - position))
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, begin: int, end: int, entry: Entry, path: Path) -> None:
        start, at = self._used, begin  # of what is read and not cut yet: in the arena, and in the file
        while begin < end:
            self._go_on()
            if self._used > ARENA - LARGEST:
                self._next_arena(start)
                start = 0
            arena, used = memoryview(self._arena), self._used
            count = os.preadv(descriptor, [arena[used : min(used + _BLOCK, ARENA, used + end - begin)]], begin)
            if not count:
                raise ImageInvalid(f"{path} ended at byte {begin} while it was read")
            begin, self._used = begin + count, used + count
            block = arena[start : self._used]
            cut = self._chunks(block, cuts(block, final=begin >= end), at, entry)
            start, at = start + cut, at + cut

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped("the upload is not wanted any more")

    def _next_arena(self, start: int) -> None:
        """Have what is new in the arena packed, and go on in another one, which begins with what was read from `start`
        on."""
        rest = bytes(memoryview(self._arena)[start : self._used])
        if self._batch:
            self._arena = self._packing.take(self._batch, self._arena)
            self._batch = []
        self._arena[: len(rest)] = rest
        self._used = len(rest)

    def _chunks(self, block: memoryview, ends: list[int], at: int, entry: Entry) -> int:
        """The next chunks of this entry: the block, which lies there in the file, as far as the last end. What the
        store has not goes into the batch. Returns the last end. Written for speed: there are 28,000 in a GiB."""
        ids, found, last = self._ids, self._found, 0
        for end in ends:
            content = block[last:end]
            which = blake3(content).digest()
            number = ids.get(which)
            if number is None:
                number = ids[which] = len(found)
                there = self._known.get(which)
                found.append(there)
                if there is None:
                    self._new.add(which)
                    self._batch.append((number, which, content))
            if self._cut is not None:
                self._cut.append((at + last, at + end, which, end - last))
            _append(entry, number)
            last = end
        return last

    def _add(self, chunk: Chunk, entry: Entry) -> None:
        """The next chunk of this entry, which the store has; or a part of one."""
        begin, end, which = chunk
        number = self._ids.get(which)
        if number is None:
            number = self._ids[which] = len(self._found)
            self._found.append(self._stored(which))
        if self._cut is not None:
            found = self._found[number]
            self._cut.append((begin, end, which, end - begin if found is None else found[1].size))
        _append(entry, number)

    def _stored(self, which: bytes) -> tuple[PackRef, Row] | None:
        found = self._known.get(which[:DIGEST])
        if found is None or len(which) == DIGEST:
            return found
        return found[0], found[1]._replace(skip=which[DIGEST], pages=which[DIGEST + 1])

    def _manifest(self, entries: list[Entry], checkpoint: Manifest) -> StoredManifest:
        packs: dict[PackRef, int] = {}
        chunks, shares = [], 0
        for found in self._found:
            assert found is not None
            pack, row = found
            chunks.append((packs.setdefault(pack, len(packs)), row))
            if row.blake3 not in self._new:
                shares += row.stored * row.length // row.size
        holds = sum(entry.size - sum(size for first, size in entry.runs if first == HOLE) for entry in entries)
        sizes = Sizes(holds=holds, wrote=self._packing.wrote, shares=shares)
        return StoredManifest(checkpoint, list(packs), entries, chunks, sizes)


def _append(entry: Entry, number: int) -> None:
    """The entry goes on with that chunk."""
    runs = entry.runs
    if runs:
        first, count = runs[-1]
        if first + count == number and first != HOLE:
            runs[-1] = (first, count + 1)
            return
    runs.append((number, 1))
