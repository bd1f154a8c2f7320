"""Serving a lazily restored job: each page is brought when it is asked for, and all others meanwhile.

CRIU's restore hands over, for each process, its number and a userfaultfd; then, when everything stands, the word
RESTORE_FINISHED (criu/uffd.c, send_uffd and lazy_pages_finish_restore). Each page is compared with its fingerprint
before the job sees it. Messages of the kernel about changes of the job's memory come before anything else: a copy that
meets a change is refused by the kernel (EAGAIN) and made again after it.

Why not `criu lazy-pages`: docs/decisions/lazy-restore.md.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from perdure.image.pages.prints import PAGE
from worker_agent.lazy_pages import userfault
from worker_agent.lazy_pages.missing import Missing, Part
from worker_agent.lazy_pages.source import Source, Verifying

RESTORE_FINISHED = 0x52535446
_AROUND = 16
"""Pages brought when one is asked for: this one and those behind it."""
_AT_ONCE = 256
"""Pages brought at once in the background: while they come nobody else is answered."""
_CHANGING = 1
"""Milliseconds until a memory that was changing is looked at again."""
_CONNECTS = 170.0
"""Seconds in which CRIU must come: the container start time-out is over then."""
_LOOK = 10
"""Milliseconds between two looks at what runs beside, while CRIU works."""
_MEMORY_PATIENCE = 20.0
"""Seconds in which the job's memory limit may stand in the way."""


class Gone(Exception):
    """The memory's process has ended, or runs another program."""


class Failed(Exception):
    """The job cannot be given its memory: it must be ended."""


@dataclass
class Memory:
    """One process's memory, or that of a child which was born meanwhile."""

    descriptor: int
    missing: Missing
    born: bool = False
    waiting: list[int] = field(default_factory=list)
    """Addresses that could not be answered because the memory was changing."""


