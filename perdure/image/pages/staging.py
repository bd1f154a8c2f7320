"""New pages on their way to the disk: a ring of memory that is used again and again, and a thread that writes it out.

The file is written in order, in large pieces and past the page cache: so its extents are few, and what the kernel
holds back of dirty memory does not stop the freeze.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from perdure.image.pages.prints import PAGE

PIECE = 4 << 20
"""Bytes of one write."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE (Linux 5.14)."""


class Staging:
    """The ring and its file. One thread stages (by a Matcher, which counts the pages); the writer is another one."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = _open(path)
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, AttributeError):
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        try:  # a page fault costs as much as copying the page
            self.memory.madvise(_POPULATE_WRITE)
        except OSError:
            for at in range(0, size, PAGE):
                self.memory[at] = 0
        self._ring = size // PAGE
        self._view = memoryview(self.memory)
        self._staged: Callable[[], int] = lambda: 0
        self._written = 0
        self.write_seconds = 0.0
        """In which the disk took what was staged."""
        self._eager, self._ended = False, False
        self._problem: OSError | None = None
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._write, daemon=True)

    @property
    def descriptor(self) -> int:
        return self._file

    def begin(self, staged: Callable[[], int]) -> None:
        """`staged` tells how many pages there are by now."""
        self._staged = staged
        self._thread.start()

    def set_eager(self, eager: bool) -> None:
        """Write as soon as there is a piece; else only what the ring needs room for: in a freeze, writing takes the
        processor that reading needs."""
        with self._moved:
            self._eager = eager
            self._moved.notify_all()

    def make_room(self, pages: int) -> None:
        """Wait until so many pages are free. OSError if the disk refused."""
        with self._moved:
            self._moved.notify_all()
            while self._staged() + pages - self._written > self._ring and self._problem is None:
                self._moved.wait(1.0)
            if self._problem is not None:
                raise self._problem

    def finish(self) -> int:
        """Everything written; pages of the file. OSError if the disk refused."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        return self._written

    def close(self) -> None:
        """The file goes; what other files share of it stays."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        try:
            while (piece := self._next_piece()) is not None:
                begin, count = piece
                at = begin % self._ring
                count = min(count, self._ring - at)
                begun = time.monotonic()
                self._write_out(self._view[at * PAGE : (at + count) * PAGE], begin * PAGE)
                self.write_seconds += time.monotonic() - begun
                with self._moved:
                    self._written = begin + count
                    self._moved.notify_all()
        except OSError as error:
            with self._moved:
                self._problem = error
                self._moved.notify_all()

    def _next_piece(self) -> tuple[int, int] | None:
        """The first page to write and how many; None at the end."""
        with self._moved:
            while True:
                waiting = self._staged() - self._written
                if self._ended and not waiting:
                    return None
                if self._ended or waiting >= (PIECE // PAGE if self._eager else self._ring // 2):
                    return self._written, min(waiting, PIECE // PAGE)
                self._moved.wait(0.2)

    def _write_out(self, block: memoryview, at: int) -> None:
        done = 0
        while done < len(block):
            try:
                count = os.pwrite(self._file, block[done:], at + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _direct(self._file, wanted=False):
                    raise
                continue  # this file system wants other pieces: through the page cache
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            done += count


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o600)


def _direct(descriptor: int, *, wanted: bool) -> bool:
    """Set or clear O_DIRECT; False if it was so already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if bool(flags & os.O_DIRECT) == wanted:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags ^ os.O_DIRECT)
    return True
