"""Taking the pages files as CRIU writes them: each is a named pipe in the folder of images.

CRIU opens `pages-N.img` for writing and splices the job's pages into it, whatever kind of file that is (tried with
4.2.1, through runc 1.1.5). What is in a pipe still is the job's own memory: it must stand still until all was read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import threading
from collections.abc import Callable
from pathlib import Path

from perdure.image.pages.matching import BLOCK
from perdure.image.pages.prints import PAGE

_F_SETPIPE_SZ = 1031
_BUFFERS = 8
_POLL = 50
"""Milliseconds."""
Block = tuple[int, memoryview]
"""The number of a pages file, and whole pages of it."""


def pages_name(number: int) -> str:
    """CRIU's name of the n-th pages file, from 1."""
    return f"pages-{number}.img"


def release_writers(images: Path) -> None:
    """Whoever waits for a reader of a pipe in this folder goes on, and fails when it writes. For when the reader has
    died; to be repeated until the dump has ended."""
    for path in images.glob("pages-*.img"):
        if path.is_fifo():
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _resize(pipe: int, size: int) -> None:
    """So many bytes, or as it is where the machine allows no more. Linux counts what all pipes of a user may hold
    (64 MiB, pipe(7)), and containers of root are the same user: a job of many processes must not take its neighbours'
    share."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, size)


class Pipes:
    """The pipes of one dump, and a thread that reads them. CRIU writes one after the other, but this does not depend on
    it."""

    def __init__(self, images: Path, count: int) -> None:
        self._images = images
        self.opened: set[int] = set()
        """Numbers of the files that CRIU has opened."""
        self._numbers: dict[int, int] = {}
        self._ended: set[int] = set()
        self._poll = select.poll()
        self._full: queue.SimpleQueue[Block | BaseException | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._partial: dict[int, tuple[memoryview, int]] = {}
        self._written = threading.Event()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(BLOCK * PAGE)))
        for number in range(1, count + 1):
            path = images / pages_name(number)
            os.mkfifo(path, 0o600)
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            _resize(descriptor, PAGE)
            self._numbers[descriptor] = number
            self._poll.register(descriptor, select.POLLIN)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def all_written(self) -> None:
        """The dump has ended, so no pipe has a writer any more."""
        self._written.set()

    def take_all(self, take: Callable[[int, memoryview], None]) -> None:
        """Give every block to `take` until `all_written` and nothing is left. OSError as a pipe gives it."""
        while (block := self._full.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            number, pages = block
            take(number, pages)
            self._free.put(memoryview(pages.obj))

    def remove(self) -> None:
        """The pipes go from the folder."""
        for descriptor, number in self._numbers.items():
            os.close(descriptor)
            (self._images / pages_name(number)).unlink(missing_ok=True)
        self._numbers.clear()

    def _read(self) -> None:
        try:
            while not self._written.is_set():
                self._read_ready(_POLL)
            while self._read_ready(0):
                pass
            self._check_ended()
            self._full.put(None)
        except BaseException as error:
            self._full.put(error)

    def _read_ready(self, milliseconds: int) -> bool:
        ready = self._poll.poll(milliseconds)
        for descriptor, _ in ready:
            self._read_one(descriptor)
        return bool(ready)

    def _read_one(self, descriptor: int) -> None:
        number = self._numbers[descriptor]
        if number not in self.opened:
            _resize(descriptor, BLOCK * PAGE)
            self.opened.add(number)
        found = self._partial.pop(number, None)
        buffer, filled = found if found is not None else (self._buffer(), 0)
        try:
            count = os.readv(descriptor, [buffer[filled:]])
        except BlockingIOError:
            count = -1
        filled += max(count, 0)
        if filled == len(buffer) or (count == 0 and filled):
            self._hand_over(number, buffer, filled)
        elif filled:
            self._partial[number] = (buffer, filled)
        else:
            self._free.put(buffer)
        if count == 0:
            self._poll.unregister(descriptor)  # its writer has gone
            _resize(descriptor, PAGE)
            self._ended.add(descriptor)

    def _check_ended(self) -> None:
        """OSError if a pipe has a writer still: then not all was read."""
        for descriptor in self._numbers.keys() - self._ended:
            try:
                os.read(descriptor, 1)
            except BlockingIOError as error:
                name = pages_name(self._numbers[descriptor])
                raise OSError(f"somebody still writes {name}, although the dump has ended") from error

    def _buffer(self) -> memoryview:
        if len(self._partial) >= _BUFFERS // 2:  # many files at once: rather more memory than none left to wait for
            return memoryview(bytearray(BLOCK * PAGE))
        return self._free.get()

    def _hand_over(self, number: int, buffer: memoryview, filled: int) -> None:
        if filled % PAGE:
            raise OSError(f"{pages_name(number)} does not end with a whole page")
        self._full.put((number, buffer[:filled]))
