"""What is refused before a dump, by name: the one table for preflight's look and for the engine.

Here stands what CRIU would save and then not bring back, or bring back as something else, and what it refuses without a
plain word. Whatever else it refuses it says itself (known_failures.py); preflight tells of that, too. Tried with CRIU
4.2.1, each by a job in tests/integration/test_refusals.py.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perdure.image.files import LONGEST_PATH, long_paths
from worker_agent import proc
from worker_agent.engine import lost_names, own_mounts, tasks, unix_names
from worker_agent.engine.descriptors import asked, counts_one_by_one, is_message_queue, keeps_packets_apart, links
from worker_agent.engine.looking import LivingProcess, Look
from worker_agent.engine.sessions import lost_session
from worker_agent.engine.shared_state import own_of_thread, shared_with_parent
from worker_agent.proc import command


@dataclass(frozen=True)
class Refusal:
    """One row: a short and stable name, what a process has or does (a phrase that follows its name), what helps (a
    sentence), and how it is seen: process and thing, for each one met."""

    kind: str
    what: str
    fix: str
    seen: Callable[[Look], Iterator[tuple[int, str]]]


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
        return f"process {self.process.pid} ({self.process.command}) {self.row.what}{held}. {self.row.fix}"


def refused(look: Look) -> list[Refused]:
    """Everything in that look that stands in the way of a checkpoint. Blocks."""
    found = []
    for row in TABLE:
        for pid, held in row.seen(look):
            if pid in look.processes:
                found.append(Refused(row, look.processes[pid], held))
    return found


def _traced(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        if process.tracer and not _is_our_dump(process.tracer, look):
            yield process.pid, f"by process {process.tracer}, {command(process.tracer)}"


def _is_our_dump(tracer: int, look: Look) -> bool:
    return tracer not in look.processes and command(tracer) == "criu"


def _ended_first_thread(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        if process.state == "Z" and len(process.threads) > 1:
            yield process.pid, ""


def _shared_state(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        if process.parent not in look.processes or not shared_with_parent(process.pid, process.parent):
            continue
        if not tasks.waits_for_vfork(process.parent) and (what := shared_with_parent(process.pid, process.parent)):
            yield process.pid, what


def _apart(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        if process.state == "Z":
            continue  # its first thread, if not all of it, has none of that any more
        for tid in process.threads:
            if tid != process.pid and (what := own_of_thread(process.pid, tid)):
                yield process.pid, f"thread {tid}: {what}"
                break


def _io_uring(look: Look) -> Iterator[tuple[int, str]]:
    return _descriptors(look, "anon_inode:[io_uring]")


def _descriptors(look: Look, link: str) -> Iterator[tuple[int, str]]:
    return ((one.pid, f"descriptor {one.number}") for one in look.descriptors if one.link == link)


def _counting_eventfds(look: Look) -> Iterator[tuple[int, str]]:
    for one in look.descriptors:
        if one.link == "anon_inode:[eventfd]" and asked(counts_one_by_one, one.pid, one.number):
            yield one.pid, f"descriptor {one.number}"


def _packet_pipes(look: Look) -> Iterator[tuple[int, str]]:
    for one in look.descriptors:
        if one.link.startswith("pipe:") and asked(keeps_packets_apart, one.pid, one.number):
            yield one.pid, f"descriptor {one.number}"


def _message_queues(look: Look) -> Iterator[tuple[int, str]]:
    """Those that are open, else those that only have a name."""
    found = False
    for one in look.descriptors:
        if one.link.startswith("/") and one.link.rfind("/") == 0 and asked(is_message_queue, one.pid, one.number):
            found = True
            yield one.pid, f"descriptor {one.number}, {one.link}"
    for mount in () if found else look.mounts:
        with contextlib.suppress(OSError):
            if mount.kind == "mqueue" and (names := sorted(os.listdir(f"/proc/{look.init_pid}/root{mount.point}"))):
                yield look.init_pid, f"{mount.point}/{names[0]}"


def _files_of_threads(look: Look) -> Iterator[tuple[int, str]]:
    """At a restore files are opened before threads are made."""
    of_thread = re.compile(rf"(?:{_tops(look)})/(\d+)/task/(\d+)(?:/|\Z| \(deleted\)\Z)")
    for one in look.descriptors:
        found = of_thread.match(one.link)
        if found and found[1] != found[2]:
            yield one.pid, f"descriptor {one.number}, {one.link}"
    for pid in look.processes:
        with contextlib.suppress(OSError):  # it ended
            for link in ("cwd", "root"):
                found = of_thread.match(place := os.readlink(f"/proc/{pid}/{link}"))
                if found and found[1] != found[2]:
                    yield pid, f"its {link} is {place}"


def _folders_of_processes(look: Look) -> Iterator[tuple[int, str]]:
    """CRIU writes a stroke behind the end of that very name (files-reg.c, check_path_remap), and finds no such file."""
    folder = re.compile(rf"(?:{_tops(look)})/\d+")
    for one in look.descriptors:
        if folder.fullmatch(one.link):
            yield one.pid, f"descriptor {one.number}, {one.link}"
    for pid in look.processes:
        with contextlib.suppress(OSError):  # it ended
            if folder.fullmatch(place := os.readlink(f"/proc/{pid}/cwd")):
                yield pid, f"its cwd is {place}"


def _gone_with_their_process(look: Look) -> Iterator[tuple[int, str]]:
    """Other files of ended processes answer CRIU's fstat."""
    inside = re.compile(rf"(?:{_tops(look)})/\d+/")
    for one in look.descriptors:
        if inside.match(one.link):
            try:
                os.stat(f"/proc/{one.pid}/fd/{one.number}")
            except OSError:
                with contextlib.suppress(OSError):  # closed while we looked
                    if os.readlink(f"/proc/{one.pid}/fd/{one.number}") == one.link:
                        yield one.pid, f"descriptor {one.number}, {one.link}"