class Server:
    """One restored job."""

    def __init__(self, source: Source, later: dict[int, list[Part]], verifying: Verifying) -> None:
        self._source = source
        self._later = later
        self._verifying = verifying
        self._memories: dict[int, Memory] = {}
        self._poll = select.poll()
        self._buffer = mmap.mmap(-1, _AT_ONCE * PAGE)
        self._pages = memoryview(self._buffer)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._criu: socket.socket | None = None
        self._finished = False
        self._short_since = 0.0

    def serve(self, listener: socket.socket, sound: Callable[[], None]) -> bool:
        """Until nothing is missing any more: True; False if there was no restore, or if it ended before all stood.
        `sound` is called once what CRIU reads itself was found sound. Failed, ImageInvalid, OSError."""
        self._poll.register(listener, select.POLLIN)
        told, end = False, time.monotonic() + _CONNECTS
        while not self._finished or self._memories or not told:
            if not told and self._verifying.over():
                sound()
                told = True
            if self._criu is None and time.monotonic() > end:
                return False
            heard = self._poll.poll(0 if self._finished and self._memories else _LOOK)
            for descriptor, _ in heard:
                if descriptor == listener.fileno():
                    self._accept(listener)
                elif self._criu is not None and descriptor == self._criu.fileno():
                    if not self._hear_criu(self._criu):
                        return False
                elif descriptor in self._memories:
                    self._with(self._memories[descriptor], self._hear)
            for memory in [memory for memory in self._memories.values() if memory.waiting]:
                self._with(memory, self._ask_again)
            if self._finished:
                self._bring_some(_AROUND if heard else _AT_ONCE)
        return True

    # ---- CRIU -----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        self._criu, _ = listener.accept()
        self._poll.unregister(listener)
        self._poll.register(self._criu, select.POLLIN)

    def _hear_criu(self, criu: socket.socket) -> bool:
        """Is the restore still under way, or finished?"""
        word = criu.recv(4, socket.MSG_WAITALL)
        if len(word) < 4:
            self._poll.unregister(criu)
            return self._finished
        number = struct.unpack("<i", word)[0]
        if number == RESTORE_FINISHED:
            self._finished = True
        elif number > 0:  # that of a zombie is negative
            _, descriptors, _, _ = socket.recv_fds(criu, 1, 1)
            if not descriptors:
                raise Failed(f"CRIU gave no userfaultfd for process {number}")
            self._take(Memory(descriptors[0], Missing(self._later.pop(number, []))))
        return True

    def _take(self, memory: Memory) -> None:
        os.set_blocking(memory.descriptor, False)
        self._memories[memory.descriptor] = memory
        self._poll.register(memory.descriptor, select.POLLIN)

    def _drop(self, memory: Memory) -> None:
        self._poll.unregister(memory.descriptor)
        del self._memories[memory.descriptor]
        os.close(memory.descriptor)  # who waits there looks again, and the kernel answers

    # ---- the kernel -----------------------------------------------------------------------------------------------

    def _with(self, memory: Memory, work: Callable[[Memory], None]) -> None:
        try:
            work(memory)
        except Gone:
            self._drop(memory)

    def _hear(self, memory: Memory) -> None:
        messages = userfault.messages(memory.descriptor)
        for message in messages:
            if message.event != userfault.FAULT:
                self._change(memory, message)
        asked = (message.second & ~(PAGE - 1) for message in messages if message.event == userfault.FAULT)
        for address in dict.fromkeys(asked):
            self._answer(memory, address)

    def _change(self, memory: Memory, message: userfault.Message) -> None:
        match message.event:
            case userfault.FORK:
                self._take(Memory(message.child, memory.missing.copy(), born=True))
            case userfault.REMAP:
                memory.missing.move(message.first, message.second, message.third)
            case userfault.REMOVE | userfault.UNMAP:
                # What was given back is zeros from now on. It stays registered: to leave it to the kernel would divide
                # the mapping, and a job may have 65,530 of them in all.
                memory.missing.cut(message.first, message.second)
            case other:
                raise Failed(f"the kernel says something unknown of the job's memory ({other:#x})")

    def _ask_again(self, memory: Memory) -> None:
        waiting, memory.waiting = memory.waiting, []
        for address in waiting:
            self._answer(memory, address)

    def _answer(self, memory: Memory, address: int) -> None:
        """The job waits for this page."""
        part = memory.missing.asked(address, _AROUND)
        if part is not None:
            if not self._bring(memory, part):
                memory.waiting.append(address)
            return
        failed = userfault.zero(memory.descriptor, address)
        if failed == errno.EAGAIN:
            memory.waiting.append(address)
        elif failed in (errno.ESRCH, errno.ENOSPC):
            raise Gone
        elif failed in (errno.EEXIST, errno.ENOENT):  # it is there, or its place is gone
            userfault.wake(memory.descriptor, address)
        elif failed:
            raise Failed(f"a page of zeros was refused: {os.strerror(failed)}")

    # ---- bringing -------------------------------------------------------------------------------------------------

    def _bring_some(self, most_pages: int) -> None:
        """In the background. Children come last: most of them soon run another program."""
        for memory in list(self._memories.values()):
            if not memory.missing and not memory.waiting:
                self._drop(memory)
        left = [memory for memory in self._memories.values() if memory.missing]
        if left:
            memory = min(left, key=lambda one: one.born)
            part = memory.missing.next(most_pages)
            assert part is not None
            self._source.want(part.source + part.pages)
            self._with(memory, partial(self._bring_in_turn, part=part))

    def _bring_in_turn(self, memory: Memory, part: Part) -> None:
        if not self._bring(memory, part):
            self._poll.poll(_CHANGING)

    def _bring(self, memory: Memory, part: Part) -> bool:
        """Is its first page no longer missing? False: the memory is changing, so not now."""
        self._source.read(part.source, self._pages[: part.pages * PAGE])
        here = self._copy(memory, part.start, part.pages)
        memory.missing.cut(part.start, part.start + here * PAGE)
        return here > 0

    def _copy(self, memory: Memory, address: int, pages: int) -> int:
        """How many of them need no copy any more, from the first on. 0: not now, because the memory is changing."""
        while True:
            done, failed = userfault.copy(memory.descriptor, address, self._address, pages * PAGE)
            if done:
                self._short_since = 0.0
                return done // PAGE
            if failed == errno.ENOENT and pages > 1:  # the job has divided the mapping: a copy stays within one
                pages //= 2
                continue
            return self._refused(memory, address, failed)

    def _refused(self, memory: Memory, address: int, failed: int) -> int:
        if failed == errno.EAGAIN:
            return 0
        if failed in (errno.ESRCH, errno.ENOSPC):
            raise Gone
        if failed == errno.EEXIST:
            userfault.wake(memory.descriptor, address)
            return 1
        if failed == errno.ENOENT and memory.born:  # a child does not inherit everything
            return 1
        if failed == errno.ENOMEM:
            now = time.monotonic()
            self._short_since = self._short_since or now
            if now - self._short_since < _MEMORY_PATIENCE:
                return 0
        raise Failed(f"the job's memory at {address:#x} cannot be filled: {os.strerror(failed)}")
