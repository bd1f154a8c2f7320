"""A stand-in for CRIU and its restored process, for the program that brings memory in: real memory, the real kernel.

    lazy_pages.py WORK_FOLDER PAGES

It registers memory whose pages are missing, hands it over in CRIU's words, and then does to it what jobs do to their
memory while it is still coming in. It prints `ok` if it always found what was saved, or zeros where nothing is.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import platform
import secrets
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.domain.checkpoints import ImageFile

PAGE = 4096
START = 0x2000_0000_0000
"""Where its memory is."""
_MAP_FIXED_NOREPLACE = 0x100000
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
_API, _REGISTER = 0xC018AA3F, 0xC020AA00
_EVENTS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6  # fork, remap, remove, unmap
_FINISHED = 0x52535446
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]


def page(number: int) -> bytes:
    """What was saved as that page."""
    return struct.pack("<Q", number + 1) * (PAGE // 8)


def checkpoint_of(folder: Path, lengths: list[int]) -> list[ImageFile]:
    """A checkpoint with pages files of so many pages each, and their indexes."""
    from perdure.domain.checkpoints import ImageFile
    from perdure.image.pages.index import PageIndex
    from perdure.image.pages.prints import print_of

    images, first, seed = [], 0, secrets.randbits(64)
    for part in ("images", "index"):
        (folder / part).mkdir()
    for number, length in enumerate(lengths, start=1):
        pages = [page(first + n) for n in range(length)]
        path, index = f"images/pages-{number}.img", f"index/{number}"
        (folder / path).write_bytes(b"".join(pages))
        prints = b"".join(print_of(one, seed) for one in pages)
        digest = PageIndex(seed, prints, bytes(8 * length)).write(folder / index)
        images.append(ImageFile(path=path, size=length * PAGE, blake3=digest, index=index))
        first += length
    return images


class Memory:
    """So many pages, each of which is missing."""

    def __init__(self, start: int, pages: int) -> None:
        self.start, self.pages = start, pages

    @classmethod
    def new(cls, start: int, pages: int) -> Memory:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
        found = _call("mmap", start, pages * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert found == start
        return cls(start, pages)

    def register(self) -> int:
        """The descriptor for it."""
        descriptor: int = _libc.syscall(_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        assert descriptor >= 0, "no userfaultfd"
        self._ask(descriptor, _API, struct.pack("<QQQ", 0xAA, _EVENTS, 0))
        self._ask(descriptor, _REGISTER, struct.pack("<QQQQ", self.start, self.pages * PAGE, 1, 0))
        return descriptor

    @staticmethod
    def _ask(descriptor: int, request: int, words: bytes) -> None:
        assert _libc.ioctl(descriptor, ctypes.c_ulong(request), ctypes.create_string_buffer(words)) == 0, request

    def at(self, number: int) -> bytes:
        return ctypes.string_at(self.start + number * PAGE, PAGE)

    def check(self, first: int, behind: int, source: int | None) -> None:
        """These pages are those that were saved from `source` on; None: zeros."""
        for number in range(first, behind):
            wanted = bytes(PAGE) if source is None else page(source + number - first)
            assert self.at(number) == wanted, f"page {number} is not page {source} + {number - first}"


def _call(name: str, *arguments: object) -> int:
    answer = getattr(_libc, name)(*arguments)
    assert answer not in (-1, None, ctypes.c_void_p(-1).value), (name, ctypes.get_errno())
    return int(answer)


def _fork(work: object) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "the child found something else"


def restless(memory: Memory) -> None:
    """Quarters of the memory: given back, moved, taken apart, and inherited; all while it is coming in."""
    quarter = memory.pages // 4
    size = quarter * PAGE
    first, second, third, fourth = (memory.start + n * size for n in range(4))
    assert memory.at(5) == page(5)
    memory_of = {place: Memory(place, quarter) for place in (first, second, third, fourth)}

    def given_back() -> None:
        _call("madvise", ctypes.c_void_p(first), ctypes.c_size_t(size // 2), mmap.MADV_DONTNEED)
        memory_of[first].check(0, quarter // 2, None)
        memory_of[first].check(quarter // 2, quarter, quarter // 2)

    def taken_apart() -> None:
        """Other rights for every other run of pages: many mappings."""
        for n in range(0, quarter - 64, 128):
            _call("mprotect", ctypes.c_void_p(second + n * PAGE), ctypes.c_size_t(64 * PAGE), mmap.PROT_READ)
        memory_of[second].check(0, quarter, quarter)

    working = [threading.Thread(target=given_back), threading.Thread(target=taken_apart)]
    for thread in working:
        thread.start()
    moved = Memory(_call("mremap", third, size, 4 * size, 1), quarter)  # MREMAP_MAYMOVE, and it must
    assert moved.start != third
    _fork(lambda: moved.check(0, quarter, 2 * quarter))
    moved.check(0, quarter, 2 * quarter)
    moved.check(quarter, 2 * quarter, None)  # what came with the growth
    _call("munmap", ctypes.c_void_p(fourth), ctypes.c_size_t(size // 2))
    again = Memory.new(fourth, quarter // 2)
    again.check(0, quarter // 2, None)
    memory_of[fourth].check(quarter // 2, quarter, 3 * quarter + quarter // 2)
    for thread in working:
        thread.join()


def main() -> int:
    sys.stdin.readline()
    memory = Memory.new(START, int(sys.argv[2]))
    criu = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.chdir(sys.argv[1])
    criu.connect("lazy-pages.socket")
    descriptor = memory.register()
    criu.send(struct.pack("<i", -7))  # a zombie
    criu.send(struct.pack("<i", 42))
    criu.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    os.close(descriptor)
    assert memory.at(1) == page(1), "asked for before everything stands"
    criu.send(struct.pack("<i", _FINISHED))
    criu.close()
    failures: list[BaseException] = []
    threading.excepthook = lambda found: failures.append(found.exc_value or RuntimeError())
    restless(memory)
    assert not failures, failures
    print("ok", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
