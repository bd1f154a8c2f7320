"""Device numbers of the file systems that a job writes to: chosen once per job, and the same on every node.

Programs know a file by its device and inode number; SQLite takes one file for two when the device number has changed.
An overlay gets an *anonymous* device number, 0:N, and the kernel always gives the lowest N that is free on the node
(`get_anon_bdev`, fs/super.c). So an overlay gets a wanted N by holding every free number below it for a moment.

The cheapest way to hold many numbers is one more overlay: it takes a number for itself and one for each file system
among its lower layers (`ovl_get_fsid`, fs/overlayfs/super.c). 250 empty ramfs file systems are mounted once, and
throw-away overlays over all of them take 252 numbers with each mount call: 3 microseconds a number, where a file system
for each number costs 60. All of it is mounted in a mount namespace that belongs to one thread: nobody else sees it, and
it is gone when the process is gone. A number that is held costs 1.2 KB of the kernel's memory meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from perdure.domain.errors import DeviceNumberTaken, RestoreFailed
from perdure.waiting import until

FIRST, STEP, _SLOTS = 1024, 7, 7800
"""Numbers for jobs: above what a node's own mounts take (about 8 for each container), in slots of STEP. Two jobs that
meet on a node must not have the same slot: with 30 jobs there, a restore meets its own slot taken once in 200 times."""
LAST = FIRST + STEP * _SLOTS - 1
_APART = 2
PATIENCE = 60.0
"""Seconds to wait for another agent of this machine, where it must be these numbers; it takes some tenths of one."""
_LOWER = 250
"""File systems below a throw-away overlay. 500 layers are the kernel's limit; more cost more than they save."""
_MOST = 2 * _LOWER + 2
"""Numbers that one step takes at most: the file systems and the first overlay over them."""
_FAR = 2 * _MOST
"""Farther away from its aim than this, the next step cannot reach it."""
_PLACE = "/usr"
"""Locked while numbers are held: two agents on one kernel (localcloud's nodes) would take the numbers from each other.
A folder that all programs of a machine see, whatever their namespaces. In the thread's own namespace the file systems
are mounted over it."""
_OPTIONS = b"xino=off,index=off,nfs_export=off,lowerdir="
"""Switched off: what the kernel would warn of in its log, because ramfs has no file handles."""
_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x20000, 0x4000, 1 << 19, 2
_AT_FDCWD, _STATX_DEVICE = -100, 136
"""Where `struct statx` has the device's major and minor number (linux/stat.h; the same on every processor)."""
_HERE, _PROBE = b".", b"probe"

_libc = ctypes.PyDLL(None, use_errno=True)
"""Calls that keep Python's lock: letting it go would cost up to 5 ms at each of some hundred calls, beside a busy
thread. Python takes it away between two calls when others want it."""
_slow_libc = ctypes.CDLL(None, use_errno=True)


def choose(count: int) -> list[int]:
    """So many numbers for a new job's file systems (at most 3), in falling order. They may be taken.

    An overlay takes further numbers right after its own: one for its upper layer, one for each file system below it.
    The first of the list has room for two more, the others for one. Low slots are taken more often than high ones,
    which cost more to reach.
    """
    base = FIRST + STEP * min(random.randrange(_SLOTS), random.randrange(_SLOTS))
    return [base + _APART * place for place in reversed(range(count))]


class Holder:
    """Holds free numbers; made by `holding`."""

    def __init__(self, numbers: _Numbers, thread: ThreadPoolExecutor) -> None:
        self._numbers = numbers
        self._thread = thread

    def mount(
        self, number: int, mount: Callable[[], None], number_of: Callable[[], int], unmount: Callable[[], None]
    ) -> int:
        """Call `mount` so that its file system gets the device number 0:`number`; returns it. Ask for numbers in rising
        order.

        `number_of` tells what the mount got, `unmount` takes it away again. DeviceNumberTaken, with nothing mounted:
        another file system of this node has that number. RestoreFailed (the node's fault): the kernel lets us hold
        none. Errors of `mount` pass through. Blocks.
        """
        try:
            reached = self._thread.submit(self._numbers.reach, number).result()
        except OSError as problem:
            said = f"no device number could be held: {problem}"
            raise RestoreFailed(said, "overlay", node_fault=True) from problem
        if not reached:
            raise DeviceNumberTaken(number)
        mount()
        if number_of() != number:  # somebody else's mount came between
            unmount()
            raise DeviceNumberTaken(number)
        return number


