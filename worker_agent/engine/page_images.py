"""Are the memory images of a checkpoint as long as their own lists say?

CRIU 4.2.1 reads a page image that is too short for ever: the restore hangs, and says nothing (tried). A checksum does
not see it where the image was short already when it was sealed.
"""

from __future__ import annotations

import os
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from worker_agent.engine import criu_image

_MAGIC = 0x56084025
"""CRIU, criu/include/magic.h: PAGEMAP_MAGIC."""
_PAGES_ID = 1
_FEWER_PAGES, _IN_PARENT, _FLAGS, _PAGES = 2, 3, 4, 5
"""images/pagemap.proto: pagemap_head, then pagemap_entry. Older images count pages in `compat_nr_pages`."""
_OF_PARENT, _PRESENT = 1, 4
"""PE_PARENT and PE_PRESENT (criu/include/pagemap.h)."""


def check_length(images: Path) -> None:
    """ImageInvalid if a file of pages is shorter than the pages that it should hold. OSError. Blocks."""
    for path in sorted(images.glob("pagemap-*.img")):
        entries = criu_image.entries(path.read_bytes(), _MAGIC)
        pages = images / f"pages-{criu_image.number(criu_image.parse(next(entries, b'')), _PAGES_ID)}.img"
        wanted = sum(map(_held, entries)) * os.sysconf("SC_PAGESIZE")
        found = pages.stat().st_size if pages.exists() else 0
        if found < wanted:
            said = f"the memory image {pages.name} ends at {found} of {wanted} bytes (by {path.name})"
            raise ImageInvalid(said, "verify")


def _held(entry: bytes) -> int:
    """How many pages of this entry are in the file of pages."""
    message = criu_image.parse(entry)
    flags = criu_image.number(message, _FLAGS)
    if flags & _OF_PARENT or criu_image.number(message, _IN_PARENT) or (flags and not flags & _PRESENT):
        return 0
    return criu_image.number(message, _PAGES) or criu_image.number(message, _FEWER_PAGES)
