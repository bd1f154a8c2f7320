"""The IP sockets of a checkpoint, and what becomes of each when it is restored on a node with other addresses.

Read from CRIU's `files.img`, and changed in a copy of it before the restore:

* a TCP connection whose other end is in the same checkpoint lives on;
* one that its peer had ended already (CLOSE-WAIT, CLOSE) too: what it received can still be read;
* one that broke, of which the job was still to hear, comes back *closed*: CRIU keeps no error that waits, and its
  reader would take what it has for everything (an end of file);
* every other connection comes back *closed*: its peer has gone on without the job, or is on another machine;
* all other sockets (listening, bound, datagrams) stay, on this node's address where they had the old node's.

So nothing is borrowed: no address is put on a device, no neighbour's can be taken, and no socket of a sibling on the
shared network is touched. (CRIU's own --tcp-close closes loopback connections too, and jobs die of that: tried.)

A socket that comes back closed says "not connected" (ENOTCONN), which few clients expect. `closed_sockets.reset` puts
that right. It finds these sockets by a mark (SO_MARK) that the copy of the image gives them.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import select
import socket
import sys
import termios
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Message
from worker_agent.engine.descriptors import copied
from worker_agent.engine.looking import Look

FILES = "files.img"
FILES_MAGIC = 0x56303138
_SOCKET = 4
"""file_entry.isk (CRIU, images/fdinfo.proto). The numbers below are images/sk-inet.proto's and sk-opts.proto's."""
_INODE, _FAMILY, _TYPE, _PROTO, _STATE, _SRC_PORT, _DST_PORT, _SRC, _DST, _OPTS, _V6ONLY, _SHUTDOWN = (
    2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 19,
)  # fmt: skip
_REUSEADDR, _SO_MARK = 7, 10
CLOSED_MARK = 0x5045_5244
"""On sockets that come back closed, until they are reset."""
_CLOSE, _CLOSE_WAIT = 7, 8
_ENDED = (_CLOSE, _CLOSE_WAIT)
"""Linux, include/net/tcp_states.h."""
_SHOWN = 5
"""Peers that a sentence names."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Endpoint = tuple[Address, int]


@dataclass(frozen=True)
class Connection:
    """A connection that does not survive a restore, for people. `owner` is the process (pid and command), if asked."""

    protocol: str
    peer: str
    owner: str = ""


@dataclass(frozen=True)
class Binding:
    """A port that a checkpoint needs on its node. `address` None: on all of them."""

    family: int
    kind: int
    address: str | None
    port: int
    v6only: bool = False
    reusable: bool = False
    """It said SO_REUSEADDR: what is left of ended connections is not in its way."""

    def __str__(self) -> str:
        name = "TCP" if self.kind == socket.SOCK_STREAM else "UDP"
        return f"{name} port {self.port}{f' of {self.address}' if self.address else ''}"


@dataclass(frozen=True)
class Adapted:
    """What was changed: connections that come back closed, addresses that were exchanged, ports that must be free."""

    closed: tuple[Connection, ...] = ()
    moved: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()

    def remark(self) -> str:
        """What people should know of it, in a sentence or two; empty if nothing changed for the job."""
        said = []
        if self.closed:
            peers = sorted({one.peer for one in self.closed})
            shown = ", ".join(peers[:_SHOWN]) + (", …" if len(peers) > _SHOWN else "")
            count = f"{len(self.closed)} connection{'s' if len(self.closed) > 1 else ''}"
            said.append(
                f"{count} to outside ended with the old node ({shown}): the job sees a reset, and connects anew."
            )
        if self.moved:
            said.append(f"Sockets at {', '.join(self.moved)} moved to this node's address.")
        return " ".join(said)


