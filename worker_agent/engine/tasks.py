"""Looking at a container's processes through /proc: what stands in the way of a freeze, what a dump will need."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.mounts import parse_mountinfo
from worker_agent.engine import unsaved
from worker_agent.engine.descriptors import links

_PROC = Path("/proc")
_CLONES = {"x86_64": {"56", "58", "435"}, "aarch64": {"220", "435"}}
"""clone, vfork, clone3: a task that sleeps in one of them waits for a vfork child to exec or exit."""
_KIB = 1024


def obstacle(pids: Iterable[int]) -> str:
    """Why these processes cannot be frozen and dumped now, naming process and command; empty if nothing is known.

    Each of these was tried: a traced process and the parent of a running vfork time out, an io_uring ring cannot be
    dumped.
    """
    for pid in pids:
        try:
            reason = _reason(pid)
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if reason:
            return f"process {pid} ({command(pid)}) {reason}"
    return ""


def goes_away(reason: str) -> bool:
    """Is this obstacle one that goes away by itself in a moment?"""
    return waits_for_vfork(reason) or reason.endswith(unsaved.WAITING_CLIENT)


def waits_for_vfork(reason: str) -> bool:
    """Is it the obstacle of a vfork in flight?"""
    return reason.endswith(_VFORK)


_VFORK = "waits for a vfork child"


def _reason(pid: int) -> str:
    tracer = re.search(r"^TracerPid:\t(\d+)", (_PROC / f"{pid}/status").read_text(), re.MULTILINE)
    if tracer and tracer[1] != "0":
        return f"is traced by process {tracer[1]} ({command(int(tracer[1]))})"
    for task in (_PROC / f"{pid}/task").iterdir():
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        if state == "D" and (task / "syscall").read_text().split()[0] in _CLONES.get(os.uname().machine, set()):
            return _VFORK
    shown = links(pid)
    if "anon_inode:[io_uring]" in shown.values():
        return "has an io_uring ring, which CRIU cannot save; turn io_uring off for it"
    return unsaved.held(pid, shown)


def command(pid: int) -> str:
    """The short name of a process (never its arguments: they may hold secrets)."""
    try:
        return (_PROC / f"{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def names(pids: Iterable[int]) -> list[str]:
    """`<pid inside the container> <command>` of each living process."""
    found = []
    for pid in pids:
        try:
            status = (_PROC / f"{pid}/status").read_text()
        except OSError:
            continue
        inner = re.search(r"^NSpid:\t(.*)$", status, re.MULTILINE)
        number = int(inner[1].split()[-1]) if inner else pid
        found.append((number, command(pid)))
    return [f"{number} {name}" for number, name in sorted(found)]


def dump_bytes(pids: Iterable[int], init_pid: int) -> int:
    """At most how many bytes a dump of these processes will write: private and shared memory, and files in tmpfs."""
    total, sharing = 0, {}
    for pid in pids:
        try:
            status = (_PROC / f"{pid}/status").read_text()
        except OSError:
            continue
        kib = {name: int(size) for name, size in re.findall(r"^Rss(Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE)}
        total += kib.get("Anon", 0) * _KIB
        if kib.get("Shmem"):
            sharing[pid] = kib["Shmem"] * _KIB
    return total + _shared_bytes(sharing) + sum(_tmpfs_bytes(init_pid))


def _shared_bytes(sharing: dict[int, int]) -> int:
    """Bytes of the shared memory of these processes (pid → what it has of it), each page once: CRIU saves it once,
    and the hundred processes of a database may have all of it."""
    if len(sharing) < 2:
        return sum(sharing.values())
    total = 0
    for pid, most in sharing.items():
        try:
            parts = re.search(r"^Pss_Shmem:\s+(\d+) kB$", (_PROC / f"{pid}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:  # it ended while we looked
            continue
        total += (int(parts[1]) + 1) * _KIB if parts else most
    return total


def _tmpfs_bytes(init_pid: int) -> Iterator[int]:
    try:
        table = (_PROC / f"{init_pid}/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return
    for mount in parse_mountinfo(table):
        if mount.kind == "tmpfs":
            try:
                size = os.statvfs(f"/proc/{init_pid}/root{mount.point}")
            except OSError:
                continue
            yield (size.f_blocks - size.f_bfree) * size.f_frsize


def users_of(*folders: Path) -> list[int]:
    """Processes, other than this one, that have a file or folder at or below `folders` open, or work there."""
    tops = [os.path.realpath(folder) for folder in folders]
    found = []
    for item in _PROC.iterdir():
        if not item.name.isdigit() or int(item.name) == os.getpid():
            continue
        try:
            places = set(links(int(item.name)).values()) | {os.readlink(item / "cwd")}
        except OSError:
            continue
        if any(place == top or place.startswith(top + "/") for place in places for top in tops):
            found.append(int(item.name))
    return found