@contextlib.contextmanager
def holding(patience: float = PATIENCE) -> Iterator[Holder]:
    """What is held in here is let go at the end, without waiting for it. One at a time on a machine: RestoreFailed (the
    node's fault) if another agent does not come to its end within `patience` seconds."""
    lock = os.open(_PLACE, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        until(lambda: _locked(lock), patience, 0.02, "another agent of this machine to let go of device numbers")
    except TimeoutError as problem:
        os.close(lock)
        raise RestoreFailed(str(problem), "overlay", node_fault=True) from problem
    numbers, thread = _Numbers(), ThreadPoolExecutor(1, "device-numbers")
    try:
        yield Holder(numbers, thread)
    finally:
        thread.submit(numbers.let_all_go).add_done_callback(lambda _: os.close(lock))
        thread.shutdown(wait=False)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Numbers:
    """The numbers that are held. Everything in here runs on one thread, which has a mount namespace of its own."""

    def __init__(self) -> None:
        self._entered = False
        self._mounted: list[bytes] = []
        self._empty: list[bytes] = []
        """Those of them that are empty file systems of their own, and can lie below an overlay."""
        self._most_lower = _LOWER

    def reach(self, number: int) -> bool:
        """Hold every free number below this one; True once it is the next that the kernel gives, False if it is taken.

        What took the number itself, too, is let go, and half as many are tried. The next free number is asked for near
        the end only: it takes the kernel as long as to give away fifty. OSError.
        """
        if not self._entered:
            _enter_own_namespace()
            self._entered = True
        free, size, safe = _next_free(), number, 0
        while free < number:
            before = len(self._mounted)
            self._hold(min(size, number - free))
            newest = _number_of(self._mounted[-1])
            if newest < number - _FAR:  # so are those before it; the next one's own number tells of its others
                free, safe = newest + 1, before
                continue
            free = _next_free()
            if free < number:
                safe = len(self._mounted)
            elif free > number:
                self._let_go(safe)
                if size == 1:
                    return False
                free, size = _next_free(), max(min(size, _MOST) // 2, 1)
        return free == number

    def let_all_go(self) -> None:
        """OSError."""
        if self._entered:
            _call("umount2", _HERE, _MNT_DETACH, library=_slow_libc)

    def _hold(self, size: int) -> None:
        """Hold some of the lowest free numbers, and not more than so many. OSError."""
        most = size - 2
        lower = min(self._most_lower, (most + min(len(self._empty), most)) // 2)
        if lower < 2:  # the least that an overlay without an upper layer may have
            self._mount_empty()
            return
        while len(self._empty) < lower:
            self._mount_empty()
        try:
            self._mount(b"overlay", _OPTIONS + b":".join(self._empty[:lower]))
        except OSError:
            self._most_lower = 0  # a file system for each number, then

    def _mount_empty(self) -> None:
        self._empty.append(self._mount(b"ramfs"))

    def _mount(self, kind: bytes, options: bytes | None = None) -> bytes:
        point = b"%x" % len(self._mounted)
        _mount_at(point, kind, options)
        self._mounted.append(point)
        return point

    def _let_go(self, count: int) -> None:
        """All but the first so many mounts."""
        while len(self._mounted) > count:
            point = self._mounted.pop()
            _call("umount2", point, 0)
            if self._empty[-1:] == [point]:
                self._empty.pop()


def _enter_own_namespace() -> None:
    """This thread's mounts are its own from here on, and its working folder is an empty file system. OSError."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)
    _call("mount", b"perdure", os.fsencode(_PLACE), b"ramfs", ctypes.c_ulong(0), None)
    _call("chdir", os.fsencode(_PLACE))
    with contextlib.suppress(OSError):  # a node that runs from its initial ram disk cannot
        # Without the others' mounts in here, a file system that somebody unmounts meanwhile is really gone.
        _call("pivot_root", _HERE, _HERE)
        _call("umount2", _HERE, _MNT_DETACH)
    _call("mkdir", _PROBE, 0o700)


def _next_free() -> int:
    """The number that the kernel gives next. OSError."""
    _call("mount", b"perdure", _PROBE, b"ramfs", ctypes.c_ulong(0), None)
    number = _number_of(_PROBE)
    _call("umount2", _PROBE, 0)
    return number


def _number_of(point: bytes) -> int:
    """The (lowest) number of what is mounted there. OSError."""
    status = ctypes.create_string_buffer(256)
    _call("statx", _AT_FDCWD, point, 0, 0, status)
    return int(struct.unpack_from("=II", status, _STATX_DEVICE)[1])


def _mount_at(point: bytes, kind: bytes, options: bytes | None) -> None:
    with contextlib.suppress(FileExistsError):  # of something that was let go
        _call("mkdir", point, 0o700)
    _call("mount", b"perdure", point, kind, ctypes.c_ulong(0), options)


def _call(
    name: str,
    *arguments: int | bytes | ctypes.c_ulong | ctypes.Array[ctypes.c_char] | None,
    library: ctypes.CDLL = _libc,
) -> None:
    if getattr(library, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
