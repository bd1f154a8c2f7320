"""A node's network, as its jobs share it, and a network namespace for one protected job, where the job or the system is
configured so (default: the host's, which is Batch's).

    job: eth0 <address>/32, default route ──veth── node: a route to <address>, NAT to outside

The job has one address for its whole life, the same on every node: its sockets are restored as they were, its own
connections to itself live on, no port of the node's is in its way, and no other job can meet its sockets. It reaches
what the node reaches, by the node's address; nobody outside reaches it. IPv4 alone.

The address comes from 198.18.0.0/15 (RFC 2544, for benchmarks), which no VPC uses. NAT and forwarding stand in a table
of our own, and outlive the agent, as the job does; they go with the last such job.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from perdure.domain.checkpoints import Surroundings
from perdure.domain.errors import CommandFailed
from perdure.image.mounts import mounts_below
from worker_agent.engine.addresses import check_ports, exchange
from worker_agent.engine.commands import run
from worker_agent.engine.connections import Binding
from worker_agent.engine.overlay import unmount

log = structlog.get_logger()

_RANGE = ipaddress.ip_network("198.18.0.0/15")
_NOBODYS = "192.0.2.1"
"""A documentation address (RFC 5737): what takes its place on a node is the node's own."""
_EVERYBODY = "0 2147483647"
"""All groups (net.ipv4.ping_group_range)."""
_GATEWAY = "169.254.77.1"
"""The node's end of every pair; known on the link alone."""
_LIMIT = 20.0
_PREFIX = "pdn"
_TABLE = f"""
add table ip perdure_jobs
delete table ip perdure_jobs
table ip perdure_jobs {{
    chain out {{
        type nat hook postrouting priority 100;
        ip saddr {_RANGE} ip daddr != {_RANGE} masquerade
    }}
}}
"""
_FORWARD = (("-i", f"{_PREFIX}+"), ("-o", f"{_PREFIX}+"))
"""Docker drops what it does not know in the FORWARD chain, which no table of ours can overrule."""


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_TURN = 45.0
"""Seconds after which a restore that has said nothing is no longer waited for."""


class Ports:
    """The ports that restores under way on this node need: two that need the same one go one after the other, so that
    the second finds the first's job there by name, and not CRIU's error."""

    def __init__(self) -> None:
        self._held: dict[str, set[tuple[int, int]]] = {}
        self._released = asyncio.Event()

    async def claim(self, container_id: str, needed: Sequence[Binding]) -> None:
        """Returns once they are free, and nobody else restores on them. RestoreFailed, the node's fault, names one that
        is taken. They are this container's until `release`."""
        wanted = {(need.kind, need.port) for need in needed}
        end = asyncio.get_running_loop().time() + _TURN
        while self._wanted_by_others(container_id, wanted) and asyncio.get_running_loop().time() < end:
            self._released.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), end - asyncio.get_running_loop().time())
        self._held[container_id] = wanted
        try:
            await check_ports(needed)
        except BaseException:
            self.release(container_id)
            raise

    def release(self, container_id: str) -> None:
        """That restore is over, however it ended. Idempotent."""
        if self._held.pop(container_id, None) is not None:
            self._released.set()

    def _wanted_by_others(self, container_id: str, wanted: set[tuple[int, int]]) -> bool:
        return any(ports & wanted for other, ports in self._held.items() if other != container_id)


def keep_names(hosts_file: Path | None, given: Surroundings, known: Surroundings) -> None:
    """Let the name that the job has for itself lead to itself, and those that it wrote into /etc/hosts to where they
    led.

    A restored job keeps the host name that it began with (it comes back with its UTS namespace), and asks by it who it
    is; /etc/hosts is the new container's. The name server would say the old node's address, which may be somebody
    else's by now. Blocks.
    """
    if hosts_file is None:
        return
    try:
        with open(os.open(hosts_file, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), "a+") as file:
            file.seek(0)
            there = set(file.read().splitlines())
            file.writelines(f"{line}\n" for line in known.hosts if line not in there)
            name = known.host_name
            if name != given.host_name and _HOST_NAME.fullmatch(name):
                address = known.address or exchange([_NOBODYS]).get(_NOBODYS, "127.0.0.1")
                file.write(f"{address}\t{name}\n")
    except (OSError, UnicodeError) as problem:
        log.warning("a restored job's own names are not in its /etc/hosts", reason=str(problem))


