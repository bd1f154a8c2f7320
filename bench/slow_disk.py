"""A disk that is no faster than a gp3 volume: one file over FUSE, on which a loop device can be put.

`python -m bench.slow_disk MOUNT_POINT BACKING_FILE MIB_A_SECOND IOS_A_SECOND` serves until it is unmounted. An IO is
256 KiB at most, as EBS counts; neighbouring requests count as one. Kernel limits (cgroup io.max) did not hold loop
devices (tried), and a real EBS volume was not at hand. It has no latency and no bursts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time
from pathlib import Path

NAME = b"volume.img"
_HEAD = struct.Struct("<IIQQIIIHH")  # struct fuse_in_header
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
_FSYNC, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = (
    *(20, 25, 26, 27, 28, 29),
    *(36, 38, 42),
)
_ASYNC_READ, _BIG_WRITES, _ASYNC_DIO, _MAX_PAGES = 1 << 0, 1 << 5, 1 << 15, 1 << 22
_DIRECT_IO = 1 << 0
_LARGEST = 1 << 20
_IO = 256 << 10
_CREDIT = 0.01
"""Seconds that a disk which had nothing to do is ahead, at most."""


class Pace:
    """When the disk is free again."""

    def __init__(self, mib: float, ios: float) -> None:
        self.bytes_a_second, self.ios_a_second = mib * (1 << 20), ios
        self.free_at = 0.0
        self.ends = {False: -1, True: -1}
        self.part = {False: 0, True: 0}

    def pay(self, at: int, size: int, write: bool) -> None:
        ios = -(-size // _IO)
        if at == self.ends[write] and size < _IO:
            self.part[write] += size
            ios = self.part[write] // _IO
            self.part[write] %= _IO
        self.ends[write] = at + size
        cost = max(size / self.bytes_a_second, ios / self.ios_a_second)
        self.free_at = max(self.free_at, time.monotonic() - _CREDIT) + cost
        wait = self.free_at - time.monotonic()
        if wait > 0.0005:
            time.sleep(wait)


def serve(point: Path, backing: Path, mib: float, ios: float) -> None:
    """Until it is unmounted."""
    fuse, file = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC), os.open(backing, os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"slowdisk", str(point).encode(), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    pace, buffer = Pace(mib, ios), memoryview(bytearray(_LARGEST + 65536))
    while True:
        try:
            size = os.readv(fuse, [buffer])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            raise
        _, opcode, unique, node, *_ = _HEAD.unpack_from(buffer)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue
        code, *parts = answer(opcode, node, buffer[_HEAD.size : size], file, pace)
        os.writev(fuse, [_OUT.pack(_OUT.size + sum(map(len, parts)), -code, unique), *parts])
        if opcode == _DESTROY:
            return


def answer(opcode: int, node: int, body: memoryview, file: int, pace: Pace) -> tuple[int, *tuple[bytes, ...]]:
    """An errno, and what goes back."""
    if opcode == _INIT:
        flags = _ASYNC_READ | _BIG_WRITES | _ASYNC_DIO | _MAX_PAGES
        return 0, _INIT_OUT.pack(7, 31, 1 << 20, flags, 64, 48, _LARGEST, 1, _LARGEST // 4096, 0, 0)
    if opcode == _LOOKUP:
        if bytes(body).rstrip(b"\0") != NAME:
            return (errno.ENOENT,)
        return 0, struct.pack("<QQQQII", 2, 0, 0, 3600, 0, 0) + attributes(2, file)
    if opcode == _GETATTR:
        return 0, struct.pack("<QII", 3600, 0, 0) + attributes(node, file)
    if opcode in (_OPEN, _OPENDIR):
        return 0, struct.pack("<QII", 0, _DIRECT_IO if opcode == _OPEN else 0, 0)
    if opcode == _READ:
        _, at, size = struct.unpack_from("<QQI", body)
        pace.pay(at, size, False)
        return 0, os.pread(file, size, at)
    if opcode == _WRITE:
        _, at, size = struct.unpack_from("<QQI", body)
        pace.pay(at, size, True)
        return 0, struct.pack("<II", os.pwrite(file, body[40 : 40 + size], at), 0)
    if opcode == _STATFS:
        return 0, struct.pack("<QQQQQIIII24x", 1 << 28, 1 << 27, 1 << 27, 0, 0, 4096, 255, 4096, 0)
    if opcode in (_FSYNC, _FLUSH, _RELEASE, _RELEASEDIR, _READDIR, _DESTROY):
        return (0,)
    return (errno.ENOSYS,)  # SETATTR and FALLOCATE too: the loop device does without


def attributes(node: int, file: int) -> bytes:
    size = 0 if node == 1 else os.fstat(file).st_size
    mode, links = (0o40700, 2) if node == 1 else (0o100600, 1)
    return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
