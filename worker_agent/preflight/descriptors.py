"""Open descriptors and mappings that a dump cannot take along, by CRIU's own rules (4.2: criu/files.c, tty.c, pipes.c,
files-reg.c, proc_parse.c) and by what was tried (docs/compatibility.md)."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker_agent import proc
from worker_agent.engine.criu_options import GHOST_LIMIT
from worker_agent.engine.descriptors import asked, is_message_queue
from worker_agent.engine.looking import Descriptor, Look
from worker_agent.preflight.findings import Finding, Level, Process

GPU = "gpu"
"""The kind of findings about GPUs."""
_SAVED = {"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd"}
_REFUSED = {"io_uring"}
"""In the table of the engine (engine/refusals.py), which is asked first."""
_ANONYMOUS = {
    "userfaultfd": (
        Level.CHANGE,
        "a userfaultfd (it handles page faults of its own)",
        "Turn off the feature that uses it, or do not let containers have the system call (sysctl "
        "vm.unprivileged_userfaultfd=0 and no CAP_SYS_PTRACE).",
    ),
    "perf_event": (Level.CHANGE, "a performance counter (perf_event)", "Do not profile the job from inside."),
    "bpf": (Level.CHANGE, "an eBPF object", "Load eBPF programs from outside the job's container."),
    "kvm": (Level.BLOCK, "a virtual machine (KVM)", "Virtual machines inside a job cannot be protected."),
    "seccomp notify": (
        Level.CHANGE,
        "a seccomp listener",
        "Run the program without the sandbox that supervises its system calls.",
    ),
}
_OTHER = (Level.CHANGE, "Do without it while the job is to be protected.")
_DEVICES = (
    (
        GPU,
        re.compile(r"/dev/nvidia"),
        Level.CHANGE,
        "Turn on GPU support on the node (PERDURE_GPU=true on the agent; unverified; driver 570 or newer).",
    ),
    (GPU, re.compile(r"/dev/(kfd|dri/)"), Level.BLOCK, "AMD and display devices cannot be saved."),
    ("kvm", re.compile(r"/dev/kvm$"), Level.BLOCK, _ANONYMOUS["kvm"][2]),
    (
        "fuse",
        re.compile(r"/dev/fuse$"),
        Level.CHANGE,
        "Mount it on the instance and bind it into the container (declared shared), or copy the data instead: a file "
        "system server (FUSE) inside the job cannot be saved.",
    ),
    ("tun", re.compile(r"/dev/net/tun$"), Level.CHANGE, "Make tunnels (VPN) on the instance, not inside the job."),
    (
        "rdma",
        re.compile(r"/dev/infiniband/"),
        Level.CHANGE,
        "Use TCP instead of EFA or InfiniBand (for example FI_PROVIDER=tcp).",
    ),
)
_DEVICE = (Level.CHANGE, "Close the device, or do its work outside the job.")
_TERMINAL = (
    "Run the container without a terminal (no `tty` in the job definition, no -t), or start the program with its input "
    "and output redirected."
)
_MEMORY_DEVICES = 1
"""Major number of what CRIU reopens by name: /dev/null and its kin."""
_TTY_MAJORS, _SLAVES, _MASTER = {4, 5, *range(136, 144)}, range(136, 144), (5, 2)
_STAND_INS = ((5, 0), (5, 1))
_MAP = re.compile(r"^([0-9a-f]+-[0-9a-f]+) \S+ \S+ \S+ \d+ +(\S.*)$", re.MULTILINE)
_PLAIN_DEVICES = re.compile(r"/dev/(zero|null|full|u?random)( \(deleted\))?$|/dev/(shm|mqueue|hugepages)/")
_MIB = 1 << 20


@dataclass(frozen=True)
class Surroundings:
    """What a container is, as far as one of its descriptors is judged by it: the numbers of its mounts and of the
    terminals whose masters are its own; whether it has the machine's own System V memory."""

    mounts: frozenset[int]
    terminals: frozenset[int]
    shares_ipc: bool = False


def terminals(look: Look) -> frozenset[int]:
    """The numbers of the terminals whose masters these processes hold."""
    found = set()
    for one in look.descriptors:
        if one.link.endswith("/ptmx"):
            index = re.search(r"^tty-index:\s*(\d+)", _fdinfo(one.pid, one.number), re.MULTILINE)
            if index:
                found.add(int(index[1]))
    return frozenset(found)


def check_descriptors(process: Process, descriptors: Iterable[Descriptor], around: Surroundings) -> Iterator[Finding]:
    """What this process has open. Nothing for one that ended meanwhile."""
    for one in descriptors:
        number, link = one.number, one.link
        held = f"descriptor {number}, {link[:200]}"
        if link.startswith("anon_inode:"):
            yield from _anonymous(process, link, held)
        elif link.startswith("/"):
            with contextlib.suppress(OSError):  # closed while we looked
                yield from _named(process, number, link, around, held)


def _named(process: Process, number: int, link: str, around: Surroundings, held: str) -> Iterator[Finding]:
    status = os.stat(f"/proc/{process.pid}/fd/{number}")
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        yield from _device(process, link, status, _mount(process.pid, number), around, held)
    elif stat.S_ISREG(status.st_mode) and not (link.rfind("/") == 0 and asked(is_message_queue, process.pid, number)):
        yield from _file(process, link, status, _mount(process.pid, number), around, held)


