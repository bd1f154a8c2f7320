"""Kernel calls on files that Python does not have: flush a file system, share extents, see holes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_FICLONE = 0x40049409
_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_FSXATTR = struct.Struct("=IIIII8x")
"""struct fsxattr of linux/fs.h: xflags, extsize, nextents, projid, cowextsize."""
_FS_XFLAG_COWEXTSIZE = 0x00010000
_NO_REFLINK = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}
_BLOCK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def syncfs(path: Path) -> None:
    """Make everything that was written to the file system of `path` durable. OSError if the disk refuses."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_content(source: int, target: int) -> None:
    """Give the empty file open as `target` the content of `source`: shared extents where the file system can, else a
    copy that keeps holes."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _NO_REFLINK:
            raise
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for begin, end in data_parts(source, size):
        position = begin
        while position < end:
            block = os.pread(source, min(_BLOCK, end - position), position)
            position += os.pwrite(target, block, position)


def data_parts(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of the first `size` bytes of a file that are no holes, as (begin, end); they rise. OSError if the file
    cannot be asked: what could not be looked at is no hole."""
    position = 0
    while position < size:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        if position >= size:
            return
        end = min(os.lseek(descriptor, position, os.SEEK_HOLE), size)
        yield position, end
        position = end


def bound_copy_on_write(folder: Path) -> None:
    """On XFS, copy single blocks on a write to shared extents below `folder` (files made from now on inherit it).

    Without it, 2 MB of random pages cost 36 to 60 MiB of the volume per checkpoint; with it exactly 2. Other file
    systems have no such setting and are left alone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            state = fcntl.ioctl(descriptor, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
            flags, extent, count, project, _ = _FSXATTR.unpack(state)
            wanted = _FSXATTR.pack(flags | _FS_XFLAG_COWEXTSIZE, extent, count, project, os.sysconf("SC_PAGESIZE"))
            fcntl.ioctl(descriptor, _FS_IOC_FSSETXATTR, wanted)
    finally:
        os.close(descriptor)
