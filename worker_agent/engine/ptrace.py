"""The kernel's ptrace requests, for the thread that makes them: threads of a job held still between two instructions.

A traced thread answers to the thread that seized it alone: what begins in one thread must end in it. If the agent dies,
the kernel lets all traced threads go. Numbers: linux/ptrace.h; they are the same on every 64-bit machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time

from worker_agent import proc

_CONT, _DETACH = 7, 17
_GETSIGINFO, _SEIZE, _INTERRUPT, _PEEKSIGINFO, _GETSIGMASK, _SETSIGMASK = 0x4202, 0x4206, 0x4207, 0x4209, 0x420A, 0x420B
_EVENT_STOP = 128
_WALL = 0x40000000
_SHARED = 1
_MASK_BYTES = 8
_INFO_BYTES = 128
_MOST_INFOS = 32
_POLL = 0.001

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


class Traced:
    """One thread, seized. Every method raises ProcessLookupError once the thread has ended, OSError if the kernel
    refuses."""

    def __init__(self, pid: int, tid: int) -> None:
        self.pid = pid
        self.tid = tid
        _request(_SEIZE, tid)

    def interrupt(self) -> None:
        """Have it stop before its next instruction. One that is stopped will stop again after `go_on`."""
        _request(_INTERRUPT, self.tid)

    def go_on(self, signal: int = 0) -> None:
        """Let it go on from where it stopped; `signal` is delivered to it, 0 takes away the one it stopped for."""
        _request(_CONT, self.tid, data=signal)

    def detach(self) -> None:
        """Let it go for good."""
        _request(_DETACH, self.tid)

    def wait(self, end: float) -> int:
        """Until it has stopped: the signal that it is about to take, 0 if it stopped because it was told to.
        TimeoutError at `end` (monotonic seconds)."""
        while True:
            if time.monotonic() > end:
                raise TimeoutError(f"thread {self.tid} of process {self.pid} did not stop")
            found, status = os.waitpid(self.tid, os.WNOHANG | _WALL)
            if found and not os.WIFSTOPPED(status):
                raise ProcessLookupError(f"thread {self.tid} of process {self.pid} has ended")
            if found:
                return 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)
            time.sleep(_POLL)

    def forget_continued(self) -> None:
        """Take away what its parent's wait would say about a continuation (WCONTINUED)."""
        os.waitpid(self.tid, os.WNOHANG | os.WCONTINUED | _WALL)

    def mask(self) -> int:
        """The signals that it blocks, one bit each, bit 0 for signal 1."""
        found = ctypes.c_uint64()
        _request(_GETSIGMASK, self.tid, _MASK_BYTES, ctypes.addressof(found))
        return found.value

    def set_mask(self, mask: int) -> None:
        """The inverse of `mask`."""
        wanted = ctypes.c_uint64(mask)
        _request(_SETSIGMASK, self.tid, _MASK_BYTES, ctypes.addressof(wanted))

    def shared_pending(self) -> list[tuple[int, int]]:
        """Number and si_code of each signal that waits for any thread of its process."""
        found: list[tuple[int, int]] = []
        infos = ctypes.create_string_buffer(_INFO_BYTES * _MOST_INFOS)
        while True:
            which = ctypes.create_string_buffer(struct.pack("=QIi", len(found), _SHARED, _MOST_INFOS))
            count = _request(_PEEKSIGINFO, self.tid, ctypes.addressof(which), ctypes.addressof(infos))
            for place in range(count):
                number, _, code = struct.unpack_from("=3i", infos, place * _INFO_BYTES)
                found.append((number, code))
            if count < _MOST_INFOS:
                return found

    def signal_code(self) -> int:
        """si_code of the signal that it is about to take."""
        info = ctypes.create_string_buffer(_INFO_BYTES)
        _request(_GETSIGINFO, self.tid, 0, ctypes.addressof(info))
        return int(struct.unpack_from("=3i", info)[2])

    def deliverable(self) -> int:
        """The signals that wait for it or for its process and that it does not block, as in `mask`."""
        status = proc.status(self.pid, self.tid)
        if not status:
            raise ProcessLookupError(f"thread {self.tid} of process {self.pid} has ended")
        return (status.signals("SigPnd") | status.signals("ShdPnd")) & ~status.signals("SigBlk")


def let_go(traced: list[Traced]) -> None:
    """Detach all, as far as they are still there. One that was never waited for is stopped first."""
    for task in traced:
        try:
            task.detach()
        except ProcessLookupError:  # it ended, or it has not stopped
            with contextlib.suppress(OSError):
                task.interrupt()
                task.wait(time.monotonic() + 1.0)
                task.detach()


def _request(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    done = int(
        _libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), ctypes.c_void_p(data))
    )
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace request {request:#x} on thread {tid}: {os.strerror(code)}")
    return done
