"""Where each page's content is already: in the base (an earlier checkpoint), among the pages staged so far, or nowhere.

A page is known by its number: the base's pages first, in the order of its files, then the staged ones. A *source* is
such a number, or ZERO. An *origin* says where on the disk the content was once written in one piece: the checkpoint's
number and the position in its staging file. Two pages lie together if their origins do; how often a block of 1 MiB
makes the disk jump is counted by it, because positions in files say nothing after some checkpoints (tried: 93,268
extents in spite of a limit that counted those).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from array import array
from dataclasses import dataclass, field
from typing import Protocol

from perdure.image.pages.prints import PAGE, PRINT, compiled, print_of

BLOCK = 256
"""Pages that are taken together, at most."""
ZERO = 2**64 - 1
"""The source and the origin of a page of zeros: a hole in the file."""
_NEW, NOWHERE = 2**64 - 2, 2**64 - 1
_ORIGIN_BITS = 34
"""Of an origin, for the position: 64 TiB."""
_MOST_PAGES = 2**32 - 2
_NO_RESERVE = 0x4000
"""MAP_NORESERVE of Linux, which Python 3.11 has no name for."""


class _Memory(ctypes.Structure):
    """`struct pages` of pages.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("prints", "origins", "table")),
        *((name, ctypes.c_uint64) for name in ("mask", "base", "staged", "room")),
        ("staging", ctypes.c_void_p),
        *((name, ctypes.c_uint64) for name in ("ring", "first", "seed")),
        ("zero", ctypes.c_ubyte * PRINT),
    ]


@dataclass
class Taken:
    """One pages file as it comes: fingerprint and origin of each page, and runs of (first page, pages, source)."""

    next: int = NOWHERE
    """The number of the page that is expected to follow."""
    prints: bytearray = field(default_factory=bytearray)
    origins: bytearray = field(default_factory=bytearray)
    runs: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def pages(self) -> int:
        return len(self.prints) // PRINT

    def add(self, prints: bytes | memoryview, origins: bytes | memoryview, runs: memoryview) -> None:
        """A block's; `runs` counts from the block's first page."""
        first, own = self.pages, self.runs
        for at in range(0, len(runs), 3):
            page, count, source = runs[at], runs[at + 1], runs[at + 2]
            if own and (source == ZERO if own[-1] == ZERO else own[-1] + own[-2] == source):
                own[-2] += count
            else:
                own.extend((first + page, count, source))
        self.prints += prints
        self.origins += origins


class Matcher(Protocol):
    """What finds pages. `staged`: how many pages are staged; page `s` of them lies at `s % ring` of the staging memory
    until the caller has written it."""

    base: int
    staged: int

    def take(self, block: memoryview, into: Taken, most_jumps: int) -> None:
        """Take a writable block of whole pages, BLOCK at most, for which the staging memory has room. What is new is
        staged. A block that would make the disk jump more than `most_jumps` times (0: any number) is staged whole.

        MemoryError if more pages come than there is room for."""


def matcher(
    prints: bytes, origins: bytes, *, number: int, seed: int, staging: mmap.mmap, most_pages: int, in_c: bool = True
) -> Matcher:
    """For the checkpoint `number`: `prints` and `origins` of the base's pages, at most `most_pages` to come."""
    if in_c and compiled() is not None:
        return _InC(prints, origins, number, seed, staging, most_pages)
    return _InPython(prints, origins, number, seed, staging, most_pages)


