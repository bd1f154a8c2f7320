"""Rows about memory: shared in every way, System V and POSIX objects, tmpfs, large and unusual mappings."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any

from row import Check, call, expect, last, libc, main, places, same  # type: ignore[import-not-found]

MIB = 1 << 20
MAP_HUGETLB = 0x40000
IPC_CREAT, IPC_RMID, IPC_NOWAIT, IPC_STAT = 0o1000, 0, 0o4000, 2
_HELD: list[object] = []

libc.shmat.restype = ctypes.c_void_p


class Partner:
    """Another process that has the same memory: it adds one to each byte of a page that it is asked for."""

    def __init__(self, memory: Any) -> None:
        ask, answer = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            while word := os.read(ask[0], 8):
                at = struct.unpack("Q", word)[0]
                memory[at : at + 4096] = bytes((byte + 1) & 255 for byte in memory[at : at + 4096])
                os.write(answer[1], b"k")
            os._exit(0)
        self.to, self.back = ask[1], answer[0]

    def add(self, at: int) -> None:
        os.write(self.to, struct.pack("Q", at))
        os.read(self.back, 1)


def _pattern(size: int, seed: bytes = b"") -> bytes:
    block = b"".join(hashlib.sha256(seed + b"%d" % number).digest() for number in range(2048))
    return block * (size // len(block))


def _shared(memory: Any, size: int, on_disk: Callable[[int], bytes] | None = None) -> Check:
    """Two processes change one memory in turn; all of it is compared at the end, and with the file it stands for."""
    model = bytearray(_pattern(size))
    memory[:size] = bytes(model)
    partner = Partner(memory)
    steps = [0]

    def check() -> str:
        at = (steps[0] * 7919 * 4096) % size
        steps[0] += 1
        partner.add(at)
        memory[at] = (memory[at] + 3) & 255
        model[at : at + 4096] = bytes((byte + 1) & 255 for byte in model[at : at + 4096])
        model[at] = (model[at] + 3) & 255
        same(bytes(memory[at : at + 4096]), bytes(model[at : at + 4096]), "shared page")
        if on_disk:
            same(on_disk(at), bytes(model[at : at + 4096]), "page of the file")
        if last():
            expect(bytes(memory[:size]) == bytes(model), "shared memory has changed")
        return "shared"

    return check


def anonymous() -> Check:
    """Memory shared by parent and child, without a file."""
    return _shared(mmap.mmap(-1, 8 * MIB), 8 * MIB)


def shm() -> Check:
    """/dev/shm: 40 MiB mapped by two processes, one more by Python's shared_memory, a deleted one still mapped."""
    file = open("/dev/shm/forty", "w+b")  # noqa: SIM115
    file.truncate(40 * MIB)
    memory = mmap.mmap(file.fileno(), 40 * MIB)
    block = shared_memory.SharedMemory(create=True, size=MIB, name="block")
    assert block.buf is not None
    block.buf[:4] = b"kept"
    lost = open("/dev/shm/lost", "w+b")  # noqa: SIM115
    lost.truncate(MIB)
    window = mmap.mmap(lost.fileno(), MIB)
    window[:4] = b"lost"
    os.unlink("/dev/shm/lost")
    _HELD.extend([file, block, lost])
    shared = _shared(memory, 40 * MIB, lambda at: os.pread(file.fileno(), 4096, at))

    def check() -> object:
        same(sorted(os.listdir("/dev/shm"))[:2], ["block", "forty"], "/dev/shm")
        again = shared_memory.SharedMemory(name="block")
        assert again.buf is not None
        same(bytes(again.buf[:4]), b"kept", "shared_memory")
        again.close()
        same(os.pread(lost.fileno(), 4, 0), bytes(window[:4]), "deleted file of /dev/shm")
        if last():
            result = shared()
            block.unlink()
            return result
        return shared()

    return check


def mapped_files() -> Check:
    """Files mapped MAP_SHARED by two processes on both file systems, and a private mapping that has changed."""
    checks = []
    for folder in places():
        file = open(f"{folder}/mapped", "w+b")  # noqa: SIM115
        file.truncate(16 * MIB)
        memory = mmap.mmap(file.fileno(), 16 * MIB)
        checks.append(_shared(memory, 16 * MIB, lambda at, file=file: os.pread(file.fileno(), 4096, at)))  # type: ignore[misc]
        _HELD.append(file)
    path = f"{places()[0]}/private"
    with open(path, "w+b") as file:
        file.write(_pattern(MIB, b"private"))
    with open(path, "r+b") as file:
        private = mmap.mmap(file.fileno(), MIB, mmap.MAP_PRIVATE)
    private[4096:4104] = b"changed!"

    def check() -> None:
        for one in checks:
            one()
        same(private[4096:4104], b"changed!", "private page")
        expect(private[8192:] == _pattern(MIB, b"private")[8192:], "pages of a private mapping")
        with open(path, "rb") as file:
            expect(file.read() == _pattern(MIB, b"private"), "a private change reached the file")

    return check


