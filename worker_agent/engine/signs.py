"""How it is seen that a job has or does what is refused before a dump (refusals.py): process and thing, for each one
met in a look. What ended or was closed while we looked is left out. Each blocks for some microseconds a process.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from perdure.image.files import long_paths
from worker_agent import proc
from worker_agent.engine import lost_names, own_mounts, tasks, unix_names
from worker_agent.engine.descriptors import asked, counts_one_by_one, is_message_queue, keeps_packets_apart, links
from worker_agent.engine.looking import Look
from worker_agent.engine.sessions import lost_session
from worker_agent.engine.shared_state import own_of_thread, shared_with_parent
from worker_agent.proc import command

Seen = Iterator[tuple[int, str]]


def traced(look: Look) -> Seen:
    for process in look.processes.values():
        if process.tracer and not _is_our_dump(process.tracer, look):
            yield process.pid, f"by process {process.tracer}, {command(process.tracer)}"


def _is_our_dump(tracer: int, look: Look) -> bool:
    return tracer not in look.processes and command(tracer) == "criu"


def ended_first_thread(look: Look) -> Seen:
    for process in look.processes.values():
        if process.state == "Z" and len(process.threads) > 1:
            yield process.pid, ""


def shared_state(look: Look) -> Seen:
    for process in look.processes.values():
        if process.parent not in look.processes or not shared_with_parent(process.pid, process.parent):
            continue
        if not tasks.waits_for_vfork(process.parent) and (what := shared_with_parent(process.pid, process.parent)):
            yield process.pid, what


def apart(look: Look) -> Seen:
    for process in look.processes.values():
        if process.state == "Z":
            continue  # its first thread, if not all of it, has none of that any more
        for tid in process.threads:
            if tid != process.pid and (what := own_of_thread(process.pid, tid)):
                yield process.pid, f"thread {tid}: {what}"
                break


def io_uring(look: Look) -> Seen:
    return _descriptors(look, "anon_inode:[io_uring]")


def _descriptors(look: Look, link: str) -> Seen:
    return ((one.pid, f"descriptor {one.number}") for one in look.descriptors if one.link == link)


def counting_eventfds(look: Look) -> Seen:
    for one in look.descriptors:
        if one.link == "anon_inode:[eventfd]" and asked(counts_one_by_one, one.pid, one.number):
            yield one.pid, f"descriptor {one.number}"


def packet_pipes(look: Look) -> Seen:
    for one in look.descriptors:
        if one.link.startswith("pipe:") and asked(keeps_packets_apart, one.pid, one.number):
            yield one.pid, f"descriptor {one.number}"


def message_queues(look: Look) -> Seen:
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


def files_of_threads(look: Look) -> Seen:
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


def folders_of_processes(look: Look) -> Seen:
    """CRIU writes a stroke behind the end of that very name (files-reg.c, check_path_remap), and finds no such file."""
    folder = re.compile(rf"(?:{_tops(look)})/\d+")
    for one in look.descriptors:
        if folder.fullmatch(one.link):
            yield one.pid, f"descriptor {one.number}, {one.link}"
    for pid in look.processes:
        with contextlib.suppress(OSError):  # it ended
            if folder.fullmatch(place := os.readlink(f"/proc/{pid}/cwd")):
                yield pid, f"its cwd is {place}"


def gone_with_their_process(look: Look) -> Seen:
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


def timers_of_the_first_thread(look: Look) -> Seen:
    for process in look.processes.values():
        with contextlib.suppress(OSError):
            for _, tid in _TIMER.findall(proc.read(f"/proc/{process.pid}/timers")):
                if int(tid) == process.pid:
                    yield process.pid, ""


def timers_of_ended_threads(look: Look) -> Seen:
    for process in look.processes.values():
        with contextlib.suppress(OSError):
            for _, tid in _TIMER.findall(proc.read(f"/proc/{process.pid}/timers")):
                if int(tid) not in process.threads:
                    yield process.pid, ""


def programs_in_memory(look: Look) -> Seen:
    for pid in look.processes:
        with contextlib.suppress(OSError):
            program = os.readlink(f"/proc/{pid}/exe")
            if program.startswith("/memfd:"):
                yield pid, program


def secret_memory(look: Look) -> Seen:
    for one in look.mappings:
        if one.path.startswith("/secretmem"):
            yield one.pid, f"mapping {one.start}-{one.end}"


_NESTED = ("pid", "user", "ipc", "uts", "time", "time_for_children")
"""Namespaces of which CRIU saves the container's own alone (criu/namespaces.c, CLONE_SUBNS has those that may nest)."""


def nested_namespaces(look: Look) -> Seen:
    own = _namespaces(look.init_pid)
    for process in look.processes.values():
        other = [kind for kind, name in _namespaces(process.pid).items() if own.get(kind, name) != name]
        if other and look.is_below(process):
            yield process.pid, f"{', '.join(other)} namespace"


def _namespaces(pid: int) -> dict[str, str]:
    found = {}
    for kind in _NESTED:
        with contextlib.suppress(OSError):  # gone, a zombie, or a kernel without that kind
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
    return found


def lost_sessions(look: Look) -> Seen:
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


def foreign_epolls(look: Look) -> Seen:
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


def names_that_cannot_be_lent(look: Look) -> Seen:
    around: lost_names.Places | None = None
    for one in (*lost_names.opened(look.descriptors), *lost_names.mapped(look.mappings)):
        around = around or lost_names.places(look.init_pid, look.processes, look.shared)
        if why := lost_names.in_the_way(one, around):
            yield one.pid, f"{one.held}: {why}"


def paths_too_long(look: Look) -> Seen:
    for tree in look.trees:
        for path in long_paths(tree):
            yield look.init_pid, f"{path[:80]}…"
            return


def mounts_of_its_own(look: Look) -> Seen:
    for pid, mount in own_mounts.lost_at_a_restore(look.processes, look.places):
        yield pid, f"{mount.kind} at {mount.point[:200]}"


def names_of_unix_sockets(look: Look) -> Seen:
    for pid, number, name in unix_names.not_found_again(look):
        yield pid, f"descriptor {number}, {name[:100]}"
