"""This node's addresses and ports, as a checkpoint's sockets need them. Only looked at: nothing here changes a network.

A port that somebody else has is found before the restore where possible, from the kernel's own tables: binding it for a
trial would be in the way of a job that starts at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import CommandFailed, ImageInvalid, RestoreFailed
from worker_agent.engine.commands import run
from worker_agent.engine.connections import Binding

_LIMIT = 15.0
_LEFTOVERS = 65.0
"""Seconds in which what is left of ended connections gives its port back (Linux keeps TIME-WAIT for 60)."""
_POLL = 0.5
_LISTEN = 0x0A
_TABLES = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
}
_SOMEWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): the way to them is the default route. Nothing is sent."""


@dataclass(frozen=True)
class Holder:
    """A socket of the node's that is in the way. `inode` 0: nobody's any more."""

    state: int
    inode: int


def exchange(old: Iterable[str]) -> dict[str, str]:
    """For each address that the job's sockets had, the one that takes its place here: itself if this node has it, else
    this node's first address of that family. One for which there is none is left out. ImageInvalid for a text that is
    no address. In the calling thread's network."""
    found = {}
    for text in old:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise ImageInvalid(f"the manifest names an unusable address: {error}") from error
        new = str(address) if _is_here(address) else _first(address.version)
        if new:
            found[str(address)] = new
    return found


def _is_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    with socket.socket(_family(address.version), socket.SOCK_DGRAM) as asking:
        try:
            asking.bind((str(address), 0))
        except OSError:
            return False
    return True


def _first(version: int) -> str:
    with contextlib.suppress(OSError), socket.socket(_family(version), socket.SOCK_DGRAM) as asking:
        asking.connect((_SOMEWHERE[version], 9))
        return str(asking.getsockname()[0])
    return _any_other(version)


def _any_other(version: int) -> str:
    """Without a default route: any address that is not loopback."""
    with contextlib.suppress(OSError):
        if version == 4:
            table = Path("/proc/thread-self/net/fib_trie").read_text()
            local = re.findall(r"-- (\S+)\n\s+/32 host LOCAL", table)
        else:
            lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
            local = [str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))) for line in lines]
        usable = [text for text in local if not (ip := ipaddress.ip_address(text)).is_loopback and not ip.is_link_local]
        return usable[0] if usable else ""
    return ""


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


async def check_ports(needed: Sequence[Binding]) -> None:
    """Return once every port is free. RestoreFailed, the node's fault, names a port that a living process has, and
    that process; what only ended connections hold is waited for. In the calling thread's network."""
    end = time.monotonic() + _LEFTOVERS
    while found := _first_taken(needed):
        if found[1].inode or time.monotonic() > end:
            raise RestoreFailed(await taken(needed), "addresses", node_fault=True)
        await asyncio.sleep(_POLL)


async def taken(needed: Sequence[Binding]) -> str:
    """Which of the ports is taken, and by whom, as a sentence's worth; empty if all are free."""
    found = _first_taken(needed)
    return f"{found[0]}, which the job needs, is taken on this node by {await _owner(*found)}" if found else ""


def _first_taken(needed: Sequence[Binding]) -> tuple[Binding, Holder] | None:
    """One that a living process has, if there is any."""
    found = [(need, holder) for need in needed for holder in _in_the_way(need)]
    return next((pair for pair in found if pair[1].inode), found[0] if found else None)


def _in_the_way(need: Binding) -> Iterator[Holder]:
    for name, (family, kind) in _TABLES.items():
        if kind != need.kind:
            continue
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
                words = line.split()
                address, port = words[1].rsplit(":", 1)
                if int(port, 16) != need.port or not _overlap(need, family, address):
                    continue
                holder = Holder(int(words[3], 16), int(words[9]))
                # Both sides allow the address to be used again: Linux lets them, unless one listens.
                if not need.reusable or holder.state == _LISTEN or (kind == socket.SOCK_STREAM and holder.inode):
                    yield holder


def _overlap(need: Binding, family: int, hexadecimal: str) -> bool:
    packed = bytes.fromhex(hexadecimal)
    packed = b"".join(packed[place : place + 4][::-1] for place in range(0, len(packed), 4))
    there = ipaddress.ip_address(packed)
    mapped = there.ipv4_mapped if isinstance(there, ipaddress.IPv6Address) else None
    if need.address is not None and not there.is_unspecified:
        return str(mapped or there) == need.address
    if need.family == family or mapped is not None:
        return True
    # One of the two is IPv6 and for any address: such a socket takes IPv4's as well, unless it says otherwise. That of
    # the other socket cannot be seen.
    return not need.v6only


async def _owner(need: Binding, holder: Holder) -> str:
    if not holder.inode:
        return "connections that ended a moment ago"
    kind = "--tcp" if need.kind == socket.SOCK_STREAM else "--udp"
    with contextlib.suppress(CommandFailed):
        listing = ["ss", "--no-header", "--all", "--numeric", "--processes", kind, "sport", "=", f":{need.port}"]
        found = re.search(r'\("([^"]*)",pid=(\d+)', await run(listing, limit_seconds=_LIMIT))
        if found:
            return f"process {found[2]} ({found[1]})"
    return "a process of somebody else's"