def _tops(look: Look) -> str:
    """Where /proc is, for a pattern."""
    return "|".join(re.escape(mount.point) for mount in look.mounts if mount.kind == "proc") or "/proc"


_TIMER = re.compile(r"^notify: (\w+)/tid\.(-?\d+)$", re.MULTILINE)


def _timers_of_the_first_thread(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        with contextlib.suppress(OSError):
            for _, tid in _TIMER.findall(proc.read(f"/proc/{process.pid}/timers")):
                if int(tid) == process.pid:
                    yield process.pid, ""


def _timers_of_ended_threads(look: Look) -> Iterator[tuple[int, str]]:
    for process in look.processes.values():
        with contextlib.suppress(OSError):
            for _, tid in _TIMER.findall(proc.read(f"/proc/{process.pid}/timers")):
                if int(tid) not in process.threads:
                    yield process.pid, ""


def _programs_in_memory(look: Look) -> Iterator[tuple[int, str]]:
    for pid in look.processes:
        with contextlib.suppress(OSError):
            program = os.readlink(f"/proc/{pid}/exe")
            if program.startswith("/memfd:"):
                yield pid, program


def _lost_sessions(look: Look) -> Iterator[tuple[int, str]]:
    by_number = {process.inner: process for process in look.processes.values()}
    tree = {}
    for process in look.processes.values():
        parent = look.processes.get(process.parent)
        tree[process.inner] = (parent.inner if parent else 0, process.session)
    first = look.processes.get(look.init_pid)
    lost = lost_session(tree, first.inner) if first else None
    if lost is not None:
        yield by_number[lost].pid, f"session {by_number[lost].session}"


_WATCHED = re.compile(r"^tfd:.*\bino:([0-9a-f]+) ", re.MULTILINE)
_INODE = re.compile(r"(?:socket|pipe):\[(\d+)\]")


def _foreign_epolls(look: Look) -> Iterator[tuple[int, str]]:
    """CRIU looks for what is in an epoll set among the descriptors of the first process that has the set."""
    seen: set[tuple[int, str]] = set()
    somebodys = {found[1] for one in look.descriptors if (found := _INODE.fullmatch(one.link))}
    for one in look.descriptors:
        if one.link != "anon_inode:[eventpoll]":
            continue
        with contextlib.suppress(OSError):  # closed while we looked
            info = proc.read(f"/proc/{one.pid}/fdinfo/{one.number}")
            members = {str(int(inode, 16)) for inode in _WATCHED.findall(info)} & somebodys
            key = (one.number, info.partition("tfd:")[2])
            if not members or key in seen:
                continue
            seen.add(key)  # a child's copy of the same set
            if members - {found[1] for link in links(one.pid).values() if (found := _INODE.fullmatch(link))}:
                yield one.pid, f"descriptor {one.number}"


def _names_that_cannot_be_lent(look: Look) -> Iterator[tuple[int, str]]:
    around: lost_names.Places | None = None
    for one in (*lost_names.opened(look.descriptors), *lost_names.mapped(look.processes)):
        around = around or lost_names.places(look.init_pid, look.processes, look.shared)
        if why := lost_names.in_the_way(one, around):
            yield one.pid, f"{one.held}: {why}"


def _long_paths(look: Look) -> Iterator[tuple[int, str]]:
    for tree in look.trees:
        for path in long_paths(tree):
            yield look.init_pid, f"{path[:80]}…"
            return


def _own_mounts(look: Look) -> Iterator[tuple[int, str]]:
    for pid, mount in own_mounts.lost_at_a_restore(look.processes, look.places):
        yield pid, f"{mount.kind} at {mount.point[:200]}"


def _unix_names(look: Look) -> Iterator[tuple[int, str]]:
    for pid, number, name in unix_names.not_found_again(look):
        yield pid, f"descriptor {number}, {name[:100]}"


TABLE = (
    Refusal("traced", "is traced", "Detach the debugger or strace.", _traced),
    Refusal(
        "ended first thread",
        "has ended its first thread while others go on, which cannot be saved",
        "Let the first thread wait for the others (pthread_join instead of pthread_exit).",
        _ended_first_thread,
    ),
    Refusal(
        "shared state",
        "shares with its parent what only threads may share, which cannot be saved",
        "Use threads, or processes that share memory by mmap.",
        _shared_state,
    ),
    Refusal(
        "thread apart",
        "has a thread with descriptors, a working folder or a namespace of its own (unshare), which would be lost",
        "Use a process for that.",
        _apart,
    ),
    Refusal(
        "io_uring",
        "has an io_uring ring open, which cannot be saved",
        "Leave io_uring refused (the default; PERDURE_REFUSE_IO_URING), so that the program does without, or turn it "
        "off in the program (node: UV_USE_IO_URING=0).",
        _io_uring,
    ),
    Refusal(
        "eventfd",
        "has an eventfd open that counts one by one (EFD_SEMAPHORE), which comes back as an ordinary one",
        "Use a pipe or a semaphore in memory.",
        _counting_eventfds,
    ),
    Refusal(
        "packet pipe", "has a pipe open that keeps packets apart (O_DIRECT)", "Open it without O_DIRECT.", _packet_pipes
    ),
    Refusal(
        "message queue",
        "has a POSIX message queue, which cannot be saved",
        "Unlink it while it is not used, or use a unix socket or a fifo instead.",
        _message_queues,
    ),
    Refusal(
        "file of a thread",
        "has a file of /proc open that belongs to a thread, and could not be restored",
        "Do not keep files of /proc/PID/task/TID open: read and close them each time.",
        _files_of_threads,
    ),
    Refusal(
        "folder of a process",
        "has the folder of a living process in /proc open, and could not be restored",
        "Open what is in it when you need it, or use pidfd_open.",
        _folders_of_processes,
    ),
    Refusal(
        "folder of an ended process",
        "has a folder of /proc open that belongs to a process which has ended, which cannot be saved",
        "Close it when the process ends.",
        _gone_with_their_process,
    ),
    Refusal(
        "timer of the first thread",
        "has a POSIX timer that signals its first thread (SIGEV_THREAD_ID), and could not be restored",
        "Let the timer signal the process (SIGEV_SIGNAL) or another thread.",
        _timers_of_the_first_thread,
    ),
    Refusal(
        "timer of an ended thread",
        "has a POSIX timer that signals a thread which has ended, which cannot be saved",
        "Delete the timer when its thread ends.",
        _timers_of_ended_threads,
    ),
    Refusal(
        "program in memory",
        "runs a program that is in memory only (memfd), and could not be restored",
        "Start it from a file.",
        _programs_in_memory,
    ),
    Refusal(
        "lost session",
        "is in a session whose first process is gone, and could not be restored",
        "Let the program that begins a session (setsid) live as long as those in it, or start them as its children.",
        _lost_sessions,
    ),
    Refusal(
        "epoll of another process",
        "has an epoll set with descriptors in it that only another process has, which cannot be saved",
        "Let each process have a set of its own.",
        _foreign_epolls,
    ),
    Refusal(
        "lost name",
        "has a file in use that lost its name, has another, and cannot be named again",
        "Keep the name by which it was opened, or close it.",
        _names_that_cannot_be_lent,
    ),
    Refusal(
        "own mount",
        "sees a file system that was mounted inside the container, of a kind that could not be mounted again",
        "Unpack or copy what is in it, or mount it on the instance and bind it in, declared shared. A tmpfs is saved.",
        _own_mounts,
    ),
    Refusal(
        "unix socket's name",
        "has a unix socket with a relative name that its path does not end with (./name, ../name, or moved since), "
        "which cannot be saved",
        "Bind it by its whole path.",
        _unix_names,
    ),
    Refusal(
        "long path",
        f"or one beside it has made a path of more than {LONGEST_PATH:,} bytes, which cannot be saved",
        "Use fewer or shorter folders.",
        _long_paths,
    ),
)