def choose_address(job_id: str, taken: Iterable[str]) -> str:
    """An address for a new job, by its id, and none of those that other jobs on this node have."""
    used = set(taken)
    start = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big")
    places = _RANGE.num_addresses - 2
    return next(text for step in range(places) if (text := str(_RANGE[1 + (start + step) % places])) not in used)


async def make_network(file: Path, address: str) -> None:
    """A namespace with that address, kept alive by being mounted at `file`. What an earlier try left there goes first.

    CommandFailed or OSError; call `remove_network` then.
    """
    await remove_network(file)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    name = _name(file)
    await _run("unshare", f"--net={file}", "true")
    inside = ("nsenter", f"--net={file}")
    await _run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    await _run(*inside, "ip", "link", "set", "lo", "up")
    # As Docker's own networks have it, so that ping works; the sockets of a ping need it at a restore, too.
    await _run(*inside, "sh", "-c", f"echo {_EVERYBODY} > /proc/sys/net/ipv4/ping_group_range")
    # Moved under a name of its own, renamed inside: the job's eth0 must not meet the node's on the way.
    await _run("ip", "link", "set", f"{name}p", "netns", str(file))
    await _run(*inside, "ip", "link", "set", f"{name}p", "name", "eth0")
    await _run(*inside, "ip", "address", "add", f"{address}/32", "dev", "eth0")
    await _run(*inside, "ip", "link", "set", "eth0", "up")
    await _run(*inside, "ip", "route", "add", _GATEWAY, "dev", "eth0", "scope", "link")
    await _run(*inside, "ip", "route", "add", "default", "via", _GATEWAY, "src", address)
    await _run("ip", "address", "add", f"{_GATEWAY}/32", "dev", name)
    await _run("ip", "link", "set", name, "up")
    await _run("ip", "route", "add", f"{address}/32", "dev", name)
    await _let_out(file.parent)


async def remove_network(file: Path) -> None:
    """Nothing of the namespace is left on the node; the last one takes NAT along. Idempotent. CommandFailed."""
    if not file.exists():
        return
    with contextlib.suppress(CommandFailed):  # it went with the namespace, or was never made
        await _run("ip", "link", "delete", _name(file))
    for mount in await asyncio.to_thread(lambda: list(mounts_below(file, itself=True))):
        await asyncio.to_thread(unmount, mount.point)
    file.unlink()
    if not os.listdir(file.parent):
        with contextlib.suppress(CommandFailed):
            await _run("nft", "delete", "table", "ip", "perdure_jobs")
        for way in _FORWARD:
            with contextlib.suppress(CommandFailed):
                await _run("iptables", "--wait", "-D", "FORWARD", *way, "-j", "ACCEPT")


async def sweep_networks(folder: Path, known: Iterable[str]) -> None:
    """Remove what belongs to no container that the agent knows."""
    kept = set(known)
    if folder.is_dir():
        for file in list(folder.iterdir()):
            if file.name not in kept:
                await remove_network(file)


async def _let_out(folder: Path) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    rules = folder.parent / "job-networks.nft"
    rules.write_text(_TABLE)
    await _run("nft", "--file", str(rules))
    for way in _FORWARD:
        try:
            await _run("iptables", "--wait", "-C", "FORWARD", *way, "-j", "ACCEPT")
        except CommandFailed as problem:
            if problem.status != 127:  # no iptables, no Docker that drops
                await _run("iptables", "--wait", "-I", "FORWARD", *way, "-j", "ACCEPT")


def _name(file: Path) -> str:
    """Of the node's end (a link's name has at most 15 characters)."""
    return _PREFIX + hashlib.sha256(file.name.encode()).hexdigest()[:10]


async def _run(*argv: str) -> str:
    return await run(argv, limit_seconds=_LIMIT)
