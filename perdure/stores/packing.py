"""New chunks on their way into a store: packed by some threads, put into packs, sent by others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from perdure.stores import codecs
from perdure.stores.bandwidth import Bandwidth
from perdure.stores.known_chunks import KnownChunks
from perdure.stores.layout import Place
from perdure.stores.objects import Objects
from perdure.stores.packs import FULL, PackBuilder, Row
from perdure.stores.stored_manifest import PackRef

PACKERS = 2
ARENA = 4 << 20
"""Bytes of a buffer that is read into; its new chunks are packed as one batch."""
_BATCHES = 4
"""Batches in memory beside the packs that are being sent."""
Batch = list[tuple[int, bytes, memoryview]]
"""Number, BLAKE3 and content of each chunk."""
Found = list[tuple[PackRef, Row] | None]
"""Where each chunk lies, by its number; None while it is on its way."""
_Row = tuple[int, bytes, int, codecs.Codec, bytes | memoryview]
"""Number, BLAKE3, size, way and bytes as stored."""


@dataclass(frozen=True)
class Destination:
    """Where the checkpoints of one job are sent, and by which way."""

    objects: Objects
    place: Place
    """The job's, in the store."""
    known: KnownChunks
    """What need not be sent."""
    choice: codecs.CodecChoice
    bandwidth: Bandwidth


@dataclass(frozen=True)
class _Packed:
    """A batch as stored; what is kept raw lies in the arena still."""

    rows: list[_Row]
    arena: bytearray


class Packing:
    """Of one upload, which owns `found`: where each chunk went is entered there. One thread calls it. As a context, it
    leaves no thread behind."""

    def __init__(self, destination: Destination, found: Found, *, deadline: float, go_on: Callable[[], None]) -> None:
        """`deadline`: monotonic seconds. `go_on` is called before each pack is sent, and may raise."""
        self._to, self._found = destination, found
        self._deadline, self._go_on = deadline, go_on
        self._packers = ThreadPoolExecutor(PACKERS, "pack")
        self._senders = ThreadPoolExecutor(destination.bandwidth.at_once, "send")
        self._arenas: list[bytearray] = []
        self._packing: deque[Future[_Packed]] = deque()
        self._buffers: list[bytearray] = []
        self._builder = PackBuilder()
        self._filled: list[int] = []
        """Numbers of the chunks in the pack that is being filled."""
        self._sending: deque[Future[None]] = deque()
        self.wrote = 0
        """Bytes by which the store grew."""
        self._active = 0
        self._counting = threading.Lock()

    def __enter__(self) -> Packing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._packers, self._senders):
            pool.shutdown(wait=True, cancel_futures=True)

    def take(self, batch: Batch, arena: bytearray) -> bytearray:
        """A batch, and the arena in which it lies, which is ours now; another one to read into. The store's errors, of
        earlier ones too."""
        self._packing.append(self._packers.submit(self._pack, batch, arena, self._to.choice.to_try()))
        self._fill(_BATCHES)
        return self._arenas.pop() if self._arenas else bytearray(ARENA)

    def finish(self) -> None:
        """All that was taken is in the store. The store's errors."""
        self._fill(0)
        self._send_pack()
        while self._sending:
            self._sending.popleft().result()

    def _pack(self, batch: Batch, arena: bytearray, to_try: codecs.Codec | None) -> _Packed:
        rows, sample, size = [], 0, 0
        if to_try is not None:
            while sample < len(batch) and size < codecs.SAMPLE:
                size += len(batch[sample][2])
                sample += 1
            rows = self._packed(batch[:sample], to_try)
        return _Packed([*rows, *self._packed(batch[sample:], self._to.choice.best)], arena)

    def _packed(self, batch: Batch, codec: codecs.Codec) -> list[_Row]:
        began = time.thread_time()
        rows = [(number, digest, len(chunk), *codecs.pack(codec, chunk)) for number, digest, chunk in batch]
        before, after = sum(row[2] for row in rows), sum(len(row[4]) for row in rows)
        self._to.choice.packed(codec, before, after, time.thread_time() - began)
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
        pack = PackRef(self._to.place.folder, pack_id, len(content))
        for number, row in zip(numbers, builder.rows, strict=True):
            self._found[number] = (pack, row)
        while len(self._sending) > self._to.bandwidth.at_once:
            self._sending.popleft().result()
        self._sending.append(self._senders.submit(self._send, pack, content, builder))

    def _send(self, pack: PackRef, content: memoryview, builder: PackBuilder) -> None:
        with self._to.bandwidth.turn(self._deadline):
            self._go_on()
            with self._counting:
                self._active += 1
            began, beside = time.monotonic(), self._active
            try:
                self._to.objects.put(self._to.place.pack_of(pack.folder, pack.pack_id), content)
            finally:
                with self._counting:
                    self._active -= 1
        self._to.choice.sent(len(content) * beside, time.monotonic() - began)
        with self._counting:
            self._to.known.add(pack, builder.rows)
            self.wrote += len(content)
            self._buffers.append(builder.buffer)
