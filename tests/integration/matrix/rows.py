"""The table: what a running container may be made of, row by row.

Each row is a small program below jobs/. A program sets something up, says `ready`, uses it until it finds the file
`finish` in its data folder, and prints what would differ if the thing had not come back as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DATA, ROOT = "/data", "/var/lib"
"""Folders of the container: the job volume's data, and one on its root layer."""


@dataclass(frozen=True)
class Row:
    """One row: what it is called in the compatibility table, and what is to be run for it."""

    section: str
    name: str
    argv: list[str]
    quick: bool = False
    """Part of every test run; the others belong to `make matrix`."""
    image: bool = False
    """Needs programs that a bare Debian has not."""
    processes: tuple[str, ...] = ()
    """Commands that must be among the saved processes: the row proves nothing once they have ended."""
    refused: str = ""
    """CRIU cannot save this: what the engine must say (a regular expression), while the job goes on."""
    fails: str = ""
    """Why it fails today. A row that does not fail any more is red until this is taken away."""
    outside: bool = False
    """Needs the echo server outside the container's network."""
    mounts: list[dict[str, object]] = field(default_factory=list)
    process: dict[str, object] = field(default_factory=dict)
    user: str = ""
    """A user of the image by whose numbers it runs, instead of root."""
    needs_capability: str = ""
    """A capability of root without which the row cannot run on this machine."""
    huge_pages: int = 0
    """How many of 2 MiB it needs."""
    cycles: int = 1
    """How often it goes through a death and a notice."""
    mebibytes: int = 1500
    """Size of the job volume."""


def python(section: str, file: str, function: str, name: str, **more: object) -> Row:
    argv = ["/usr/bin/python3", f"/jobs/{file}.py", function, DATA, ROOT]
    return Row(section, name, argv, **more)  # type: ignore[arg-type]


PROCESSES = [
    python(
        "Processes", "processes", "tree", "process trees, sessions and groups, some without their leader", quick=True
    ),
    python("Processes", "processes", "zombies", "zombie processes", quick=True),
    python(
        "Processes",
        "processes",
        "threads",
        "threads with their own state, waiting for each other (futexes)",
        quick=True,
    ),
    python("Processes", "processes", "signals", "blocked and queued signals, handlers"),
    python(
        "Processes",
        "processes",
        "continued",
        "a handler of SIGCONT, which a restore does not call, and a SIGCONT that waits",
    ),
    python("Processes", "processes", "timers", "POSIX timers and interval timers, the monotonic clock", quick=True),
    python("Processes", "processes", "sleepers", "processes that sleep, poll and wait"),
    python("Processes", "processes", "attributes", "limits, niceness, mask, folder, capabilities, prctl settings"),
]

FILES = [
    python(
        "Files", "files", "deleted", "deleted files that are open (1 MB, 300 MB, mapped, O_TMPFILE), a deleted folder"
    ),
    python(
        "Files", "files", "pipes", "pipes with bytes on their way, full, without a writer, without a reader", quick=True
    ),
    python("Files", "files", "locks", "flock, POSIX and OFD locks, and processes that wait for one", quick=True),
    python(
        "Files", "files", "descriptors", "positions, appended logs, shared, sparse and half-deleted files", quick=True
    ),
    python("Files", "files", "fifos", "fifos with bytes on their way"),
    python("Files", "files", "watches", "inotify on data, root layer and tmpfs"),
    python(
        "Files",
        "files",
        "databases",
        "SQLite: an open transaction, and a second connection of the same process",
        quick=True,
    ),
    python("Files", "files", "epolls", "epoll: edges, one-shot, nested"),
    python("Files", "files", "events", "eventfd and timerfd (repeating, one-shot, run out)"),
    python("Files", "files", "semaphore", "an eventfd that counts one by one (EFD_SEMAPHORE)", refused="EFD_SEMAPHORE"),
    python("Files", "files", "signal_descriptors", "signalfd"),
    python("Files", "files", "leases", "leases"),
    python("Files", "files", "packets", "a pipe in packet mode (O_DIRECT)", refused="packet"),
]

