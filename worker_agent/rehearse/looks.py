"""What came back, compared with what the checkpoint holds: each process, its memory map, its open files.

The image is CRIU's (images/pstree.proto, core.proto, mm.proto, fdinfo.proto); a restored process is what /proc shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from perdure.domain.errors import RestoreFailed
from worker_agent import proc
from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Message

_MAGIC = {"pstree": 0x50273030, "core": 0x55053847, "ids": 0x54432030, "fdinfo": 0x56213732, "mm": 0x57492820}
"""CRIU, criu/include/magic.h."""
_PID, _THREADS = 1, 5
_TC, _STATE, _DEAD = 3, 1, (2, 6)
"""core_entry.tc.task_state; TASK_DEAD and TASK_ZOMBIE, of which nothing but the exit code comes back
(criu/include/pid.h)."""
_FILES_ID = 2
_FD = 4
_VMAS, _START, _END, _STATUS = 14, 1, 2, 6
_REGULAR = 1
"""A bit of vma_entry.status: a mapping of the process's own, and not the kernel's vdso (criu/include/image.h)."""


def compare(images: Path) -> int:
    """How many processes came back. RestoreFailed names the first difference. Only this pid namespace's processes are
    looked at, those of the container below it."""
    restored = _restored()
    count = 0
    for pid, threads in _processes(images):
        state = _state(images, pid)
        if state in _DEAD:
            continue
        if pid not in restored:
            raise _missing(f"process {pid} did not come back")
        _compare_one(images, pid, threads, restored[pid])
        count += 1
    return count


def _compare_one(images: Path, pid: int, threads: int, here: int) -> None:
    found = len(proc.threads(here))
    if found != threads:
        raise _missing(f"process {pid} came back with {found} threads instead of {threads}")
    lost = sorted(_descriptors(images, pid) ^ {int(name) for name in os.listdir(f"/proc/{here}/fd")})
    if lost:
        raise _missing(f"process {pid} came back with other open files: {', '.join(map(str, lost[:10]))}")
    mapped = _mapped(here)
    for start, end in _mappings(images, pid):
        if not _covered(mapped, start, end):
            raise _missing(f"process {pid} came back without its memory at {start:x}-{end:x}")


def _missing(what: str) -> RestoreFailed:
    return RestoreFailed(f"CRIU said that the restore went well, but {what}", "look", image_fault=True)


def _entries(images: Path, kind: str, name: str) -> Iterator[Message]:
    data = (images / name).read_bytes()
    return (criu_image.parse(entry) for entry in criu_image.entries(data, _MAGIC[kind]))


def _processes(images: Path) -> list[tuple[int, int]]:
    """Each process as the container numbers it, and its number of threads."""
    found = _entries(images, "pstree", "pstree.img")
    return [(criu_image.number(one, _PID), len(criu_image.numbers(one, _THREADS))) for one in found]


def _state(images: Path, pid: int) -> int:
    core = next(_entries(images, "core", f"core-{pid}.img"))
    return criu_image.number(criu_image.part(core, _TC) or [], _STATE)


def _descriptors(images: Path, pid: int) -> set[int]:
    ids = next(_entries(images, "ids", f"ids-{pid}.img"))
    name = f"fdinfo-{criu_image.number(ids, _FILES_ID)}.img"
    return {criu_image.number(one, _FD) for one in _entries(images, "fdinfo", name)}


def _mappings(images: Path, pid: int) -> list[tuple[int, int]]:
    """None of a process that shares its memory with another one, which has them."""
    if not (images / f"mm-{pid}.img").exists():
        return []
    found = []
    for field in next(_entries(images, "mm", f"mm-{pid}.img")):
        if field.number == _VMAS and isinstance(field.value, bytes):
            vma = criu_image.parse(field.value)
            if criu_image.number(vma, _STATUS) & _REGULAR:
                found.append((criu_image.number(vma, _START), criu_image.number(vma, _END)))
    return found


def _mapped(pid: int) -> list[tuple[int, int]]:
    """The process's memory map, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for line in proc.lines(f"/proc/{pid}/maps"):
        start, end = (int(word, 16) for word in line.split(" ", 1)[0].split("-"))
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _covered(mapped: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(first <= start and end <= last for first, last in mapped)


def _restored() -> dict[int, int]:
    """Processes of the container: as it numbers them, and as this namespace does."""
    numbers = ((pid, proc.status(pid).numbers) for pid in proc.everyone())
    return {known[1]: pid for pid, known in numbers if len(known) > 1}