@dataclass(frozen=True)
class _Socket:
    """One socket of the image; addresses as their numbers stand there."""

    message: Message
    family: int
    kind: int
    protocol: int
    state: int
    source: Endpoint
    peer: Endpoint
    inode: int = 0

    @classmethod
    def read(cls, message: Message) -> _Socket | None:
        def number(wanted: int) -> int:
            return criu_image.number(message, wanted)

        family = number(_FAMILY)
        if family not in (socket.AF_INET, socket.AF_INET6):
            return None
        source, peer = (_address(family, criu_image.numbers(message, wanted)) for wanted in (_SRC, _DST))
        ports = number(_SRC_PORT), number(_DST_PORT)
        kind, protocol, state, inode = (number(wanted) for wanted in (_TYPE, _PROTO, _STATE, _INODE))
        return cls(message, family, kind, protocol, state, (source, ports[0]), (peer, ports[1]), inode)

    @property
    def connected(self) -> bool:
        """A TCP connection, as CRIU tells them."""
        return self.protocol == socket.IPPROTO_TCP and bool(self.peer[1])

    def closed(self) -> _Socket:
        """The same descriptor, never connected, with our mark."""
        message = self.message
        nowhere = [0] * (1 if self.family == socket.AF_INET else 4)
        for wanted, value in ((_STATE, _CLOSE), (_SRC_PORT, 0), (_DST_PORT, 0)):
            message = criu_image.with_field(message, wanted, value)
        message = criu_image.with_field(message, _SRC, nowhere)
        message = criu_image.with_field(message, _DST, nowhere)
        message = criu_image.with_field(message, _SHUTDOWN, None)
        options = criu_image.part(message, _OPTS) or []
        marked = criu_image.encode(criu_image.with_field(options, _SO_MARK, CLOSED_MARK))
        return replace(self, message=criu_image.with_field(message, _OPTS, marked))

    def moved(self, own: Mapping[str, str]) -> _Socket:
        """With this node's addresses in place of the old node's."""
        message = self.message
        for wanted, (address, _) in ((_SRC, self.source), (_DST, self.peer)):
            new = own.get(str(address), "")
            if new and new != str(address):
                message = criu_image.with_field(message, wanted, _numbers(self.family, ipaddress.ip_address(new)))
        return replace(self, message=message)

    def binding(self, own: Mapping[str, str]) -> Binding | None:
        if not self.source[1] or self.connected or self.kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            return None
        address = self.source[0]
        return Binding(
            self.family,
            self.kind,
            None if address.is_unspecified else own.get(str(address), str(address)),
            self.source[1],
            bool(criu_image.number(self.message, _V6ONLY)),
            bool(criu_image.number(criu_image.part(self.message, _OPTS) or [], _REUSEADDR)),
        )


def adapt(images: Path, own: Mapping[str, str], broken: Collection[int] = ()) -> tuple[bytes | None, Adapted]:
    """The `files.img` to restore from instead of the one in `images` (None: as it is), and what is different in it.

    `own` gives this node's address for each of the old node's; `broken` are the inodes of connections of which the job
    was still to hear that they broke (`breaks_unheard`). ImageInvalid if the image cannot be read. Blocks.
    """
    entries = [criu_image.parse(entry) for entry in criu_image.entries((images / FILES).read_bytes(), FILES_MAGIC)]
    sockets = {number: found for number, entry in enumerate(entries) if (found := _socket_of(entry)) is not None}
    ends = {(found.source, found.peer) for found in sockets.values() if found.connected}
    closed, moved, bindings = [], set(), []
    changed = False
    for number, found in sockets.items():
        if found.inode in broken and found.protocol == socket.IPPROTO_TCP:
            new = found.closed()
        elif found.connected and not _lives_on(found, ends, own):
            closed.append(Connection("tcp", _show(found.peer)))
            new = found.closed()
        else:
            new = found.moved(own)
            sides = [str(address) for address, _ in (found.source, found.peer)]
            moved |= {address for address in sides if own.get(address, address) != address}
            bindings += [need] if (need := found.binding(own)) else []
        if new.message != found.message:
            changed = True
            entries[number] = criu_image.with_field(entries[number], _SOCKET, criu_image.encode(new.message))
    done = Adapted(tuple(closed), tuple(sorted(moved)), tuple(bindings))
    return (criu_image.image(FILES_MAGIC, map(criu_image.encode, entries)) if changed else None), done


def outside_addresses(images: Path) -> list[str]:
    """The addresses, other than loopback, that IP sockets in these images have as their own. ImageInvalid. Blocks."""
    image = (images / FILES).read_bytes()
    found = [_socket_of(criu_image.parse(entry)) for entry in criu_image.entries(image, FILES_MAGIC)]
    sources = {one.source[0] for one in found if one is not None}
    return sorted(str(address) for address in sources if _is_borrowed(address))


def ends_in(message: Message) -> tuple[Endpoint, Endpoint] | None:
    """Own address and peer of a socket of the image (inet_sk_entry); None if it is none of the Internet's."""
    found = _Socket.read(message)
    return None if found is None else (found.source, found.peer)


