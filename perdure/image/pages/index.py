"""The page index: for one pages file of an image, the fingerprint and the origin of each of its pages.

A later checkpoint finds shared pages by it, and a restore verifies the pages with it; its own BLAKE3 stands in the
manifest. Layout, little-endian: the head (magic, version, page size, seed, number of pages), the fingerprints, the
origins (8 bytes each).
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from perdure.domain.errors import ImageInvalid
from perdure.image.pages.prints import PAGE, PRINT, first_wrong

if TYPE_CHECKING:  # sink.py is loaded for each checkpoint, and needs none of what these import
    from perdure.domain.checkpoints import ImageFile
    from perdure.image.mounts import Stop

INDEX = "index"
"""Folder of a checkpoint that holds its page indexes."""
_MAGIC, _VERSION = b"PERDPAGE", 1
_HEAD = struct.Struct("<8sIIQQ")
_EACH = PRINT + 8
_LARGEST = 2**32
"""Pages of one file at most: 16 TiB."""
_BLOCK = 4 << 20
_THREADS = min(8, 2 * (os.cpu_count() or 1))
"""That read at once: a network volume needs several requests on their way to give its full speed."""


@dataclass(frozen=True)
class PagesFile:
    """What a manifest says of a pages file: the same fields as perdure.domain.checkpoints.ImageFile, for programs that
    do without pydantic."""

    path: str
    size: int
    blake3: str
    index: str


@dataclass(frozen=True)
class PageIndex:
    """What one file says."""

    seed: int
    prints: bytes
    origins: bytes

    @property
    def pages(self) -> int:
        return len(self.prints) // PRINT

    def write(self, path: Path) -> str:
        """Write it to a new file; its BLAKE3 (hex). Making it durable is the caller's."""
        digest = blake3()
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            for part in (_HEAD.pack(_MAGIC, _VERSION, PAGE, self.seed, self.pages), self.prints, self.origins):
                file.write(part)
                digest.update(part)
        return digest.hexdigest()


def read_index(path: Path, wanted_blake3: str) -> PageIndex:
    """ImageInvalid, naming the file, unless it is the one with that BLAKE3 and well-formed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _HEAD.size + _LARGEST * _EACH:
            raise ImageInvalid(f"{path} is not a page index")
        content = file.read()
    if blake3(content).hexdigest() != wanted_blake3:
        raise ImageInvalid(f"{path} has a wrong checksum: the page index is damaged")
    return _parse(content, path)


def _parse(content: bytes, path: Path) -> PageIndex:
    if len(content) < _HEAD.size:
        raise ImageInvalid(f"{path} is too short for a page index")
    magic, version, page, seed, pages = _HEAD.unpack_from(content)
    if magic != _MAGIC or version != _VERSION or page != PAGE:
        raise ImageInvalid(f"{path} is no page index that this Perdure reads")
    if len(content) != _HEAD.size + pages * _EACH:
        raise ImageInvalid(f"{path} has {len(content)} bytes, which do not hold {pages} pages")
    middle = _HEAD.size + pages * PRINT
    return PageIndex(seed, content[_HEAD.size : middle], content[middle:])


def verify_pages(checkpoint: Path, image: ImageFile, stop: Stop | None = None, *, ahead: int = 0) -> None:
    """ImageInvalid, naming file and page, unless each page of the file has the fingerprint that its index says. Every
    page is read once, by several threads in the order of the file; none any more once `stop` says True.
    `ahead`: so many bytes are asked for before they are read, for a disk that is slow for each block."""
    from concurrent.futures import ThreadPoolExecutor  # not for sink.py, which verifies nothing

    index = read_index(checkpoint / image.index, image.blake3)
    path = checkpoint / image.path
    if index.pages * PAGE != image.size:
        raise ImageInvalid(f"{path} has {image.size} bytes, its index covers {index.pages} pages")
    wanted = memoryview(index.prints)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if ahead:
            os.posix_fadvise(descriptor, 0, ahead, os.POSIX_FADV_WILLNEED)
        else:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        own = threading.local()  # a buffer for each thread: new memory costs as much as what is read into it

        def verify(at: int) -> None:
            if stop is not None and stop():
                return
            if not hasattr(own, "block"):
                own.block = memoryview(bytearray(_BLOCK))
            if ahead:
                os.posix_fadvise(descriptor, at + ahead, _BLOCK, os.POSIX_FADV_WILLNEED)
            block = own.block[: min(_BLOCK, image.size - at)]
            if _read(descriptor, block, at) != len(block):
                raise ImageInvalid(f"{path} ends before byte {at + len(block)}")
            wrong = first_wrong(block, index.seed, wanted[at // PAGE * PRINT : (at + len(block)) // PAGE * PRINT])
            if wrong >= 0:
                raise ImageInvalid(f"{path} has a wrong checksum at byte {at + wrong * PAGE}: the image is damaged")

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(verify, range(0, image.size, _BLOCK)))
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, block: memoryview, at: int) -> int:
    done = 0
    while done < len(block) and (count := os.preadv(descriptor, [block[done:]], at + done)):
        done += count
    return done
