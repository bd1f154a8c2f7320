"""Which memory of a checkpoint can come after the restore, and whether the checkpoint is fit for that at all.

CRIU marks in its lists of pages what it can restore later: private anonymous memory that is not locked, no huge pages,
no stacks (criu/include/vma.h, vma_entry_can_be_lazy). Shared memory and everything else is restored at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.checkpoints import ManifestHead
from perdure.image.layout import IMAGES
from perdure.image.pages.prints import PAGE
from worker_agent.engine import criu_image
from worker_agent.lazy_pages.missing import Part

LEAST = 16 << 20
"""Bytes; for less it is not worth a program beside the job."""
_MOST_SHARED, _MOST_SHARED_BYTES = 1 / 8, 64 << 20
"""What a job may need more of memory than if it were restored whole."""
_PAGEMAP_MAGIC, _MM_MAGIC = 0x56084025, 0x57492820
"""CRIU, criu/include/magic.h."""
_PAGES_ID = 1
_ADDRESS, _FEWER_PAGES, _IN_PARENT, _FLAGS, _PAGES = 1, 2, 3, 4, 5
"""images/pagemap.proto: pagemap_head, then pagemap_entry. Older images count pages in `compat_nr_pages`."""
_OF_PARENT, _LATER, _PRESENT = 1, 2, 4
"""PE_PARENT, PE_LAZY and PE_PRESENT (criu/include/pagemap.h)."""
_VMAS, _ADVICE = 14, 9
"""images/mm.proto and images/vma.proto."""
_NOT_INHERITED = 1 << 10 | 1 << 18
"""MADV_DONTFORK and MADV_WIPEONFORK, as bits of vma_entry.madv."""


class NotLazy(Exception):
    """This checkpoint is restored whole before its job goes on; the text says why."""


@dataclass(frozen=True)
class Plan:
    """`files`: the pages files by path, with the number of each one's first page in the count over all of them.
    `later`: what is missing of each process, by CRIU's number for it. `at_once`: the pages that CRIU reads itself,
    first and behind the last."""

    files: dict[str, int]
    later: dict[int, list[Part]]
    at_once: list[tuple[int, int]]


def plan(checkpoint: Path, manifest: ManifestHead) -> Plan:
    """NotLazy, ImageInvalid, OSError. Blocks."""
    if manifest.gpus:
        raise NotLazy("it has memory of a GPU")
    files, first = {}, 0
    for image in manifest.images:
        if image.index:
            files[image.path] = first
            first += image.size // PAGE
    later: dict[int, list[Part]] = {}
    at_once: list[tuple[int, int]] = []
    for path in sorted((checkpoint / IMAGES).glob("pagemap-*.img")):
        process = re.fullmatch(r"pagemap-(\d+)\.img", path.name)
        for address, source, pages, is_later in _entries(path, files):
            if process and is_later:
                later.setdefault(int(process[1]), []).append(Part(address, address + pages * PAGE, source))
            else:
                at_once.append((source, source + pages))
    _check_worth(later)
    _check_inherited(checkpoint / IMAGES, later)
    return Plan(files, later, at_once)


def _entries(path: Path, files: dict[str, int]) -> Iterator[tuple[int, int, int, bool]]:
    """Address, first page in the count over all files, pages, and whether they can come later."""
    entries = criu_image.entries(path.read_bytes(), _PAGEMAP_MAGIC)
    name = f"{IMAGES}/pages-{criu_image.number(criu_image.parse(next(entries, b'')), _PAGES_ID)}.img"
    place = files.get(name)
    for entry in entries:
        message = criu_image.parse(entry)
        flags = criu_image.number(message, _FLAGS)
        if flags & _OF_PARENT or criu_image.number(message, _IN_PARENT):
            raise NotLazy("its memory is in several checkpoints")
        if flags and not flags & _PRESENT:
            continue
        if place is None:
            raise NotLazy("its pages have no checksums of their own")
        pages = criu_image.number(message, _PAGES) or criu_image.number(message, _FEWER_PAGES)
        yield criu_image.number(message, _ADDRESS), place, pages, bool(flags & _LATER)
        place += pages


def _check_worth(later: dict[int, list[Part]]) -> None:
    """NotLazy if there is little to bring later, or if processes may share much of it since a fork: CRIU finds shared
    pages by comparing them, and what comes later would be there once for each process."""
    pages = sum(part.pages for parts in later.values() for part in parts)
    if pages * PAGE < LEAST:
        raise NotLazy("it is small")
    alone, behind = 0, 0
    for part in sorted(part for parts in later.values() for part in parts):
        alone += max(0, part.end - max(part.start, behind)) // PAGE
        behind = max(behind, part.end)
    if pages - alone > min(pages * _MOST_SHARED, _MOST_SHARED_BYTES / PAGE):
        raise NotLazy("its processes may share memory since a fork")


def _check_inherited(images: Path, processes: dict[int, list[Part]]) -> None:
    """NotLazy if a process has memory that its children do not inherit: while pages are missing, a child that is born
    would be given what it must not have."""
    for number in processes:
        for entry in criu_image.entries((images / f"mm-{number}.img").read_bytes(), _MM_MAGIC):
            mappings = [field.value for field in criu_image.parse(entry) if field.number == _VMAS]
            for mapping in mappings:
                if isinstance(mapping, bytes) and _is_not_inherited(criu_image.parse(mapping)):
                    raise NotLazy("it has memory that its children do not inherit")


def _is_not_inherited(mapping: criu_image.Message) -> bool:
    return bool(criu_image.number(mapping, _ADVICE) & _NOT_INHERITED)
