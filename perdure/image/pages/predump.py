"""Reading a job's memory while it runs, so that what is new is on the disk before the freeze begins.

Nothing rests on it: the dump's pages are matched by their content. A page that changes meanwhile, a process that forks,
executes another program or ends only makes the predump less useful.
"""

from __future__ import annotations

import ctypes
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.image.pages.matching import BLOCK, Taken
from perdure.image.pages.prints import PAGE

_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ (\S+) (\d+) *(.*)")
_PRESENT, _SWAPPED, _OF_A_FILE = 1 << 63, 1 << 62, 1 << 61
_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


@dataclass
class Predump:
    """Pages that were read."""

    pages: int = 0
    complete: bool = True


def predump(pids: Iterable[int], take: Callable[[memoryview, Taken], None], stop: Callable[[], bool]) -> Predump:
    """Give the private, anonymous pages of these processes to `take`, in blocks, until `stop` says True."""
    done = Predump()
    buffer = memoryview(bytearray(BLOCK * PAGE))
    for pid in pids:
        taken = Taken()
        for block in _blocks(pid, buffer):
            if stop():
                done.complete = False
                return done
            take(block, taken)
            done.pages += len(block) // PAGE
            taken.prints.clear()
            taken.origins.clear()
            del taken.runs[:]
    return done


def _blocks(pid: int, buffer: memoryview) -> Iterator[memoryview]:
    """The memory of a process, 1 MiB of addresses at a time without what is not there."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "surrogateescape")
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for begin, end in _areas(maps):
            for at in range(begin, end, BLOCK * PAGE):
                entries = array("Q")
                entries.frombytes(os.pread(pagemap, min(BLOCK, (end - at) // PAGE) * 8, at // PAGE * 8))
                count = _read(pid, at, entries, buffer)
                if count:
                    yield buffer[: count * PAGE]
    except OSError:  # it ended, or executed another program
        return
    finally:
        os.close(pagemap)


def _areas(maps: str) -> Iterator[tuple[int, int]]:
    for line in maps.splitlines():
        found = _MAP.fullmatch(line)
        if found and found[3][3] == "p" and found[3][0] == "r" and not found[6].startswith(("[vvar", "[vdso", "[vsys")):
            yield int(found[1], 16), int(found[2], 16)


def _read(pid: int, at: int, entries: array[int], buffer: memoryview) -> int:
    """Copy the pages that are there and private to the process into the buffer, one after the other; how many."""
    runs: list[tuple[int, int]] = []
    for page, entry in enumerate(entries):
        if entry & (_PRESENT | _SWAPPED) and not entry & _OF_A_FILE:
            if runs and sum(runs[-1]) == page:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((page, 1))
    if not runs:
        return 0
    there = (_Vector * len(runs))()
    for vector, (page, count) in zip(there, runs, strict=True):
        vector.base, vector.length = at + page * PAGE, count * PAGE
    here = _Vector(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer))
    copied: int = _libc.process_vm_readv(pid, ctypes.byref(here), 1, there, len(runs), 0)
    return max(0, copied) // PAGE
