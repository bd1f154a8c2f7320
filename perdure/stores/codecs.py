"""How chunks are packed: raw, lz4 or zstd, whichever brings the job's bytes into this store soonest.

Measured while it runs, nothing assumed of the store or the job but for the first seconds. A way costs, per byte of the
job, the larger of two times: packing it, and sending what is left of it; they happen beside each other.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import lz4.block
import zstandard

from perdure.stores.sealing import decompress


class Codec(IntEnum):
    """As in packs and manifests."""

    RAW = 0
    LZ4 = 1
    ZSTD = 2


_ZSTD_LEVEL = 1
_WORTH = 0.94
"""A chunk that packing does not bring below this part of its size is kept raw: unpacking it would cost time."""
_OF_NEW = 0.3
"""Weight of a new measurement."""
_EVERY = 8
"""Of one batch in so many a part is packed in another way than the best one, which is how the others stay known."""
SAMPLE = 256 << 10
"""Bytes of that part: packing all of it would cost as much as what the best way saves."""
_ASSUMED = {Codec.RAW: (1e12, 1.0), Codec.LZ4: (400e6, 0.6), Codec.ZSTD: (280e6, 0.45)}
"""Bytes a second and thread, and what is left of a byte, before anything is measured. Guesses for jobs' memory."""
_ASSUMED_STORE = 120e6
"""Bytes a second: gp3's and many a small instance's way to S3."""

_local = threading.local()


def pack(codec: Codec, chunk: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
    """The chunk as stored, and how: RAW where the codec saves next to nothing."""
    if codec is Codec.LZ4:
        packed = lz4.block.compress(chunk, store_size=False)
    elif codec is Codec.ZSTD:
        if not hasattr(_local, "zstd"):
            _local.zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        packed = _local.zstd.compress(chunk)
    else:
        return Codec.RAW, chunk
    return (codec, packed) if len(packed) <= len(chunk) * _WORTH else (Codec.RAW, chunk)


def unpack(codec: int, stored: memoryview, size: int) -> bytes | memoryview | None:
    """The chunk of exactly `size` bytes; None if it is not one. Never takes more memory than that."""
    if codec == Codec.RAW:
        return stored if len(stored) == size else None
    if codec == Codec.ZSTD:
        return decompress(stored, size)
    if codec == Codec.LZ4:
        try:
            chunk: bytes = lz4.block.decompress(stored, uncompressed_size=size)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError, OverflowError):
            return None
        return chunk if len(chunk) == size else None
    return None


class CodecChoice:
    """Measures, and chooses for the next batch. Threads may call it."""

    def __init__(self, packers: int) -> None:
        """`packers`: threads that pack beside each other."""
        self._packers = packers
        self._known = dict(_ASSUMED)
        self._measured: set[Codec] = set()
        """The first measurement takes the place of what was assumed."""
        self._store = _ASSUMED_STORE
        self._count = 0
        self._lock = threading.Lock()

    def to_try(self) -> Codec | None:
        """How the first SAMPLE bytes of the next batch are to be packed, where something is to be learned of it: of
        what is best by guesses, and now and then of the others. The rest, and other batches, go the best way."""
        with self._lock:
            self._count += 1
            ways = sorted(Codec, key=self._seconds_per_byte)
            if ways[0] is not Codec.RAW and ways[0] not in self._measured:
                return ways[0]
            return ways[1 + self._count // _EVERY % 2] if self._count % _EVERY == 0 else None

    @property
    def best(self) -> Codec:
        """The way that is the fastest by what is known."""
        with self._lock:
            return min(Codec, key=self._seconds_per_byte)

    def _seconds_per_byte(self, codec: Codec) -> float:
        rate, left = self._known[codec]
        packing, sending = 1 / (rate * self._packers), left / self._store
        # Where both ways are as fast, the cheaper one: the job may still need the CPU.
        return max(packing, sending) + 0.05 * packing

    def packed(self, codec: Codec, before: int, after: int, seconds: float) -> None:
        """A batch of `before` bytes became `after`, in so many seconds of one thread."""
        if codec is Codec.RAW or not before:
            return
        with self._lock:
            found = before / max(seconds, 1e-6), after / before
            rate, left = self._known[codec] if codec in self._measured else found
            self._known[codec] = _mean(rate, found[0]), _mean(left, found[1])
            self._measured.add(codec)

    def sent(self, size: int, seconds: float) -> None:
        """The store took `size` bytes in so many seconds, over all connections."""
        with self._lock:
            self._store = _mean(self._store, size / max(seconds, 1e-6))


def _mean(before: float, now: float) -> float:
    return before + _OF_NEW * (now - before)