def check_mappings(process: Process, around: Surroundings) -> Iterator[Finding]:
    """What this process has mapped."""
    try:
        table = proc.read(f"/proc/{process.pid}/maps")
    except OSError:
        return
    huge = 0
    for place, path in _MAP.findall(table):
        held = f"mapping {place}, {path[:200]}"
        if path.startswith("anon_inode:"):
            yield from _anonymous(process, path, held)
        elif path.startswith("/dev/") and not _PLAIN_DEVICES.match(path):
            yield _device_finding(process, path.removesuffix(" (deleted)"), "has mapped", held)
        elif path == "[uprobes]":
            what = "is watched by user-space probes (uprobes)"
            yield Finding(Level.CHANGE, "uprobes", what, "End the tracing of the job's programs.", process, held)
        elif path.startswith("/SYSV") and around.shares_ipc:
            what = "has System V shared memory that belongs to the machine"
            fix = "Give the container an IPC namespace of its own (no `ipcMode: host`)."
            yield Finding(Level.CHANGE, "shared IPC", what, fix, process, held)
        elif path.startswith(("/anon_hugepage", "/dev/hugepages/", "/memfd:")) and (size := _huge(process.pid, place)):
            huge += size
    if huge:
        what = f"has {huge // _MIB} MiB of huge pages: a node without as many free ones cannot restore it"
        yield Finding(Level.NOTE, "huge pages", what, "Reserve the same number on every node.", process)


def _anonymous(process: Process, link: str, held: str) -> Iterator[Finding]:
    name = link.removeprefix("anon_inode:").strip("[]")
    if name in _SAVED or name in _REFUSED:
        return
    kind = next((known for known in _ANONYMOUS if name.startswith(known)), "")
    level, thing, fix = _ANONYMOUS[kind] if kind else (_OTHER[0], f"a kernel object ({name[:60]})", _OTHER[1])
    yield Finding(level, kind or "kernel object", f"has {thing} open, which cannot be saved", fix, process, held)


def _device(
    process: Process, link: str, status: os.stat_result, mount: int, around: Surroundings, held: str
) -> Iterator[Finding]:
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISCHR(status.st_mode):
        if major == _MEMORY_DEVICES:
            yield from _outside(process, mount, around, held)
            return
        if major in _TTY_MAJORS:
            # One whose master is closed says nothing about who had that; /dev/tty and /dev/console stand for another.
            own = major in _SLAVES and (major - _SLAVES.start) * 256 + minor in around.terminals
            own = own or (major, minor) in (_MASTER, *_STAND_INS) or link.endswith(" (deleted)")
            if not own or mount not in around.mounts:
                what = "has a terminal open whose other end is outside the container"
                yield Finding(Level.CHANGE, "terminal", what, _TERMINAL, process, held)
            return
    yield _device_finding(process, link, "has a device open,", held)


def _device_finding(process: Process, path: str, verb: str, held: str) -> Finding:
    for kind, pattern, level, fix in _DEVICES:
        if pattern.match(path):
            return Finding(level, kind, f"{verb} {path[:100]}, which cannot be saved", fix, process, held)
    level, fix = _DEVICE
    return Finding(level, "device", f"{verb} {path[:100]}, which cannot be saved", fix, process, held)


def _file(
    process: Process, path: str, status: os.stat_result, mount: int, around: Surroundings, held: str
) -> Iterator[Finding]:
    if path.startswith(("/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "/secretmem")):
        return
    yield from _outside(process, mount, around, held)
    size = status.st_blocks * 512
    if status.st_nlink == 0 and size > GHOST_LIMIT:
        what = f"has a deleted file of {size // _MIB} MiB open; above {GHOST_LIMIT // _MIB} MiB they are not saved"
        fix = "Keep the file's name until it is closed, or split it."
        yield Finding(Level.CHANGE, "deleted file", what, fix, process, held)


def _outside(process: Process, mount: int, around: Surroundings, held: str) -> Iterator[Finding]:
    if mount and mount not in around.mounts:
        what = "has a file open that lies outside its own mounts"
        fix = "Let the container open it by a path of its own; output belongs on stdout and stderr."
        yield Finding(Level.CHANGE, "outside file", what, fix, process, held)


def _fdinfo(pid: int, number: int) -> str:
    with contextlib.suppress(OSError):
        return proc.read(f"/proc/{pid}/fdinfo/{number}")
    return ""


def _mount(pid: int, number: int) -> int:
    found = re.search(r"^mnt_id:\s*(\d+)", _fdinfo(pid, number), re.MULTILINE)
    return int(found[1]) if found else 0


def _huge(pid: int, place: str) -> int:
    """Bytes of a mapping that are huge pages of the reserved kind."""
    with contextlib.suppress(OSError):
        table = proc.read(f"/proc/{pid}/smaps")
        part = table.partition(place)[2].partition("VmFlags:")[0]
        sizes = re.findall(r"^(?:Private|Shared)_Hugetlb:\s*(\d+) kB", part, re.MULTILINE)
        return sum(map(int, sizes)) * 1024
    return 0
