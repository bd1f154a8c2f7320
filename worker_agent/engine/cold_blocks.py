"""A volume that was just made from a snapshot: read what a restore needs, many blocks at a time, before it needs them.

Each block comes from far away when it is first touched, and a restore touches one after the other. Many at a time come
in many times faster (docs/aws-assumptions.md). Pages that have an index are left out: who verifies them reads many at a
time beside CRIU (`verify_pages`), and a lazy restore goes on without them. All else on the volume stays
cold: the job runs while it comes in.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.layout import IMAGES
from perdure.image.pages.index import INDEX
from worker_agent.engine import job_root as roots

_AT_ONCE = 32
_PIECE = 512 * 1024
"""What EBS fetches at a time."""


def fetch(job_root: Path, number: int) -> float:
    """Read the checkpoint's manifest, its page indexes, and its memory images but for pages that have an index. Blocks;
    returns seconds. What cannot be read is left to the restore, which says so."""
    begun = time.monotonic()
    store = roots.store(job_root)
    folder = store.folder(number)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as threads:
        _read_files(threads, folder.glob("*.json"), ())
        _read_files(threads, (folder / INDEX).glob("*"), ())
        try:
            later = {folder / image.path for image in store.head(number).images if image.index}
        except ImageInvalid:
            later = set()
        _read_files(threads, (folder / IMAGES).rglob("*"), later)
    return time.monotonic() - begun


def _read_files(threads: ThreadPoolExecutor, paths: Iterable[Path], without: Collection[Path]) -> None:
    for path in paths:
        if path not in without and path.is_file() and not path.is_symlink():
            for offset in range(0, path.stat().st_size, _PIECE):
                threads.submit(_read, path, offset)


def _read(path: Path, offset: int) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pread(descriptor, _PIECE, offset)
        finally:
            os.close(descriptor)
