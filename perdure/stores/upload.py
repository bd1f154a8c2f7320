"""Bringing a checkpoint into a store: cut, look what is there, pack, send; the manifest last, and only if nobody was
quicker.

    read and cut (one thread) → pack (some threads) → fill packs (the first thread again) → send (some threads)

Of the memory, what the last upload sent and a page index says to be unchanged is not even read (sent_pages.py).
A chunk waits for nobody but the ones before it, and no more than some packs are in memory at a time, however large the
job is. Cut short at any moment, nothing of it is a checkpoint; what was sent is found again by the next try.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from perdure.domain.checkpoints import Manifest
from perdure.domain.errors import ImageInvalid
from perdure.garbage import rarely_collected
from perdure.image.manifest import encode_name
from perdure.image.pages.index import PageIndex, read_index
from perdure.image.pages.prints import PAGE
from perdure.stores import codecs
from perdure.stores.bandwidth import NO_DEADLINE, Bandwidth
from perdure.stores.cutting import LARGEST, cuts, data
from perdure.stores.known_chunks import KnownChunks
from perdure.stores.layout import Place
from perdure.stores.objects import Objects
from perdure.stores.packs import FULL, PackBuilder, Row
from perdure.stores.patience import Stopped
from perdure.stores.sent_pages import DIGEST, Chunk, Cut, SentPages, marks_of
from perdure.stores.stored_manifest import CHECKPOINT, HOLE, Entry, PackRef, Sizes, StoredManifest
from perdure.stores.tree import scan

PACKERS = 2
_BLOCK = 1 << 20
"""Bytes read at a time."""
_ARENA = 4 << 20
"""Bytes of a buffer that is read into; its new chunks are packed as one batch."""
_BATCHES = 4
"""Batches in memory beside the packs that are being sent."""


_Row = tuple[int, bytes, int, codecs.Codec, bytes | memoryview]
"""Number, BLAKE3, size, way and bytes as stored."""


@dataclass(frozen=True)
class _Packed:
    """A batch as stored; what is kept raw lies in the arena still."""

    rows: list[_Row]
    arena: bytearray


class Upload:
    """One checkpoint on its way into a store. `run` is called once; it blocks."""

    def __init__(
        self,
        objects: Objects,
        place: Place,
        known: KnownChunks,
        choice: codecs.CodecChoice,
        bandwidth: Bandwidth,
        *,
        deadline: float = NO_DEADLINE,
        stop: threading.Event | None = None,
        before: SentPages | None = None,
    ) -> None:
        """`before`: what the last upload of this job noted in its `sent`."""
        self._objects, self._place, self._known, self._choice = objects, place, known, choice
        self._before, self.sent = before or SentPages(), SentPages()
        self._bandwidth, self._deadline = bandwidth, deadline
        self._stop = stop or threading.Event()
        self._cut: list[Cut] | None = None
        """Of the pages file that is being taken."""
        self._ids: dict[bytes, int] = {}
        self._found: list[tuple[PackRef, Row] | None] = []
        """Where each chunk lies, by its number; None while it is on its way."""
        self._arenas: list[bytearray] = []
        self._arena = bytearray(_ARENA)
        self._used = 0
        self._batch: list[tuple[int, bytes, memoryview]] = []
        """New chunks in the arena."""
        self._packing: deque[Future[_Packed]] = deque()
        self._buffers: list[bytearray] = []
        self._builder = PackBuilder()
        self._filled: list[int] = []
        """Numbers of the chunks in the pack that is being filled."""
        self._sending: deque[Future[None]] = deque()
        self._wrote = 0
        self._new: set[bytes] = set()
        self._active = 0
        self._counting = threading.Lock()

    @rarely_collected()
    def run(self, job_root: Path, folder: Path, checkpoint: Manifest) -> StoredManifest:
        """Send all that the checkpoint in `folder` needs and the store has not; its manifest is the caller's to put.

        Raises the store's errors, ImageInvalid if a file is not what it was said to be, Stopped.
        """
        packers = ThreadPoolExecutor(PACKERS, "pack")
        senders = ThreadPoolExecutor(self._bandwidth.at_once, "send")
        self._packers, self._senders = packers, senders
        try:
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
            self._fill(0)
            self._send_pack()
            while self._sending:
                self._sending.popleft().result()
        finally:
            for pool in (packers, senders):
                pool.shutdown(wait=True, cancel_futures=True)
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
            for begin, end in data(descriptor, size):
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
            if self._used > _ARENA - LARGEST:
                self._next_arena(start)
                start = 0
            arena, used = memoryview(self._arena), self._used
            count = os.preadv(descriptor, [arena[used : min(used + _BLOCK, _ARENA, used + end - begin)]], begin)
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
            packing = self._packers.submit(self._pack, self._batch, self._arena, self._choice.to_try())
            self._packing.append(packing)
            self._batch = []
            self._fill(_BATCHES)
            self._arena = self._arenas.pop() if self._arenas else bytearray(_ARENA)
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

    def _pack(
        self, batch: list[tuple[int, bytes, memoryview]], arena: bytearray, to_try: codecs.Codec | None
    ) -> _Packed:
        rows, sample, size = [], 0, 0
        if to_try is not None:
            while sample < len(batch) and size < codecs.SAMPLE:
                size += len(batch[sample][2])
                sample += 1
            rows = self._packed(batch[:sample], to_try)
        return _Packed([*rows, *self._packed(batch[sample:], self._choice.best)], arena)

    def _packed(self, batch: list[tuple[int, bytes, memoryview]], codec: codecs.Codec) -> list[_Row]:
        began = time.thread_time()
        rows = [(number, digest, len(chunk), *codecs.pack(codec, chunk)) for number, digest, chunk in batch]
        before, after = sum(row[2] for row in rows), sum(len(row[4]) for row in rows)
        self._choice.packed(codec, before, after, time.thread_time() - began)
        return rows

    def _fill(self, leave: int) -> None:
        """Put packed batches into packs, until no more than `leave` are on their way."""
        while len(self._packing) > leave or (self._packing and self._packing[0].done()):
            packed = self._packing.popleft().result()
            for number, digest, size, codec, stored in packed.rows:
                if not self._builder.fits(len(stored)):
                    self._send_pack()
                self._filled.append(number)
                if self._builder.add(digest, size, codec, stored) >= FULL:
                    self._send_pack()
            self._arenas.append(packed.arena)

    def _send_pack(self) -> None:
        if not self._filled:
            return
        builder, numbers = self._builder, self._filled
        self._builder, self._filled = PackBuilder(self._buffers.pop() if self._buffers else None), []
        pack_id, content = builder.close()
        pack = PackRef(self._place.folder, pack_id, len(content))
        for number, row in zip(numbers, builder.rows, strict=True):
            self._found[number] = (pack, row)
        while len(self._sending) > self._bandwidth.at_once:
            self._sending.popleft().result()
        self._sending.append(self._senders.submit(self._send, pack, content, builder))

    def _send(self, pack: PackRef, content: memoryview, builder: PackBuilder) -> None:
        with self._bandwidth.turn(self._deadline):
            self._go_on()
            with self._counting:
                self._active += 1
            began, beside = time.monotonic(), self._active
            try:
                self._objects.put(self._place.pack_of(pack.folder, pack.pack_id), content)
            finally:
                with self._counting:
                    self._active -= 1
        self._choice.sent(len(content) * beside, time.monotonic() - began)
        with self._counting:
            self._known.add(pack, builder.rows)
            self._wrote += len(content)
            self._buffers.append(builder.buffer)

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
        sizes = Sizes(holds=holds, wrote=self._wrote, shares=shares)
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