class _InC:
    def __init__(
        self, prints: bytes, origins: bytes, number: int, seed: int, staging: mmap.mmap, most_pages: int
    ) -> None:
        self.base = base = len(prints) // PRINT
        self.staged = 0
        room = base + most_pages
        if room > _MOST_PAGES:
            raise MemoryError(f"{room} pages are more than can be counted")
        size = 1 << max(10, (4 * room // 3).bit_length())
        # Only what is used takes memory.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._prints = mmap.mmap(-1, max(1, room) * PRINT, flags=flags)
        self._table = mmap.mmap(-1, size * 4, flags=flags)
        self._prints[: len(prints)] = prints
        self._origins = (ctypes.c_char * max(1, len(origins))).from_buffer_copy(origins or b"\0")
        self._keep = [ctypes.c_char.from_buffer(memory) for memory in (self._prints, self._table, staging)]
        places = [ctypes.addressof(kept) for kept in self._keep]
        self._memory = _Memory(
            prints=places[0],
            origins=ctypes.addressof(self._origins),
            table=places[1],
            mask=size - 1,
            base=base,
            room=room,
            staging=places[2],
            ring=len(staging) // PAGE,
            first=number << _ORIGIN_BITS,
            seed=seed,
            zero=(ctypes.c_ubyte * PRINT).from_buffer_copy(print_of(bytes(PAGE), seed)),
        )
        self._at = ctypes.addressof(self._memory)
        library = compiled()
        assert library is not None
        self._library = library
        self._out = (ctypes.c_ubyte * (BLOCK * PRINT))(), (ctypes.c_uint64 * BLOCK)(), (ctypes.c_uint64 * (3 * BLOCK))()
        self._views = [memoryview(out).cast("B") for out in self._out]
        self._runs = self._views[2].cast("Q")
        self._next = ctypes.c_uint64()
        library.pages_load(self._at)

    def take(self, block: memoryview, into: Taken, most_jumps: int) -> None:
        count = len(block) // PAGE
        self._next.value = into.next
        address = ctypes.addressof(ctypes.c_char.from_buffer(block))
        runs = self._library.pages_take(self._at, address, count, ctypes.byref(self._next), most_jumps, *self._out)
        if runs < 0:
            raise MemoryError("the job has more memory than was expected when its checkpoint began")
        self.staged = int(self._memory.staged)  # only now may the writer see them
        into.next = self._next.value
        into.add(self._views[0][: count * PRINT], self._views[1][: count * 8], self._runs[: 3 * runs])


class _InPython:
    """The same in Python, page by page. Slower by an order of magnitude."""

    def __init__(
        self, prints: bytes, origins: bytes, number: int, seed: int, staging: mmap.mmap, most_pages: int
    ) -> None:
        self.base, self.staged = len(prints) // PRINT, 0
        self._prints = [prints[at : at + PRINT] for at in range(0, len(prints), PRINT)]
        self._origins = struct.unpack(f"={self.base}Q", origins)
        self._table: dict[bytes, int] = {}
        for page, print_ in enumerate(self._prints):
            self._table.setdefault(print_, page)
        self._room, self._seed, self._first = self.base + most_pages, seed, number << _ORIGIN_BITS
        self._staging, self._ring = staging, len(staging) // PAGE
        self._zero = print_of(bytes(PAGE), seed)

    def take(self, block: memoryview, into: Taken, most_jumps: int) -> None:
        pages = [block[at : at + PAGE] for at in range(0, len(block), PAGE)]
        if len(pages) > self._ring or len(self._prints) + len(pages) > self._room:
            raise MemoryError("the job has more memory than was expected when its checkpoint began")
        prints = [print_of(page, self._seed) for page in pages]
        sources, follow, jumps = self._find(prints, into.next)
        whole = False
        if most_jumps and jumps > most_jumps:
            others, anew, fewer = self._find(prints, NOWHERE)
            if fewer < jumps:
                sources, follow, jumps = others, anew, fewer
            whole = jumps > most_jumps
        into.next = follow
        runs = array("Q")
        for page, source in enumerate(sources):
            if source == _NEW and not whole:
                source = self._table.get(prints[page], _NEW)
            if source != ZERO and (whole or source == _NEW):
                source = self._stage(pages[page], prints[page])
            sources[page] = source
            runs.extend((page, 1, source))
        origins = array("Q", [ZERO if source == ZERO else self._origin(source) for source in sources])
        into.add(b"".join(prints), origins.tobytes(), memoryview(runs))

    def _find(self, prints: list[bytes], following: int) -> tuple[list[int], int, int]:
        sources, jumps, before, known = [], 0, None, self._prints
        for print_ in prints:
            if print_ == self._zero:
                sources.append(ZERO)
                following += following != NOWHERE
                continue
            if following < len(known) and known[following] == print_:
                source = following
            else:
                source = self._table.get(print_, _NEW)
            following = source + 1 if source != _NEW else following + (following != NOWHERE)
            origin = _NEW if source == _NEW else self._origin(source)
            together = before == _NEW if origin == _NEW else before not in (None, _NEW) and origin == before + 1
            jumps += before is not None and not together
            before = origin
            sources.append(source)
        return sources, following, jumps

    def _origin(self, source: int) -> int:
        return self._origins[source] if source < self.base else self._first + source - self.base

    def _stage(self, page: memoryview, print_: bytes) -> int:
        number, at = len(self._prints), self.staged % self._ring * PAGE
        self._prints.append(print_)
        self._table[print_] = number
        self._staging[at : at + PAGE] = bytes(page)
        self.staged += 1
        return number
