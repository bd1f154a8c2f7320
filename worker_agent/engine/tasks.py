"""Looking at a container's processes through /proc: what stands in the way of a freeze, what a dump will need."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.mounts import parse_mountinfo

_PROC = Path("/proc")
_CLONES = {"x86_64": {"56", "58", "435"}, "aarch64": {"220", "435"}}
"""clone, vfork, clone3: a task that sleeps in one of them waits for a vfork child to exec or exit."""
_KIB = 1024


def obstacle(pids: Iterable[int]) -> str:
    """Why these processes cannot be frozen and dumped now, naming process and command; empty if nothing is known.

    Each of these was tried: a stopped child under the version 1 freezer makes the dump hang, a traced process and
    the parent of a running vfork time out, an io_uring ring cannot be dumped.
    """
    for pid in pids:
        try:
            reason = _reason(pid)
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if reason:
            return f"process {pid} ({command(pid)}) {reason}"
    return ""


def waits_for_vfork(reason: str) -> bool:
    """Is this obstacle one that goes away by itself in a moment?"""
    return reason.endswith(_VFORK)


_VFORK = "waits for a vfork child"


def _reason(pid: int) -> str:
    tracer = re.search(r"^TracerPid:\t(\d+)", (_PROC / f"{pid}/status").read_text(), re.MULTILINE)
    if tracer and tracer[1] != "0":
        return f"is traced by process {tracer[1]} ({command(int(tracer[1]))})"
    for task in (_PROC / f"{pid}/task").iterdir():
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        if state in "Tt":
            return "is stopped (state T); continue it with SIGCONT"
        if state == "D" and (task / "syscall").read_text().split()[0] in _CLONES.get(os.uname().machine, set()):
            return _VFORK
    if "anon_inode:[io_uring]" in _descriptors(pid):
        return "has an io_uring ring, which CRIU cannot save; turn io_uring off for it"
    return ""


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
    total = 0
    for pid in pids:
        try:
            status = (_PROC / f"{pid}/status").read_text()
        except OSError:
            continue
        total += sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE)) * _KIB
    return total + sum(_tmpfs_bytes(init_pid))


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


def outside_addresses(pids: Iterable[int]) -> list[str]:
    """The addresses of this node, other than loopback, to which a TCP socket of these processes is bound."""
    tables: dict[str, dict[str, str]] = {}
    found = set()
    for pid in pids:
        try:
            network = os.readlink(_PROC / f"{pid}/ns/net")
            if network not in tables:
                tables[network] = dict(_tcp_sockets(pid))
            sockets = tables[network]
            found |= {sockets[name] for name in _descriptors(pid) & sockets.keys()}
        except OSError:
            continue
    plain = (ipaddress.ip_address(address) for address in found)
    return sorted(str(address) for address in plain if not (address.is_loopback or address.is_unspecified))


def _tcp_sockets(pid: int) -> Iterator[tuple[str, str]]:
    """`socket:[inode]` and local address of each TCP socket in the network namespace of `pid`."""
    for table in ("tcp", "tcp6"):
        path = _PROC / f"{pid}/net/{table}"
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            yield f"socket:[{fields[9]}]", _address(fields[1].partition(":")[0])


def _address(text: str) -> str:
    """An address as /proc/net/tcp writes it: 32-bit words in the machine's own byte order, in hex."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _descriptors(pid: int) -> set[str]:
    links = set()
    for name in os.listdir(_PROC / f"{pid}/fd"):
        try:
            links.add(os.readlink(_PROC / f"{pid}/fd" / name))
        except FileNotFoundError:  # closed while we looked
            continue
    return links


def users_of(folder: Path) -> list[int]:
    """Processes, other than this one, that have a file or folder at or below `folder` open, or work in it."""
    top = os.path.realpath(folder)
    found = []
    for item in _PROC.iterdir():
        if not item.name.isdigit() or int(item.name) == os.getpid():
            continue
        try:
            links = _descriptors(int(item.name)) | {os.readlink(item / "cwd")}
        except OSError:
            continue
        if any(link == top or link.startswith(top + "/") for link in links):
            found.append(int(item.name))
    return found
