"""Putting pages files together: each run of pages is a shared extent of the base's files or of the staging file."""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from perdure.image.pages.matching import ZERO, Taken
from perdure.image.pages.prints import PAGE

_FICLONERANGE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")
_CANNOT = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}


@dataclass(frozen=True)
class Source:
    """An open file of the base: the number of its first page, and how many it has."""

    first: int
    pages: int
    descriptor: int


def shares_pages(folder: Path) -> bool:
    """Can files in this folder share single pages? XFS with reflink can, btrfs too."""
    with contextlib.ExitStack() as files:
        try:
            one, other = (files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2))
            one.write(bytes(2 * PAGE))
            one.flush()
            os.ftruncate(other.fileno(), 2 * PAGE)
            clone(one.fileno(), PAGE, other.fileno(), 0, PAGE)
        except OSError as error:
            if error.errno in _CANNOT:
                return False
            raise
    return True


def clone(source: int, source_at: int, target: int, target_at: int, length: int) -> None:
    """Let `target` share `length` bytes of `source`. Everything is a multiple of PAGE. OSError if it cannot."""
    fcntl.ioctl(target, _FICLONERANGE, _RANGE.pack(source, source_at, length, target_at))


def assemble(path: Path, taken: Taken, base: list[Source], staging: Source) -> int:
    """Make the file; the number of its shared extents. `staging.first` is the number of the first staged page."""
    extents = 0
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.ftruncate(descriptor, taken.pages * PAGE)
        starts = [source.first for source in base]
        runs = memoryview(taken.runs)
        for at in range(0, len(runs), 3):
            page, count, number = runs[at], runs[at + 1], runs[at + 2]
            while count and number != ZERO:
                source = staging if number >= staging.first else base[bisect.bisect_right(starts, number) - 1]
                here = min(count, source.first + source.pages - number)
                clone(source.descriptor, (number - source.first) * PAGE, descriptor, page * PAGE, here * PAGE)
                page, count, number, extents = page + here, count - here, number + here, extents + 1
    finally:
        os.close(descriptor)
    return extents
