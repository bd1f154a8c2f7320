"""Looking at a container's processes through /proc: what stands in the way of a freeze, what a dump will need."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.mounts import read_mounts
from perdure.image.pages.sink import NAME as PAGE_SINK
from worker_agent import proc
from worker_agent.engine.closed_senders import Sockets, who_reads_from_one
from worker_agent.engine.descriptors import links
from worker_agent.engine.waiting_clients import Listening, who_waits_for
from worker_agent.proc import command

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
        if tracer := proc.status(pid).tracer:
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


def waits_for_vfork(pid: int) -> bool:
    """Does a thread of this process wait for its vfork child to become a program or to end? A child that was stopped at
    its birth, or frozen there, shows the same system call, but stands elsewhere in the kernel. False if it is gone."""
    with contextlib.suppress(OSError):
        for tid in proc.threads(pid):
            task = f"/proc/{pid}/task/{tid}"
            asleep = proc.stat(pid, tid)[0] == "D"
            in_clone = asleep and proc.read(f"{task}/syscall").split()[0] in _CLONES.get(os.uname().machine, ())
            if in_clone and proc.read(f"{task}/wchan") not in _BIRTHS:
                return True
    return False


def ends(pid: int) -> bool:
    """Has this process ended, or will it run no instruction more? All of its threads exit, or SIGKILL waits for it:
    what is frozen or in CRIU's hands dies of that later."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = proc.status(pid)
        waiting = status.signals("SigPnd") | status.signals("ShdPnd")
        return bool(waiting >> signal.SIGKILL - 1 & 1) or all(_exits(pid, tid) for tid in proc.threads(pid))
    return True


def _exits(pid: int, tid: int) -> bool:
    """A dead thread that nobody has waited for exits, too."""
    with contextlib.suppress(OSError):
        return bool(int(proc.stat(pid, tid)[6]) & _EXITING)
    return True


def names(pids: Iterable[int]) -> list[str]:
    """`<pid inside the container> <command>` of each living process."""
    living = (status for pid in pids if (status := proc.status(pid)))
    return [f"{number} {name}" for number, name in sorted((status.numbers[-1], status.name) for status in living)]


def dump_bytes(pids: Iterable[int], init_pid: int) -> int:
    """At most how many bytes a dump of these processes will write: private and shared memory, and files in tmpfs."""
    total, sharing = 0, {}
    for pid in pids:
        status = proc.status(pid)
        total += status.private_kib * _KIB
        if shared := status.kib("RssShmem"):
            sharing[pid] = shared * _KIB
    return total + _shared_bytes(sharing) + sum(_tmpfs_bytes(init_pid))


def _shared_bytes(sharing: dict[int, int]) -> int:
    """Bytes of the shared memory of these processes (pid → what it has of it), each page once: CRIU saves it once,
    and the hundred processes of a database may have all of it."""
    if len(sharing) < 2:
        return sum(sharing.values())
    total = 0
    for pid, most in sharing.items():
        try:
            parts = re.search(r"^Pss_Shmem:\s+(\d+) kB$", proc.read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
        except OSError:  # it ended while we looked
            continue
        total += (int(parts[1]) + 1) * _KIB if parts else most
    return total


def _tmpfs_bytes(init_pid: int) -> Iterator[int]:
    for mount in read_mounts(init_pid):
        if mount.kind == "tmpfs":
            try:
                size = os.statvfs(f"/proc/{init_pid}/root{mount.point}")
            except OSError:
                continue
            yield (size.f_blocks - size.f_bfree) * size.f_frsize


def users_of(*folders: Path) -> list[int]:
    """Processes, other than this one, that have a file or folder at or below `folders` open, or work there: programs of
    ours, and those of this pid namespace. What runs in containers is not looked at: a neighbour may have hundreds of
    thousands of descriptors. One there that has the name of a program of ours must have it on a mount of ours, too: in
    its own it may have folders of any name."""
    tops = [os.path.realpath(folder) for folder in folders]
    own = os.readlink("/proc/self/ns/pid")
    found = []
    for pid in proc.everyone():
        if pid == os.getpid():
            continue
        try:
            contained = os.readlink(f"/proc/{pid}/ns/pid") != own
            if contained and not command(pid).startswith(ENGINE_PROGRAMS):
                continue
            places = {f"/proc/{pid}/fd/{number}": link for number, link in links(pid).items()}
            places[f"/proc/{pid}/cwd"] = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        used = [link for link, place in places.items() if any(f"{place}/".startswith(f"{top}/") for top in tops)]
        if used and (not contained or any(map(_is_on_a_mount_of_ours, used))):
            found.append(pid)
    return found


def _is_on_a_mount_of_ours(link: str) -> bool:
    try:
        file = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it was closed meanwhile
        return False
    try:
        return proc.mount_of(file) in {mount.number for mount in read_mounts()}
    finally:
        os.close(file)