_TMPFS: dict[str, object] = {
    "destination": "/scratch",
    "type": "tmpfs",
    "source": "tmpfs",
    "options": ["nosuid", "nodev", "size=131072k"],
}
_QUEUES: dict[str, object] = {
    "destination": "/dev/mqueue",
    "type": "mqueue",
    "source": "mqueue",
    "options": ["nosuid", "noexec", "nodev"],
}
MEMORY = [
    python("Memory", "memory", "shm", "/dev/shm: mapped by two processes, deleted, Python's shared_memory", quick=True),
    python("Memory", "memory", "mapped_files", "files mapped and shared (MAP_SHARED), private mappings", quick=True),
    python("Memory", "memory", "anonymous", "memory shared by parent and child"),
    python("Memory", "memory", "private_memory", "256 MiB, copied on write; guard pages, locked memory"),
    python("Memory", "memory", "memfd", "memfd: shared, sealed, growing"),
    python("Memory", "memory", "system_v", "System V shared memory, semaphores and messages"),
    python("Memory", "memory", "message_queue", "a POSIX message queue", mounts=[_QUEUES], refused="message queue"),
    python("Memory", "memory", "huge_pages", "huge pages: private, shared, in a memfd", huge_pages=8),
    python("Memory", "memory", "tmpfs", "a tmpfs mount: tree, owners, times, open and deleted files", mounts=[_TMPFS]),
]

NETWORK = [
    python(
        "Network", "network", "tcp", "TCP inside the machine, bytes on their way, half closed, listening", quick=True
    ),
    python("Network", "network", "tcp_full", "TCP inside the machine with full buffers"),
    python(
        "Network",
        "network",
        "unix_sockets",
        "unix sockets: stream, datagram, packets; pairs, paths, abstract",
        quick=True,
    ),
    python("Network", "network", "outside", "connections outside: cut, while those inside live on", outside=True),
    python("Network", "network", "passed", "descriptors on their way through a unix socket"),
    python("Network", "network", "credentials", "credentials of unix sockets"),
    python("Network", "network", "udp", "UDP inside the machine"),
    python("Network", "network", "busy_server", "TCP clients that wait a moment before they are accepted"),
    python("Network", "network", "backlog", "a TCP client that nobody accepts", refused="client waiting"),
]


def program(name: str, *argv: str, **more: object) -> Row:
    return Row("Programs", name, [*argv, DATA], image=True, **more)  # type: ignore[arg-type]


def compiled(section: str, name: str, source: str, flags: str, **more: object) -> Row:
    """A program in C, compiled inside the container."""
    build = f"gcc -O2 {flags} -o {ROOT}/{source} /jobs/{source}.c && exec {ROOT}/{source} {DATA}"
    return Row(section, name, ["/bin/sh", "-c", build], image=True, processes=(source,), **more)  # type: ignore[arg-type]


_USER: dict[str, object] = {"user": {"uid": 1000, "gid": 1000, "additionalGids": [100, 2000], "umask": 0o027}}
PROGRAMS = [
    program("GNU sort with temporary files", "/bin/sh", "/jobs/sort.sh", processes=("sort",)),
    program(
        "a shell pipeline with loops, compression, traps", "/bin/bash", "/jobs/pipeline.sh", processes=("gzip", "awk")
    ),
    program("awk with large arrays", "/bin/sh", "/jobs/awk.sh", processes=("awk",)),
    program("perl with a child, signals and a log", "/usr/bin/perl", "/jobs/perl.pl", processes=("perl",)),
    python("Programs", "programs", "pool", "CPython: multiprocessing", image=True),
    python("Programs", "programs", "children", "CPython: subprocesses", quick=True, processes=("sed", "sleep")),
    python("Programs", "programs", "sqlite", "SQLite: write-ahead log and rollback journal", quick=True),
    program(
        "JVM: threads, garbage collection, sockets",
        "/usr/bin/java",
        "-Xmx200m",
        "/jobs/Threads.java",
        processes=("java",),
    ),
    program("R with forked workers", "/usr/bin/Rscript", "/jobs/forks.R", processes=("R",)),
    program("BWA and samtools: align, sort, index", "/bin/bash", "/jobs/align.sh", processes=("bash",)),
    program("BLAST with two threads", "/bin/bash", "/jobs/blast.sh", processes=("bash",)),
    program(
        "GNU parallel, xargs -P, make -j", "/bin/bash", "/jobs/parallel.sh", processes=("parallel", "xargs", "make")
    ),
    program(
        "Open MPI: three ranks",
        *(
            "/usr/bin/mpirun",
            "--allow-run-as-root",
            "--oversubscribe",
            "-np",
            "3",
            "/usr/bin/python3",
            "/jobs/ranks.py",
        ),
        processes=("mpirun", "python3"),
    ),
    program(
        "node: a worker thread, a child, a connection to itself",
        "/usr/bin/node",
        "/jobs/workers.js",
        processes=("node",),
    ),
    compiled("Programs", "C with OpenMP", "openmp", "-fopenmp"),
    program("ffmpeg encoding with two threads", "/bin/sh", "/jobs/ffmpeg.sh", processes=("ffmpeg",)),
    program(
        "PostgreSQL, as a user of its own",
        "/bin/sh",
        "/jobs/postgresql.sh",
        processes=("postgres",),
        user="postgres",
        needs_capability="CAP_SYS_RESOURCE",
    ),
]
PROCESSES += [
    compiled("Processes", "threads in C: thread-local state, barriers, robust mutexes", "threads", "-pthread"),
    Row(
        "Processes",
        "an init wrapper (tini)",
        ["/usr/bin/tini-static", "--", "/bin/sh", "/jobs/tini.sh", DATA],
        image=True,
        processes=("tini-static",),
    ),
    Row(
        "Processes",
        "an ordinary user with groups of its own",
        ["/usr/bin/python3", "/jobs/processes.py", "attributes", DATA, DATA],
        process=_USER,
        needs_capability="CAP_SYS_RESOURCE",
    ),
]

