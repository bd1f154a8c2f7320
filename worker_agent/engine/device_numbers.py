"""Device numbers of the file systems that a job writes to: chosen once per job, and the same on every node.

Programs know a file by its device and inode number; SQLite takes one file for two when the device number has changed.
An overlay gets an *anonymous* device number, 0:N, and the kernel always gives the lowest N that is free on the node
(`get_anon_bdev`, fs/super.c). So an overlay gets a wanted N by holding every free number below it for a moment, with
empty ramfs file systems that are mounted nowhere. Holding one takes about 10 microseconds, letting it go the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from perdure.domain.errors import DeviceNumberTaken, RestoreFailed
from perdure.waiting import until

FIRST, LAST, STEP = 1024, 8191, 16
"""Numbers for jobs: above what a node's own mounts take (about 8 for each container), and many, because two jobs that
meet on a node must not have the same ones. A job's begin at a multiple of STEP: what somebody else mounts while numbers
are held gets those just above, and must not lie in another job's way."""
_APART = 5
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""System calls of Linux 5.2 and later; the same numbers on x86_64 and aarch64."""
_CMD_CREATE, _CLOEXEC = 6, 1
_ONE_AT_A_TIME = Path("/usr")
"""Locked while numbers are held: two agents on one kernel (localcloud's nodes) would take the numbers from each other.
A folder that all programs of a machine see, whatever their namespaces."""
_PATIENCE = 60.0
"""Seconds to wait for that lock; it is held for some tenths of a second."""
_SPARE = 1024
"""File descriptors for everything else."""

_libc = ctypes.CDLL(None, use_errno=True)


def choose(count: int) -> list[int]:
    """So many numbers for a new job's file systems, in rising order (at most 3). They may be taken.

    Not one after the other: an overlay takes further numbers for the file systems of its lower layers (`ovl_get_fsid`,
    fs/overlayfs/super.c), right after its own.
    """
    base = random.randrange(FIRST, LAST - STEP, STEP)
    return [base + _APART * place for place in range(count)]


class Holder:
    """Holds free numbers; made by `holding`."""

    def __init__(self, held: contextlib.ExitStack) -> None:
        self._held = held

    def mount(
        self, number: int, mount: Callable[[], None], number_of: Callable[[], int], unmount: Callable[[], None]
    ) -> int:
        """Call `mount` so that its file system gets the device number 0:`number`; the number that it got. Ask for
        numbers in rising order.

        `number_of` tells what the mount got, `unmount` takes it away again. Where the kernel cannot be asked (before
        5.2), the file system is mounted all the same and gets any number. DeviceNumberTaken, with nothing mounted:
        another file system of this node has that number. Errors of `mount` pass through. Blocks.
        """
        try:
            reached = _reach(number, self._held)
        except OSError as problem:
            if problem.errno not in (errno.ENOSYS, errno.EMFILE):
                said = f"no device number could be held: {problem}"
                raise RestoreFailed(said, "overlay", node_fault=True) from problem
            mount()
            return number_of()
        if not reached:
            raise DeviceNumberTaken(number)
        mount()
        if number_of() != number:  # somebody else's mount came between
            unmount()
            raise DeviceNumberTaken(number)
        return number


@contextlib.contextmanager
def holding() -> Iterator[Holder]:
    """What is held in here is let go at the end. One at a time on a machine: RestoreFailed (the node's fault) if
    another agent does not come to its end."""
    lock = os.open(_ONE_AT_A_TIME, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        try:
            until(lambda: _locked(lock), _PATIENCE, 0.02, "another agent of this machine to let go of device numbers")
        except TimeoutError as problem:
            raise RestoreFailed(str(problem), "overlay", node_fault=True) from problem
        _allow(LAST + _SPARE)
        with contextlib.ExitStack() as held:
            yield Holder(held)
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _allow(descriptors: int) -> None:
    """This process may have so many open, if the machine allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors, hard), hard))


def _reach(number: int, held: contextlib.ExitStack) -> bool:
    """Hold every free number below this one; True once it is the next that the kernel gives, False if it is taken.

    Only the last of each batch is asked for its number, which costs a hundred times as much. A batch that went past the
    number is let go, and half of it is tried. OSError.
    """
    size = 1
    while True:
        with contextlib.ExitStack() as batch:
            for _ in range(size):
                last = _file_system()
                batch.callback(os.close, last)
            got = _number_of(last)
            if got < number:
                held.enter_context(batch.pop_all())
                size = number - got
            elif size == 1:
                return got == number
            else:
                size //= 2


def _file_system() -> int:
    """A new, empty file system that is mounted nowhere: it lives as long as this descriptor. OSError."""
    context = _call(_FSOPEN, b"ramfs", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
    except OSError:
        os.close(context)
        raise
    return context


def _number_of(file_system: int) -> int:
    mount = _call(_FSMOUNT, file_system, _CLOEXEC, 0)
    try:
        return os.minor(os.fstat(mount).st_dev)
    finally:
        os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    done = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done
