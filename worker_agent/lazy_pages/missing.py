"""Which pages of one process are still missing, and where in the checkpoint each of them is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from perdure.image.pages.prints import PAGE


class Part(NamedTuple):
    """Missing memory from `start` to `end` (addresses, whole pages); its first page is page `source` of the
    checkpoint."""

    start: int
    end: int
    source: int

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE

    def within(self, start: int, end: int) -> Part:
        """The piece between two addresses inside it."""
        return Part(start, end, self.source + (start - self.start) // PAGE)


class Missing:
    """Parts that do not overlap, in the order of their addresses."""

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self._parts = sorted(parts)
        self._hand = 0
        """Where the background goes on: behind what the job asked for last."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def pages(self) -> int:
        """How many are missing."""
        return sum(part.pages for part in self._parts)

    def copy(self) -> Missing:
        """The same parts, for a child that was born now."""
        other = Missing()
        other._parts, other._hand = list(self._parts), self._hand
        return other

    def asked(self, address: int, most_pages: int) -> Part | None:
        """The missing memory from this address on, at most so much. None: that page is not missing (it was zero)."""
        place = bisect_right(self._parts, address, key=lambda part: part.start) - 1
        if place < 0 or self._parts[place].end <= address:
            return None
        part = self._parts[place]
        end = min(part.end, address + most_pages * PAGE)
        self._hand = end
        return part.within(address, end)

    def next(self, most_pages: int) -> Part | None:
        """What the background brings next, at most so much; None when nothing is missing."""
        if not self._parts:
            return None
        place = bisect_right(self._parts, self._hand, key=lambda part: part.end)
        part = self._parts[place % len(self._parts)]
        start = max(part.start, self._hand) if place < len(self._parts) else part.start
        return part.within(start, min(part.end, start + most_pages * PAGE))

    def cut(self, start: int, end: int) -> list[Part]:
        """Nothing between these addresses is missing any more; what was."""
        first = bisect_right(self._parts, start, key=lambda part: part.end)
        behind = bisect_left(self._parts, end, key=lambda part: part.start)
        touched = self._parts[first:behind]
        if not touched:
            return []
        left = [part.within(part.start, start) for part in touched[:1] if part.start < start]
        left += [part.within(end, part.end) for part in touched[-1:] if part.end > end]
        self._parts[first:behind] = left
        return [part.within(max(part.start, start), min(part.end, end)) for part in touched]

    def move(self, old: int, new: int, length: int) -> None:
        """The job moved its memory (mremap): what is missing of it is missing at the new place."""
        moved = self.cut(old, old + length)
        self.cut(new, new + length)
        place = bisect_left(self._parts, new, key=lambda part: part.start)
        self._parts[place:place] = [Part(part.start - old + new, part.end - old + new, part.source) for part in moved]