def _is_borrowed(address: Address) -> bool:
    """A link-local address belongs to one device and cannot be exchanged."""
    usual = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
    return not usual


def _lives_on(found: _Socket, ends: set[tuple[Endpoint, Endpoint]], own: Mapping[str, str]) -> bool:
    here = found.source[0].is_loopback or str(found.source[0]) in own
    return here and ((found.peer, found.source) in ends or found.state in _ENDED)


def _socket_of(entry: Message) -> _Socket | None:
    message = criu_image.part(entry, _SOCKET)
    return _Socket.read(message) if message is not None else None


def link_images(images: Path, folder: Path, changed: Mapping[str, bytes]) -> None:
    """Make `folder`, beside `images`, a view of it in which some files (by name) have another content. Blocks.

    Hard links: CRIU opens images from inside the restored mount namespace too, where a symbolic link leads nowhere
    (tried: "No pagemap-1.img image").
    """
    folder.mkdir(mode=0o700)
    for entry in images.iterdir():
        if entry.name not in changed:
            os.link(entry, folder / entry.name, follow_symlinks=False)
    for name, content in changed.items():
        (folder / name).write_bytes(content)


def outside(look: Look) -> list[Connection]:
    """The connections of these processes that would come back closed after a restore: those whose other end is not in
    one of them. For preflight. What ends meanwhile is left out. Blocks shortly."""
    found: dict[tuple[Endpoint, Endpoint], str] = {}
    ended: set[tuple[Endpoint, Endpoint]] = set()
    asked: set[str] = set()
    for one in look.descriptors:
        if one.link.startswith("socket:[") and one.link not in asked:
            asked.add(one.link)
            with contextlib.suppress(OSError), copied(one.pid, one.number) as copy:
                ends, over = _ends(copy)
                if ends is not None and over:
                    ended.add(ends)
                elif ends is not None:
                    found.setdefault(ends, f"{one.pid} {look.processes[one.pid].command}")
    inside = found.keys() | ended
    return [
        Connection("tcp", _show(peer), owner) for (source, peer), owner in found.items() if (peer, source) not in inside
    ]


def breaks_unheard(look: Look) -> list[int]:
    """The inodes of TCP sockets whose connection broke (a reset, a time-out, a refusal), which the job has not heard
    yet: the error waits for its next call. What ends meanwhile is left out. Blocks shortly."""
    found = []
    for inode, one in look.sockets.items():
        with contextlib.suppress(OSError), copied(one.pid, one.number) as copy:
            if _waits_with_an_error(copy):
                found.append(inode)
    return found


def _waits_with_an_error(descriptor: int) -> bool:
    """Asked without taking the error (SO_ERROR would). What can still be read is worth more: then it is none."""
    asked = select.poll()
    asked.register(descriptor, select.POLLERR)
    if not any(events & select.POLLERR for _, events in asked.poll(0)):
        return False
    unread = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    with socket.socket(fileno=os.dup(descriptor)) as one:
        is_tcp = not unread and one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM
        return is_tcp and one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE


def _ends(descriptor: int) -> tuple[tuple[Endpoint, Endpoint] | None, bool]:
    """Own address and peer of a TCP connection, and whether the peer has ended it already."""
    with socket.socket(fileno=os.dup(descriptor)) as asked:
        if asked.family not in (socket.AF_INET, socket.AF_INET6) or asked.type != socket.SOCK_STREAM:
            return None, False
        over = asked.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT
        names = asked.getsockname(), asked.getpeername()
    source, peer = ((_plain(ipaddress.ip_address(name[0].partition("%")[0])), int(name[1])) for name in names)
    return (source, peer), over


def _show(end: Endpoint) -> str:
    return f"[{end[0]}]:{end[1]}" if end[0].version == 6 else f"{end[0]}:{end[1]}"


def _address(family: int, words: list[int]) -> Address:
    """As CRIU writes them: 32-bit words in the machine's order of what is network order in memory."""
    count = 1 if family == socket.AF_INET else 4
    packed = b"".join(word.to_bytes(4, "little") for word in (words + [0] * count)[:count])
    return _plain(ipaddress.ip_address(packed))


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _numbers(family: int, address: Address) -> list[int]:
    packed = address.packed
    if family == socket.AF_INET6 and len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    return [int.from_bytes(packed[place : place + 4], "little") for place in range(0, len(packed), 4)]
