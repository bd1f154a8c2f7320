"""Bringing a stored checkpoint back: each chunk verified as it comes, many at a time, in the order of CRIU's needs."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from perdure.domain.errors import ImageInvalid, JobRootFull, ObjectMissing
from perdure.stores.bandwidth import NO_DEADLINE, Bandwidth
from perdure.stores.cutting import PAGE
from perdure.stores.layout import Place
from perdure.stores.objects import Objects
from perdure.stores.packs import Row, open_chunk
from perdure.stores.patience import Stopped
from perdure.stores.stored_manifest import HOLE, Entry, PackRef, StoredManifest
from perdure.stores.tree import Laying, reading_order

_GAP = 256 << 10
"""Bytes between two wanted chunks that are read along: one request costs more than they do."""
Take = Callable[[int, memoryview], None]
"""Gets a chunk by its number in the manifest. Called from several threads."""


class Fetch:
    """One checkpoint on its way back. Blocks."""

    def __init__(
        self,
        objects: Objects,
        place: Place,
        stored: StoredManifest,
        bandwidth: Bandwidth,
        *,
        deadline: float = NO_DEADLINE,
        stop: threading.Event | None = None,
    ) -> None:
        self._objects, self._place, self._stored = objects, place, stored
        self._bandwidth, self._deadline = bandwidth, deadline
        self._stop = stop or threading.Event()

    def lay_down(self, job_root: Path, folder: Path, limit_bytes: int) -> None:
        """Make the checkpoint's files in `folder` and the job's output in `<job_root>/log`, both ours alone. They are
        not durable yet, and without the checkpoint's own manifest it is a torn one.

        JobRootFull if it has more than `limit_bytes`. ImageInvalid, with pack and offset, if a chunk is missing or
        damaged. The store's errors, Stopped.
        """
        size = self._stored.sizes.holds
        written = sum(_content(entry, self._sizes()) for entry in self._stored.entries)
        if max(size, written) > limit_bytes:
            raise JobRootFull(f"the checkpoint has {written >> 20} MiB, and {limit_bytes >> 20} MiB are free for it")
        laying = Laying(job_root, folder)
        laying.make(self._stored.entries)
        targets = self._targets()
        paths = [laying.path(entry) for entry in self._stored.entries]

        def take(number: int, chunk: memoryview) -> None:
            for place, offset in targets[number]:
                descriptor = os.open(paths[place], os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.pwrite(descriptor, chunk, offset)
                finally:
                    os.close(descriptor)

        self._each(targets, take)
        laying.finish(self._stored.entries)

    def verify(self, without: Collection[PackRef] = ()) -> None:
        """Read everything that a restore would read, but for these packs. ImageInvalid names the first thing that is
        wrong."""
        skipped = {place for place, pack in enumerate(self._stored.packs) if pack in without}
        wanted = [number for number, (pack, _) in enumerate(self._stored.chunks) if pack not in skipped]
        self._each(wanted, lambda number, chunk: None)

    def _sizes(self) -> list[int]:
        before = [0]
        for _, row in self._stored.chunks:
            before.append(before[-1] + row.length)
        return before

    def _targets(self) -> dict[int, list[tuple[int, int]]]:
        """By chunk, in the order in which they are needed, the entries and offsets at which it belongs."""
        entries = self._stored.entries
        found: dict[int, list[tuple[int, int]]] = {}
        for place in sorted(range(len(entries)), key=lambda place: reading_order(entries[place])):
            offset = 0
            for first, count in entries[place].runs:
                if first == HOLE:
                    offset += count
                    continue
                for number in range(first, first + count):
                    found.setdefault(number, []).append((place, offset))
                    offset += self._stored.chunks[number][1].length
        return found

    def _each(self, wanted: Iterable[int], take: Take) -> None:
        """Read the chunks, pack by pack, and hand each one on."""
        by_pack: dict[int, list[int]] = {}
        for number in wanted:
            by_pack.setdefault(self._stored.chunks[number][0], []).append(number)
        work = iter(
            [(pack, part) for pack, numbers in by_pack.items() for part in self._parts(numbers)],
        )
        running: deque[Future[None]] = deque()
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self._bandwidth.at_once, "fetch")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for pack, part in islice(work, 2 * self._bandwidth.at_once):
                running.append(pool.submit(self._read, pack, part, take))
            while running:
                running.popleft().result()
                for pack, part in islice(work, 1):
                    running.append(pool.submit(self._read, pack, part, take))

    def _parts(self, numbers: list[int]) -> list[list[int]]:
        """The chunks of a pack, parted where what lies between them is not worth reading."""
        parts: list[list[int]] = []
        end = 0
        for number in sorted(numbers, key=lambda number: self._row(number).offset):
            row = self._row(number)
            if not parts or row.offset > end + _GAP:
                parts.append([])
            parts[-1].append(number)
            end = max(end, row.offset + row.stored)
        return parts

    def _row(self, number: int) -> Row:
        return self._stored.chunks[number][1]

    def _read(self, pack: int, numbers: list[int], take: Take) -> None:
        if self._stop.is_set():
            raise Stopped("the checkpoint is not wanted any more")
        ref = self._stored.packs[pack]
        key = self._place.pack_of(ref.folder, ref.pack_id)
        begin = self._row(numbers[0]).offset
        end = max(self._row(number).offset + self._row(number).stored for number in numbers)
        with self._bandwidth.turn(self._deadline):
            try:
                content = memoryview(self._objects.get(key, begin, end - begin))
            except ObjectMissing as error:
                raise ImageInvalid(f"{key} is gone from {self._objects.place}: the checkpoint lacks a pack") from error
        if len(content) != end - begin:
            raise ImageInvalid(f"{key} ends at byte {begin + len(content)}: it is cut off")
        before, chunk = -1, memoryview(b"")
        for number in numbers:  # they rise, so that parts of one chunk follow each other
            row = self._row(number)
            if row.offset != before:
                before = row.offset
                chunk = memoryview(open_chunk(row, content[before - begin : before - begin + row.stored], key))
            take(number, chunk[row.skip * PAGE : row.skip * PAGE + row.length])


def _content(entry: Entry, before: list[int]) -> int:
    if entry.kind != stat.S_IFREG:
        return 0
    return sum(before[first + count] - before[first] for first, count in entry.runs if first != HOLE)