def memfd() -> Check:
    """memfd: shared with a child, sealed against every change, growing."""
    open_one = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(open_one, 8 * MIB)
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(sealed, _pattern(MIB, b"sealed"))
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, seals)
    growing = os.memfd_create("growing")
    shared = _shared(mmap.mmap(open_one, 8 * MIB), 8 * MIB, lambda at: os.pread(open_one, 4096, at))
    counts = [0]

    def check() -> None:
        shared()
        same(fcntl.fcntl(sealed, fcntl.F_GET_SEALS), seals, "seals")
        try:
            os.write(sealed, b"x")
            expect(False, "a sealed file was written")
        except PermissionError:
            pass
        expect(os.pread(sealed, MIB, 0) == _pattern(MIB, b"sealed"), "sealed file")
        os.write(growing, b"y")
        counts[0] += 1
        same(os.fstat(growing).st_size, counts[0], "size of the growing file")

    return check


def private_memory() -> Check:
    """256 MiB in a parent and a child that share their pages until one writes; guard pages, locked memory, advice."""
    size = 256 * MIB
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:size] = _pattern(size, b"private")
    reference = hashlib.sha256(memory).hexdigest()
    guarded = mmap.mmap(-1, 3 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(guarded))
    call("mprotect", ctypes.c_void_p(address + 4096), 4096, 0)
    locked = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    call("mlock", ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(locked))), 4096)
    memory.madvise(mmap.MADV_DONTDUMP)
    _HELD.extend([guarded, locked])
    ask, answer = os.pipe(), os.pipe()
    if os.fork() == 0:
        memory[0:5] = b"child"
        while os.read(ask[0], 1):
            os.write(answer[1], hashlib.sha256(memory[4096:]).digest() + memory[:5])
        os._exit(0)
    rest = hashlib.sha256(memory[4096:]).digest()
    flags = _flags(address + 4096)
    done = [False]

    def check() -> str:
        end = last()
        if end or not done[0]:
            same(hashlib.sha256(memory).hexdigest(), reference, "memory of the parent")
            os.write(ask[1], b"?")
            same(os.read(answer[0], 100), rest + b"child", "memory of the child")
            done[0] = True
        same(_flags(address + 4096), flags, "guard page")
        return reference[:16]

    return check


