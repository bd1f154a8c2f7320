"""The checkpoint's pages as a lazy restore reads them: each compared with its fingerprint before anybody has it."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.pages.index import PageIndex, PagesFile, read_index
from perdure.image.pages.prints import PAGE, PRINT, first_wrong

_AHEAD = (8 << 20) // PAGE
"""Pages that the disk is asked for before they are needed."""
_BLOCK = 256
"""Pages at once."""


class Source:
    """The checkpoint's pages, verified, in the count over all pages files."""

    def __init__(self, checkpoint: Path, images: list[PagesFile]) -> None:
        """ImageInvalid, OSError."""
        self._firsts: list[int] = []
        self._files: list[tuple[int, PageIndex, Path]] = []
        first = 0
        for image in images:
            index = read_index(checkpoint / image.index, image.blake3)
            path = checkpoint / image.path
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if index.pages * PAGE != image.size or os.fstat(descriptor).st_size != image.size:
                raise ImageInvalid(f"{path} is not as long as its index says")
            self._firsts.append(first)
            self._files.append((descriptor, index, path))
            first += index.pages

    def read(self, page: int, into: memoryview) -> None:
        """These pages, all of one file. ImageInvalid if one is not what was saved; OSError."""
        place = bisect_right(self._firsts, page) - 1
        descriptor, index, path = self._files[place]
        page -= self._firsts[place]
        done = 0
        while done < len(into) and (count := os.preadv(descriptor, [into[done:]], page * PAGE + done)):
            done += count
        if done < len(into):
            raise ImageInvalid(f"{path} ends before byte {page * PAGE + len(into)}")
        prints = memoryview(index.prints)[page * PRINT : page * PRINT + len(into) // PAGE * PRINT]
        wrong = first_wrong(into, index.seed, prints)
        if wrong >= 0:
            raise ImageInvalid(f"{path} has a wrong checksum at byte {(page + wrong) * PAGE}: the image is damaged")

    def want(self, page: int, pages: int = _AHEAD) -> None:
        """So many pages from this one on will be read soon. Returns without them."""
        place = bisect_right(self._firsts, page) - 1
        at = (page - self._firsts[place]) * PAGE
        os.posix_fadvise(self._files[place][0], at, pages * PAGE, os.POSIX_FADV_WILLNEED)


class Verifying:
    """The pages that CRIU reads itself, compared in a thread beside it."""

    def __init__(self, source: Source, ranges: list[tuple[int, int]]) -> None:
        self._source = source
        self._ranges = ranges
        self._unsound: ImageInvalid | OSError | None = None
        self._thread = threading.Thread(target=self._verify, daemon=True)
        self._thread.start()

    def over(self) -> bool:
        """ImageInvalid, OSError: they are not sound."""
        if self._unsound is not None:
            raise self._unsound
        return not self._thread.is_alive()

    def _verify(self) -> None:
        block = memoryview(bytearray(_BLOCK * PAGE))
        try:
            for first, behind in self._ranges:  # all at once: CRIU reads them, too, and waits for one after the other
                self._source.want(first, behind - first)
            for first, behind in self._ranges:
                for page in range(first, behind, _BLOCK):
                    self._source.read(page, block[: min(_BLOCK, behind - page) * PAGE])
        except (ImageInvalid, OSError) as problem:
            self._unsound = problem
