"""Large buffers. Bytes that are touched for the first time cost more than what is done with them: the kernel hands them
out in pages of 4 KiB, one fault each. In pages of 2 MiB it costs a fraction of that (docs/performance.md, "Stores")."""

from __future__ import annotations

import contextlib
import mmap


def large_buffer(size: int) -> mmap.mmap:
    """So many bytes of new memory, all zero, in large pages where the kernel has some. To be used again and again."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
