"""`python -m localcloud.aws.lazy_volumes MOUNT FOLDER`: the same files as in FOLDER, slow where a block is not fetched.

An EBS volume that was made from a snapshot is there at once, but each of its blocks is fetched from S3 when it is first
touched (EBS user guide, "Initialize Amazon EBS volumes"). The bytes themselves are all in FOLDER (ebs.py clones them).
This program only makes the first touch of each block take its time. A loop device is made on the file in MOUNT.

`FOLDER/<name>.lazy` (JSON, `Laziness`) says how slow `<name>` is; without it, it is not slow. `MOUNT/<name>.status` is
a JSON text: how many blocks there were to fetch, and how many are left. A program of its own, so that its waiting and
its interpreter lock do not hold up the cloud; it ends when MOUNT is unmounted or its parent ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]

from localcloud.aws.block_diff import BLOCK
from localcloud.aws.lazy_mount import LAZY, STATUS, Laziness

MIB = 1 << 20
THREADS = 32
"""Requests that may wait at the same time."""


class Pipe:
    """So many MiB/s, shared by all who wait for blocks of one volume."""

    def __init__(self, mib_per_second: float) -> None:
        self._seconds_a_block = BLOCK / (mib_per_second * MIB)
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, least_seconds: float) -> None:
        """One block comes through: not before `least_seconds`, nor faster than the pipe."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + self._seconds_a_block
            due = max(self._free_at, now + least_seconds)
        time.sleep(max(0.0, due - time.monotonic()))


class LazyVolume:
    """The blocks of one volume that are still to be fetched."""

    def __init__(self, descriptor: int, laziness: Laziness) -> None:
        self._laziness = laziness
        self._pipe = Pipe(laziness.mib_per_second)
        self._lock = threading.Lock()
        self._left = allocated_blocks(descriptor)
        self._coming: dict[int, threading.Event] = {}
        self.blocks = len(self._left)
        if laziness.initialization_mib_per_second:
            threading.Thread(target=self._initialize, daemon=True).start()

    @property
    def left(self) -> int:
        """How many blocks are still to be fetched."""
        return len(self._left)

    def touch(self, offset: int, size: int) -> None:
        """Returns once every block of that range is there."""
        if self._left:
            for block in range(offset // BLOCK, (offset + size - 1) // BLOCK + 1):
                self._fetch(block, self._pipe, self._laziness.first_touch_seconds)

    def _fetch(self, block: int, pipe: Pipe, seconds: float) -> None:
        with self._lock:
            if block not in self._left:
                return
            arrived = self._coming.get(block)
            mine = arrived is None
            if arrived is None:
                arrived = self._coming[block] = threading.Event()
        if not mine:
            arrived.wait()
            return
        pipe.wait(seconds)
        with self._lock:
            self._left.discard(block)
            del self._coming[block]
        arrived.set()

    def _initialize(self) -> None:
        pipe = Pipe(self._laziness.initialization_mib_per_second)
        for block in sorted(self._left):
            self._fetch(block, pipe, 0.0)


def allocated_blocks(descriptor: int) -> set[int]:
    """The blocks that hold data; nothing was ever written to the others, so there is nothing to fetch."""
    found: set[int] = set()
    offset, end = 0, os.fstat(descriptor).st_size
    while offset < end:
        try:
            data = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                break
            raise
        offset = os.lseek(descriptor, data, os.SEEK_HOLE)
        found.update(range(data // BLOCK, (offset - 1) // BLOCK + 1))
    return found


class LazyFolder(mfusepy.Operations):  # type: ignore[misc]
    """The file system. Every method is FUSE's, called by several threads."""

    use_ns = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._volumes: dict[str, LazyVolume | None] = {}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """stat(2)."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path.endswith(STATUS):
            return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": 4096}
        found = os.stat(self._backing(path))
        return {"st_mode": found.st_mode, "st_nlink": 1, "st_size": found.st_size, "st_blocks": found.st_blocks}

    def open(self, path: str, flags: int) -> int:
        """A descriptor of the file behind."""
        if path.endswith(STATUS):
            return 0
        descriptor = os.open(self._backing(path), flags & os.O_ACCMODE | os.O_CLOEXEC)
        self._know(path, descriptor)
        return descriptor

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """The bytes, once their blocks are there."""
        if path.endswith(STATUS):
            return self._status(path.removesuffix(STATUS))[offset : offset + size]
        self._touch(path, offset, size)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Writing a part of a block needs the rest of it first."""
        self._touch(path, offset, len(data))
        return os.pwrite(fh, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """What was written is on the disk."""
        os.fdatasync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        """close(2)."""
        if fh:
            os.close(fh)
        return 0

    def _backing(self, path: str) -> Path:
        return self._folder / Path(path).name

    def _know(self, path: str, descriptor: int) -> None:
        with self._lock:
            if path in self._volumes:
                return
            try:
                text = self._backing(path + LAZY).read_text()
            except FileNotFoundError:
                self._volumes[path] = None
                return
            self._volumes[path] = LazyVolume(descriptor, Laziness.model_validate_json(text))

    def _touch(self, path: str, offset: int, size: int) -> None:
        volume = self._volumes[path]
        if volume is not None:
            volume.touch(offset, size)

    def _status(self, path: str) -> bytes:
        volume = self._volumes.get(path)
        blocks, left = (0, 0) if volume is None else (volume.blocks, volume.left)
        return json.dumps({"blocks": blocks, "left": left}).encode().ljust(4096)


def main() -> int:
    """Serve until unmounted."""
    point, folder = sys.argv[1:]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(RuntimeError):  # mfusepy's word for a mount that did not come about, said on stderr too
        files = LazyFolder(Path(folder))
        mfusepy.FUSE(files, point, foreground=True, attr_timeout=0, entry_timeout=0, max_threads=THREADS)
        return 0
    return 1


def _end_with(parent: int) -> None:
    """A dead cloud leaves nobody who could unmount: without us the kernel ends the connection, and reads fail at once.

    Not PR_SET_PDEATHSIG: it strikes when the thread that started us ends.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