TEN_CYCLES = [
    Row(
        "Programs",
        "ten checkpoints and restores in a row, on alternating nodes",
        ["/usr/bin/python3", "/jobs/mixed.py", "everything", DATA, ROOT],
        image=True,
        cycles=5,
        mebibytes=4000,
        processes=("python3",),
        mounts=[_TMPFS],
    )
]


def reported(section: str, function: str, name: str, **more: object) -> Row:
    """A small job after a public report about CRIU or somebody who uses it."""
    return python(section, "reported", function, name, **more)


_NO_NAME = "cannot be named again"
REPORTED = [
    reported(
        "Processes", "start_times", "start times of processes (psutil)", fails="a restored process gets a new one"
    ),
    reported(
        "Processes",
        "cpu_times",
        "CPU clocks of processes and children, which never go back",
        fails="they begin again at a restore",
    ),
    Row(
        "Processes",
        "a process whose first thread has ended",
        ["/bin/sh", "-c", f"/usr/bin/python3 /jobs/reported.py first_thread_ends {DATA} {ROOT}; exit $?"],
        refused="ended its first thread",
    ),
    reported("Processes", "timer_of_thread", "a POSIX timer that signals another thread"),
    reported(
        "Processes",
        "timer_of_first_thread",
        "a POSIX timer that signals the first thread",
        refused="signals its first thread",
    ),
    reported(
        "Processes",
        "timer_of_ended_thread",
        "a POSIX timer whose thread has ended",
        refused="thread which has ended",
    ),
    compiled(
        "Processes",
        "processes that share memory without being threads",
        "clone_vm",
        "",
        refused="what only threads may share",
    ),
    reported(
        "Processes",
        "program_in_memory",
        "a program that runs from a memfd",
        refused="in memory only",
    ),
    reported("Processes", "program_gone", "a program whose file was removed"),
    reported("Processes", "program_replaced", "a program whose file was replaced"),
    reported("Files", "proc_files", "open files of /proc: its own, a child's, the machine's"),
    reported("Files", "proc_thread", "an open file of a thread in /proc", refused="belongs to a thread"),
    reported("Files", "epoll_copy", "epoll: a number that was closed while a copy lives"),
    reported(
        "Files",
        "epoll_of_parent",
        "epoll: a child has the set without what is in it",
    ),
    reported(
        "Files",
        "epoll_of_child",
        "epoll: a child's own socket in its parent's set",
        refused="only another process has",
    ),
    reported("Files", "name_gone", "an open file that has another name left"),
    reported("Files", "name_folder_gone", "an open file with another name, its old folder gone too"),
    reported("Files", "name_long", "an open file with another name, the old one 255 bytes long", refused=_NO_NAME),
    reported("Files", "name_taken", "an open file with another name, the old one taken", refused=_NO_NAME),
    reported("Files", "name_mapped", "a mapped file with another name"),
    reported("Files", "odd_tree", "odd names, links, holes, attributes, times on the root layer"),
    reported("Files", "deep_tree", "paths of more than 3,800 bytes", refused="a path of more than 3,800 bytes"),
]

ROWS = [*PROCESSES, *FILES, *MEMORY, *NETWORK, *PROGRAMS, *TEN_CYCLES, *REPORTED]
