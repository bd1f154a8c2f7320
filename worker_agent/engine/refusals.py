"""What is refused before a dump, by name: the one table for preflight's look and for the engine.

Here stands what CRIU would save and then not bring back, or bring back as something else, what it refuses without a
plain word, and what stays and is cheap to see, so that no job is frozen for it again and again (a sandbox, secret
memory). Whatever else it refuses it says itself (known_failures.py); preflight tells of that, too. Tried with CRIU
4.2.1, each by a job in tests/integration/test_refusals.py or test_preflight.py. How it is seen: signs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perdure.image.files import LONGEST_PATH
from worker_agent.engine import signs
from worker_agent.engine.looking import LivingProcess, Look
from worker_agent.engine.signs import Seen
from worker_agent.proc import printable


@dataclass(frozen=True)
class Refusal:
    """One row: a short and stable name, what a process has or does (a phrase that follows its name), what helps (a
    sentence), and how it is seen: process and thing, for each one met."""

    kind: str
    what: str
    fix: str
    seen: Callable[[Look], Seen]


@dataclass(frozen=True)
class Refused:
    """A row that holds for a process of the container; `held` is the descriptor or whatever else it is."""

    row: Refusal
    process: LivingProcess
    held: str = ""

    @property
    def sentence(self) -> str:
        """Who has what, and what helps."""
        held = f" ({self.held})" if self.held else ""
        said = f"process {self.process.pid} ({self.process.command}) {self.row.what}{held}. {self.row.fix}"
        return printable(said)  # paths and names are the job's, and the sentence goes into JSON and to terminals


def refused(look: Look) -> list[Refused]:
    """Everything in that look that stands in the way of a checkpoint. Blocks."""
    found = []
    for row in TABLE:
        for pid, held in row.seen(look):
            if pid in look.processes:
                found.append(Refused(row, look.processes[pid], held))
    return found


TABLE = (
    Refusal("traced", "is traced", "Detach the debugger or strace.", signs.traced),
    Refusal(
        "ended first thread",
        "has ended its first thread while others go on, which cannot be saved",
        "Let the first thread wait for the others (pthread_join instead of pthread_exit).",
        signs.ended_first_thread,
    ),
    Refusal(
        "shared state",
        "shares with its parent what only threads may share, which cannot be saved",
        "Use threads, or processes that share memory by mmap.",
        signs.shared_state,
    ),
    Refusal(
        "thread apart",
        "has a thread with descriptors, a working folder or a namespace of its own (unshare), which would be lost",
        "Use a process for that.",
        signs.apart,
    ),
    Refusal(
        "io_uring",
        "has an io_uring ring open, which cannot be saved",
        "Leave io_uring refused (the default; PERDURE_REFUSE_IO_URING), so that the program does without, or turn it "
        "off in the program (node: UV_USE_IO_URING=0).",
        signs.io_uring,
    ),
    Refusal(
        "eventfd",
        "has an eventfd open that counts one by one (EFD_SEMAPHORE), which comes back as an ordinary one",
        "Use a pipe or a semaphore in memory.",
        signs.counting_eventfds,
    ),
    Refusal(
        "packet pipe",
        "has a pipe open that keeps packets apart (O_DIRECT)",
        "Open it without O_DIRECT.",
        signs.packet_pipes,
    ),
    Refusal(
        "message queue",
        "has a POSIX message queue, which cannot be saved",
        "Unlink it while it is not used, or use a unix socket or a fifo instead.",
        signs.message_queues,
    ),
    Refusal(
        "file of a thread",
        "has a file of /proc open that belongs to a thread, and could not be restored",
        "Do not keep files of /proc/PID/task/TID open: read and close them each time.",
        signs.files_of_threads,
    ),
    Refusal(
        "folder of a process",
        "has the folder of a living process in /proc open, and could not be restored",
        "Open what is in it when you need it, or use pidfd_open.",
        signs.folders_of_processes,
    ),
    Refusal(
        "folder of an ended process",
        "has a folder of /proc open that belongs to a process which has ended, which cannot be saved",
        "Close it when the process ends.",
        signs.gone_with_their_process,
    ),
    Refusal(
        "timer of the first thread",
        "has a POSIX timer that signals its first thread (SIGEV_THREAD_ID), and could not be restored",
        "Let the timer signal the process (SIGEV_SIGNAL) or another thread.",
        signs.timers_of_the_first_thread,
    ),
    Refusal(
        "timer of an ended thread",
        "has a POSIX timer that signals a thread which has ended, which cannot be saved",
        "Delete the timer when its thread ends.",
        signs.timers_of_ended_threads,
    ),
    Refusal(
        "program in memory",
        "runs a program that is in memory only (memfd), and could not be restored",
        "Start it from a file.",
        signs.programs_in_memory,
    ),
    Refusal(
        "secret memory",
        "has secret memory (memfd_secret), which nobody else can read",
        "Turn that feature off.",
        signs.secret_memory,
    ),
    Refusal(
        "nested namespace",
        "runs in a container or sandbox of its own inside the job's",
        "Run the program without the inner container or sandbox.",
        signs.nested_namespaces,
    ),
    Refusal(
        "lost session",
        "is in a session whose first process is gone, and could not be restored",
        "Let the program that begins a session (setsid) live as long as those in it, or start them as its children.",
        signs.lost_sessions,
    ),
    Refusal(
        "epoll of another process",
        "has an epoll set with descriptors in it that only another process has, which cannot be saved",
        "Let each process have a set of its own.",
        signs.foreign_epolls,
    ),
    Refusal(
        "lost name",
        "has a file in use that lost its name, has another, and cannot be named again",
        "Keep the name by which it was opened, or close it.",
        signs.names_that_cannot_be_lent,
    ),
    Refusal(
        "own mount",
        "sees a file system that was mounted inside the container, of a kind that could not be mounted again",
        "Unpack or copy what is in it, or mount it on the instance and bind it in, declared shared. A tmpfs is saved.",
        signs.mounts_of_its_own,
    ),
    Refusal(
        "unix socket's name",
        "has a unix socket with a relative name that its path does not end with (./name, ../name, or moved since), "
        "which cannot be saved",
        "Bind it by its whole path.",
        signs.names_of_unix_sockets,
    ),
    Refusal(
        "long path",
        f"or one beside it has made a path of more than {LONGEST_PATH:,} bytes, which cannot be saved",
        "Use fewer or shorter folders.",
        signs.paths_too_long,
    ),
)
