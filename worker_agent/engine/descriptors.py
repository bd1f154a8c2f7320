"""The open descriptors of other processes: what they are, and copies of them to ask or to set right."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator

_PIDFD_GETFD = 438
"""The same number on every architecture."""

_libc = ctypes.CDLL(None, use_errno=True)


def links(pid: int) -> dict[int, str]:
    """Each open descriptor of a process and what /proc shows for it. OSError if the process is gone."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed while we looked
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


@contextlib.contextmanager
def copied(pid: int, number: int) -> Iterator[int]:
    """A copy of another process's descriptor, closed at the end. OSError if either is gone."""
    process = os.pidfd_open(pid)
    try:
        copy = _libc.syscall(_PIDFD_GETFD, process, number, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), f"descriptor {number} of process {pid}")
    finally:
        os.close(process)
    try:
        yield copy
    finally:
        os.close(copy)


def outside_addresses(pids: Iterable[int]) -> list[str]:
    """The addresses, other than loopback, that IP sockets of these processes have as their own.

    The sockets themselves are asked: a connection that broke is in no table of the kernel, yet keeps its address.
    """
    found: set[str] = set()
    for pid in pids:
        for number, link in links(pid).items():
            if link.startswith("socket:"):
                with contextlib.suppress(OSError), copied(pid, number) as copy:  # closed while we looked
                    found |= _address(copy)
    return sorted(found)


def _address(descriptor: int) -> set[str]:
    with socket.socket(fileno=os.dup(descriptor)) as asked:
        if asked.family not in (socket.AF_INET, socket.AF_INET6):
            return set()
        name = asked.getsockname()[0]
    address = ipaddress.ip_address(name.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    # A link-local address belongs to one device and cannot be borrowed.
    usual = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
    return set() if usual else {str(address)}
