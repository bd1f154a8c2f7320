"""Looking at a container's processes through /proc: what stands in the way of a freeze, what a dump will need."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.mounts import parse_mountinfo
from perdure.image.pages.sink import NAME as PAGE_SINK
from worker_agent.engine.closed_senders import Sockets, who_reads_from_one
from worker_agent.engine.descriptors import links
from worker_agent.engine.waiting_clients import Listening, who_waits_for

_PROC = Path("/proc")
_CLONES = {"x86_64": {"56", "58", "435"}, "aarch64": {"220", "435"}}
"""clone, vfork, clone3: a task that sleeps in one of them waits for a vfork child to exec or exit."""
_BIRTHS = {"do_signal_stop", "ptrace_stop", "do_freezer_trap", "__refrigerator", "get_signal"}
"""Where in the kernel a new task stands that has not run yet because it was stopped, traced or frozen."""
_EXITING = 0x4
"""PF_EXITING of the kernel's include/linux/sched.h, in the ninth field of /proc/PID/stat."""
_KIB = 1024
_NOBODY: Listening = {}
_NONE: Sockets = {}
ENGINE_PROGRAMS = ("criu", "runc", "cp", "tar", "gzip", PAGE_SINK)
"""The names of the programs that work for the engine (CRIU's restored processes are called `criu`, too, until they get
their own names)."""


def obstacle(pids: Iterable[int], listening: Listening = _NOBODY, sockets: Sockets = _NONE) -> str:
    """What came up since the look and makes a dump of these processes wait or fail, naming process and command; empty
    if there is nothing. For the freeze: nothing here grows with descriptors.

    Each of these was tried: a traced process and the parent of a running vfork time out.
    """
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            tracer = _tracer(pid)
            if tracer:
                return f"process {pid} ({command(pid)}) is traced by process {tracer} ({command(tracer)})"
            if waits_for_vfork(pid):
                return f"process {pid} ({command(pid)}) {_VFORK}"
    if (server := who_waits_for(listening)) is not None:
        return f"process {server} ({command(server)}) {WAITING_CLIENT}"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if (reader := who_reads_from_one(sockets)) is not None:
            return f"process {reader} ({command(reader)}) {CLOSED_SENDER}"
    return ""


def goes_away(reason: str) -> bool:
    """Is this obstacle one that goes away by itself in a moment?"""
    return reason.endswith((_VFORK, WAITING_CLIENT, CLOSED_SENDER))


_VFORK = "waits for a vfork child"
WAITING_CLIENT = "or one beside it has a TCP client waiting that it has not accepted yet"

CLOSED_SENDER = (
    "or one beside it has not yet read what a TCP connection inside the job brings, whose sender has closed it already"
)


def _tracer(pid: int) -> int:
    found = re.search(r"^TracerPid:\t(\d+)", (_PROC / f"{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def waits_for_vfork(pid: int) -> bool:
    """Does a thread of this process wait for its vfork child to become a program or to end? A child that was stopped at
    its birth, or frozen there, shows the same system call, but stands elsewhere in the kernel. False if it is gone."""
    with contextlib.suppress(OSError):
        for task in (_PROC / f"{pid}/task").iterdir():
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            in_clone = state == "D" and (task / "syscall").read_text().split()[0] in _CLONES.get(os.uname().machine, ())
            if in_clone and (task / "wchan").read_text() not in _BIRTHS:
                return True
    return False


def ends(pid: int) -> bool:
    """Has this process ended, or will it run no instruction more? All of its threads exit, or SIGKILL waits for it:
    what is frozen or in CRIU's hands dies of that later."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = (_PROC / f"{pid}/status").read_text("utf-8", "replace")
        waiting = re.findall(r"^(?:SigPnd|ShdPnd):\t(\w+)", status, re.MULTILINE)
        if any(int(mask, 16) >> signal.SIGKILL - 1 & 1 for mask in waiting):
            return True
        return all(_exits(task) for task in (_PROC / f"{pid}/task").iterdir())
    return True


def _exits(task: Path) -> bool:
    """A dead thread that nobody has waited for exits, too."""
    with contextlib.suppress(OSError):
        return bool(int((task / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[6]) & _EXITING)
    return True


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
    """Processes, other than this one, that have a file or folder at or below `folders` open, or work there: programs of
    ours, and those of this pid namespace. What runs in containers is not looked at: a neighbour may have hundreds of
    thousands of descriptors."""
    tops = [os.path.realpath(folder) for folder in folders]
    own = os.readlink(_PROC / "self/ns/pid")
    found = []
    for item in _PROC.iterdir():
        if not item.name.isdigit() or int(item.name) == os.getpid():
            continue
        try:
            if not command(int(item.name)).startswith(ENGINE_PROGRAMS) and os.readlink(item / "ns/pid") != own:
                continue
            places = set(links(int(item.name)).values()) | {os.readlink(item / "cwd")}
        except OSError:
            continue
        if any(place == top or place.startswith(top + "/") for place in places for top in tops):
            found.append(int(item.name))
    return found
