"""Sockets that a dump refuses (CRIU 4.2: criu/sockets.c, sk-inet.c, sk-unix.c), and connections that do not last."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping

from worker_agent.engine.connections import outside
from worker_agent.engine.descriptors import copied
from worker_agent.engine.looking import Look, one_of_each
from worker_agent.preflight.findings import Finding, Level, Process

_FAMILIES = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK}
_NAMES = {38: "kernel crypto (AF_ALG)", 40: "virtual machine (AF_VSOCK)", 44: "AF_XDP", 29: "CAN", 21: "RDS", 43: "SMC"}
_PROTOCOLS = {0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 136, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6}
_MPTCP, _SCTP = 262, 132
_SO_PROTOCOL, _SO_DOMAIN = 38, 39
_PEERS = re.compile(r"\s(\d+)\s+\S+\s+(\d+)\s*$", re.MULTILINE)
"""The end of a line of `ss -x`: inode of the socket, name and inode of its peer."""
_LIMIT = 15.0


def check_sockets(processes: Mapping[int, Process], look: Look) -> Iterator[Finding]:
    """All sockets of a container. Blocks shortly; may run `ss`."""
    unix: dict[int, tuple[Process, int, int]] = {}
    for process, number, inode, asked in _sockets(processes, look):
        family, kind = (asked.getsockopt(socket.SOL_SOCKET, name) for name in (_SO_DOMAIN, socket.SO_TYPE))
        if family == socket.AF_UNIX:
            unix[inode] = (process, number, kind)
        else:
            yield from _family(process, number, asked, family, kind)
    yield from _outside_peers(unix)
    yield from _outside_connections(processes, look)


def _sockets(processes: Mapping[int, Process], look: Look) -> Iterator[tuple[Process, int, int, socket.socket]]:
    """Each once, however many processes have it."""
    told = set()
    for one in look.descriptors:
        found = re.fullmatch(r"socket:\[(\d+)\]", one.link)
        if found and found[1] not in told:
            told.add(found[1])
            with contextlib.suppress(OSError), copied(one.pid, one.number) as copy:  # closed while we looked
                # The kind is a guess, so that none is refused; it is asked for below.
                asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=copy)
                try:
                    yield processes[one.pid], one.number, int(found[1]), asked
                finally:
                    asked.detach()  # the copy is closed by its owner


def _family(process: Process, number: int, asked: socket.socket, family: int, kind: int) -> Iterator[Finding]:
    held = f"descriptor {number}"
    if family not in _FAMILIES:
        what = f"has a {_NAMES.get(family, f'family {family}')} socket open, which cannot be saved"
        yield Finding(Level.CHANGE, "socket", what, "Do without it, or use TCP instead.", process, held)
    elif family in (socket.AF_INET, socket.AF_INET6) and kind != socket.SOCK_RAW:
        protocol = asked.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL)
        if protocol == _MPTCP:
            what = "has a multipath TCP socket open, which cannot be saved"
            fix = "Turn multipath TCP off (Go programs: GODEBUG=multipathtcp=0)."
            yield Finding(Level.CHANGE, "multipath TCP", what, fix, process, held)
        elif protocol not in _PROTOCOLS:
            name = "an SCTP" if protocol == _SCTP else f"a protocol {protocol}"
            what = f"has {name} socket open, which cannot be saved"
            yield Finding(Level.CHANGE, "socket", what, "Use TCP or UDP instead.", process, held)


def _outside_peers(unix: dict[int, tuple[Process, int, int]]) -> Iterator[Finding]:
    """Connected unix sockets whose other end no process of the container holds. (One that the container's own server
    has not accepted yet has no inode, and is saved.)"""
    for peers in _peers({process.pid for process, _, _ in unix.values()}):
        for inode, (process, number, kind) in unix.items():
            peer = peers.get(inode, 0)
            if peer and peer not in unix and kind != socket.SOCK_DGRAM:
                what = "is connected through a unix socket to a program outside the container"
                fix = (
                    "Do without that connection (a service of the instance whose socket is mounted into the container, "
                    "such as docker.sock or an X server), or connect by TCP."
                )
                yield Finding(Level.CHANGE, "outside unix socket", what, fix, process, f"descriptor {number}")


def _peers(pids: set[int]) -> Iterator[dict[int, int]]:
    """For one process in each network namespace: the peer of every unix socket, by inode."""
    for pid in one_of_each(pids, "net"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "--unix", "--all", "--no-header", "--numeric"]
            said = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=True)
            yield {int(own): int(peer) for own, peer in _PEERS.findall(said.stdout)}


def _outside_connections(owners: Mapping[int, Process], look: Look) -> Iterator[Finding]:
    told: dict[int, list[str]] = {}
    for connection in outside(look):
        told.setdefault(int(connection.owner.split()[0]), []).append(connection.peer)
    for pid, peers in told.items():
        if pid in owners:
            others = f" and {len(peers) - 1} more" if len(peers) > 1 else ""
            what = f"is connected to {peers[0]}{others}: after a restore such connections are closed"
            fix = "Clients that connect again go on; most do."
            yield Finding(Level.NOTE, "outside connection", what, fix, owners[pid])
