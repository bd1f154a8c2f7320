"""The kernel's userfaultfd requests (linux/userfaultfd.h; the numbers are the same on every machine)."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from perdure.image.pages.prints import PAGE

_COPY, _ZERO, _WAKE = 0xC028AA03, 0xC020AA04, 0x8010AA02
FAULT, FORK, REMAP, REMOVE, UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
_MESSAGE = struct.Struct("<B7xQQQ")
_MOST = 64
"""Messages at once."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class _Copy(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("target", "source", "length", "mode")] + [("done", ctypes.c_int64)]


class _Range(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("start", "length", "mode")] + [("done", ctypes.c_int64)]


@dataclass(frozen=True)
class Message:
    """What the kernel says of one memory. FAULT: `second` is the address. FORK: `first` holds the child's descriptor.
    REMAP: from `first` to `second`, `third` bytes. REMOVE and UNMAP: from `first` to `second`."""

    event: int
    first: int
    second: int
    third: int

    @property
    def child(self) -> int:
        """FORK: the descriptor for the child's memory."""
        return self.first & 0xFFFFFFFF


def messages(descriptor: int) -> list[Message]:
    """Those that wait; none if there are none. OSError."""
    try:
        data = os.read(descriptor, _MESSAGE.size * _MOST)
    except BlockingIOError:
        return []
    return [Message(*fields) for fields in _MESSAGE.iter_unpack(data)]


def copy(descriptor: int, target: int, source: int, length: int) -> tuple[int, int]:
    """Put what lies at `source` of our memory at `target` of the job's; who waits for it goes on. The bytes that are
    there now, from the beginning on, and the errno if that is not all."""
    wish = _Copy(target, source, length, 0, 0)
    failed = _ask(descriptor, _COPY, wish)
    return max(0, wish.done), failed


def zero(descriptor: int, address: int) -> int:
    """One page of zeros. The errno, or 0."""
    return _ask(descriptor, _ZERO, _Range(address, PAGE, 0, 0))


def wake(descriptor: int, address: int) -> None:
    """Who waits for this page looks again. A memory that is gone has nobody who waits."""
    _ask(descriptor, _WAKE, _Range(address, PAGE, 0, 0))


def _ask(descriptor: int, request: int, wish: ctypes.Structure) -> int:
    if _libc.ioctl(descriptor, request, ctypes.byref(wish)) == 0:
        return 0
    return ctypes.get_errno()
