"""Fingerprints of 4 KiB pages: XXH3, 128 bits, with a secret seed; and the compiled loop that makes them.

The seed is random and stays on the job root: a job cannot make two pages with one fingerprint on purpose. Against
accidents 128 bits suffice: with 2^40 pages the chance of any equal pair is below 2^-48.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import xxhash

PAGE = 4096
"""Bytes. CRIU's images are made of pages of this size on x86-64, and on arm64 with the usual kernels."""
PRINT = 16
"""Bytes of a fingerprint."""
COMPILED = Path(__file__).with_name("_pages.so")
"""Made by scripts/native.sh of pages.c. Without it everything works, slower."""


def print_of(page: bytes | memoryview, seed: int) -> bytes:
    """The fingerprint of one page."""
    return xxhash.xxh3_128_digest(page, seed)


@cache
def compiled() -> ctypes.CDLL | None:
    """The loop of pages.c; None where it was not built."""
    try:
        library = ctypes.CDLL(str(COMPILED))
    except OSError:
        return None
    pointer, number, count = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint
    library.pages_load.argtypes, library.pages_load.restype = [pointer], None
    library.pages_take.argtypes = [pointer, pointer, count, pointer, count, pointer, pointer, pointer]
    library.pages_take.restype = ctypes.c_int
    library.pages_check.argtypes, library.pages_check.restype = [pointer, number, number, pointer], ctypes.c_int64
    return library


def first_wrong(pages: memoryview, seed: int, wanted: memoryview) -> int:
    """The first page whose fingerprint is not the wanted one; -1 if all are. `pages` is a writable buffer of whole
    pages; `wanted` has PRINT bytes for each."""
    count = len(pages) // PAGE
    library = compiled()
    if library is not None:
        return int(library.pages_check(_address(pages), count, seed, bytes(wanted)))
    for page in range(count):
        if print_of(pages[page * PAGE : page * PAGE + PAGE], seed) != wanted[page * PRINT : page * PRINT + PRINT]:
            return page
    return -1


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
