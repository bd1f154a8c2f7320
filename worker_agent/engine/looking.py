"""One look at a container's processes and at what they have open, for all who judge it.

A descriptor that hundreds of forked processes inherited is the same in each of them (its number and what it shows),
and is looked at once: a job may have hundreds of thousands. What has no name of its own (anon_inode, memfd, deleted) is
looked at in each. Blocks: some microseconds for each descriptor, so it belongs into a thread, never into the freeze.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from perdure.image.mounts import Mount, read_mounts
from worker_agent import proc

_NAMELESS = ("anon_inode:", "/memfd:")


@dataclass(frozen=True)
class LivingProcess:
    """One process as this node numbers it; `inner` and `session` are the container's numbers (`session` 0: its leader
    is not in the container)."""

    pid: int
    inner: int
    parent: int
    session: int
    command: str
    state: str
    tracer: int
    threads: tuple[int, ...]


@dataclass(frozen=True)
class Descriptor:
    """An open descriptor, in the first process that has it, and what /proc shows for it."""

    pid: int
    number: int
    link: str


@dataclass(frozen=True)
class Mapping:
    """A file in a process's memory that is not simply there by its name: deleted, a device, secret memory. `start` and
    `end` are as /proc writes them."""

    pid: int
    start: str
    end: str
    path: str


@dataclass(frozen=True)
class Look:
    """What was seen: processes in the order of their numbers, and their descriptors, each once."""

    init_pid: int
    processes: dict[int, LivingProcess] = field(default_factory=dict)
    descriptors: tuple[Descriptor, ...] = ()
    shared: tuple[str, ...] = ()
    """Places of mounts that are not the job's alone, as far as they are known."""
    trees: tuple[Path, ...] = ()
    """Where its own files are on this node, if that is to be looked at: it takes time for hundreds of thousands of
    folders."""
    places: tuple[str, ...] = ()
    """Where the container engine mounted something, as far as it is known."""

    @cached_property
    def mounts(self) -> list[Mount]:
        """The container's mount table; empty if its first process is gone."""
        return read_mounts(self.init_pid)

    @cached_property
    def sockets(self) -> dict[int, Descriptor]:
        """By inode: a descriptor that leads to it."""
        return {int(one.link[8:-1]): one for one in self.descriptors if one.link.startswith("socket:[")}

    @cached_property
    def mappings(self) -> list[Mapping]:
        """Those of all processes. The kernel goes through the memory map of each."""
        return [one for pid in self.processes for one in mappings(pid)]

    def is_below(self, process: LivingProcess) -> bool:
        """Does it descend from the container's first process? What was started from outside (exec) does not, and is no
        part of a dump."""
        climbing: LivingProcess | None = process
        while climbing is not None and climbing.pid != self.init_pid:
            climbing = self.processes.get(climbing.parent)
        return climbing is not None

    def of(self, pid: int) -> Iterator[Descriptor]:
        """The descriptors that were seen first in this process."""
        return (one for one in self.descriptors if one.pid == pid)


def look(
    pids: Iterable[int],
    init_pid: int,
    *,
    shared: Iterable[str] = (),
    trees: Iterable[Path] = (),
    places: Iterable[str] = (),
) -> Look:
    """Look at these processes; those that end meanwhile are left out. `shared`, `trees` and `places`: see Look."""
    place = max(0, proc.level(init_pid))
    processes = {}
    seen: set[tuple[int, int, str]] = set()
    descriptors = []
    for pid in sorted(pids):
        found = _process(pid, place)
        if found is None:
            continue
        processes[pid] = found
        for number, link in _links(pid):
            nameless = link.startswith(_NAMELESS) or link.endswith(" (deleted)")
            key = (pid if nameless else 0, number, link)
            if key not in seen:
                seen.add(key)
                descriptors.append(Descriptor(pid, number, link))
    return Look(init_pid, processes, tuple(descriptors), tuple(shared), tuple(trees), tuple(places))


_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ (\S+ \d+) +(/dev/.*|/secretmem.*|/.* \(deleted\))$", re.MULTILINE
)


def mappings(pid: int) -> list[Mapping]:
    """Those of one process, each file once. None if it is gone. Blocks: the kernel goes through all its memory map."""
    with contextlib.suppress(OSError):
        table = _MAPPING.findall(proc.read(f"/proc/{pid}/maps"))
        found = {file: (start, end, path) for start, end, file, path in reversed(table)}
        return [Mapping(pid, *where) for where in found.values()]
    return []


def one_of_each(pids: Iterable[int], namespace: str) -> Iterator[int]:
    """The first of these processes in each namespace of this kind (as in /proc/PID/ns). What has ended is left out."""
    spaces = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if (space := os.readlink(f"/proc/{pid}/ns/{namespace}")) not in spaces:
                spaces.add(space)
                yield pid


def _process(pid: int, place: int) -> LivingProcess | None:
    status = proc.status(pid)
    numbers, sessions = status.numbers, status.sessions
    if len(numbers) <= place:
        return None
    try:
        threads = tuple(sorted(proc.threads(pid)))
    except OSError:
        return None
    return LivingProcess(
        pid=pid,
        inner=numbers[place],
        parent=status.parent,
        session=sessions[place] if len(sessions) > place else 0,
        command=status.name,
        state=status.state,
        tracer=status.tracer,
        threads=threads,
    )


def _links(pid: int) -> Iterator[tuple[int, str]]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # the process ended
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # closed while we looked
                yield int(name), os.readlink(f"{folder}/{name}")