def _flags(address: int) -> str:
    """Permissions of the mapping that holds an address."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if int(start, 16) <= address < int(end, 16):
                return line.split()[1]
    return ""


def system_v() -> Check:
    """System V shared memory (attached, and marked for removal), semaphores, and messages that wait in a queue."""
    kept = call("shmget", 0x1234, MIB, IPC_CREAT | 0o600)
    removed = call("shmget", 0, MIB, IPC_CREAT | 0o600)
    memories = []
    for identity in (kept, removed):
        address = libc.shmat(identity, None, 0)
        memories.append((ctypes.c_char * MIB).from_address(address))
    call("shmctl", removed, IPC_RMID, None)
    for memory in memories:
        ctypes.memmove(memory, _pattern(65536, b"sysv"), 65536)
    partner = Partner(memories[1])
    semaphores = call("semget", 0x77, 3, IPC_CREAT | 0o600)
    for number in range(3):
        call("semctl", semaphores, number, 16, 10 + number)  # SETVAL
    queue = call("msgget", 0x99, IPC_CREAT | 0o600)
    for number in range(5):
        call("msgsnd", queue, struct.pack("l16s", 1 + number % 2, b"message %d" % number), 16, 0)
    steps = [0]

    def check() -> str:
        same(call("shmget", 0x1234, MIB, 0), kept, "identity of the shared memory")
        same(memories[0][:65536], _pattern(65536, b"sysv"), "shared memory")
        same(call("semget", 0x77, 3, 0), semaphores, "identity of the semaphores")
        same([libc.semctl(semaphores, number, 12) for number in range(3)], [10, 11, 12], "semaphores")
        before = memories[1][8192]
        partner.add(8192)
        same(memories[1][8192], bytes([(before[0] + 1) & 255]), "shared memory marked for removal")
        same(call("msgget", 0x99, 0), queue, "identity of the queue")
        received = []
        for _ in range(5):
            buffer = ctypes.create_string_buffer(24)
            call("msgrcv", queue, buffer, 16, 0, IPC_NOWAIT)
            received.append(buffer.raw)
        wanted = [struct.pack("l16s", 1 + number % 2, b"message %d" % number) for number in range(5)]
        same(received, wanted, "messages")
        for message in wanted:
            call("msgsnd", queue, message, 16, 0)
        steps[0] += 1
        return "System V"

    return check


def message_queue() -> Check:
    """A POSIX message queue with a message in it."""
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = library.mq_open(b"/queue", os.O_RDWR | os.O_CREAT, 0o600, None)
    expect(queue >= 0, f"mq_open: {ctypes.get_errno()}")
    same(library.mq_send(queue, b"message", 7, 3), 0, "mq_send")

    def check() -> str:
        buffer, priority = ctypes.create_string_buffer(8192), ctypes.c_uint()
        same(library.mq_receive(queue, buffer, 8192, ctypes.byref(priority)), 7, "mq_receive")
        same((buffer.raw[:7], priority.value), (b"message", 3), "message")
        same(library.mq_send(queue, b"message", 7, 3), 0, "mq_send")
        return "queue"

    return check


def huge_pages() -> Check:
    """Huge pages: private and shared, anonymous and in a memfd."""
    size = 4 * MIB
    checks = [_shared(mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB), size)]
    private = mmap.mmap(-1, 2 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    private[: 2 * MIB] = _pattern(2 * MIB, b"huge")
    file = os.memfd_create("huge", os.MFD_HUGETLB)
    os.ftruncate(file, 2 * MIB)
    window = mmap.mmap(file, 2 * MIB)
    window[:4] = b"huge"
    mappings = _huge_mappings()

    def check() -> str:
        for one in checks:
            one()
        expect(private[: 2 * MIB] == _pattern(2 * MIB, b"huge"), "private huge page")
        same(window[:4], b"huge", "huge page of a file")
        same(_huge_mappings(), mappings, "mappings of huge pages")
        return "huge"

    return check


def _huge_mappings() -> list[str]:
    """Address and permissions of each mapping of huge pages."""
    found, mapping = [], ""
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if line.startswith("KernelPageSize:") and line.split()[1] == "2048":
                found.append(mapping)
            elif "-" in line.split()[0]:
                mapping = " ".join(line.split()[:2])
    return sorted(found)


def tmpfs() -> Check:
    """A tmpfs mount of the container's own: a tree, an open deleted file, owners, modes, times, links, holes."""
    top = "/scratch"
    os.makedirs(f"{top}/a/b/c")
    for number in range(200):
        with open(f"{top}/a/b/{number}", "wb") as file:
            file.write(_pattern(65536, b"%d" % number))
        os.chmod(f"{top}/a/b/{number}", 0o600 + number % 8)
        os.chown(f"{top}/a/b/{number}", 1000 + number, 100)
        os.utime(f"{top}/a/b/{number}", ns=(10**18 + number, 10**18 + number))
    os.symlink("b/7", f"{top}/a/link")
    os.link(f"{top}/a/b/8", f"{top}/a/hard")
    with open(f"{top}/sparse", "wb") as file:
        file.truncate(1 << 30)
    held = open(f"{top}/held", "w+b", buffering=0)  # noqa: SIM115
    gone = open(f"{top}/gone", "w+b", buffering=0)  # noqa: SIM115
    os.unlink(f"{top}/gone")
    first, counts = _inventory(top), [0]

    def check() -> str:
        for file in (held, gone):
            file.write(b"z")
        counts[0] += 1
        same((os.fstat(held.fileno()).st_size, os.fstat(gone.fileno()).st_size), (counts[0],) * 2, "sizes")
        same(os.path.getsize(f"{top}/held"), counts[0], "the held file is another one")
        if counts[0] % 20 == 1 or last():
            now = _inventory(top)
            for path in {*now, *first}:
                same(now.get(path), first.get(path), path)
        return f"{len(first)} files"

    return check


def _inventory(top: str) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = f"{folder}/{name}"
            status = os.lstat(path)
            if name != "held":
                content = b"" if status.st_size > MIB or os.path.islink(path) else open(path, "rb").read()  # noqa: SIM115
                facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size)
                found[path] = (*facts, status.st_mtime_ns, status.st_blocks, hashlib.sha256(content).hexdigest())
    return found


if __name__ == "__main__":
    main(globals())
