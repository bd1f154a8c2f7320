"""Continuity of identity: a restored process asks for credentials and metadata where its *first* task had them.

A process reads AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and ECS_CONTAINER_METADATA_URI(_V4) from the environment it was
started with, for ever. That task is gone; the new container has other ids. So while such a job lives here, requests to
ECS's link-local address go through a small proxy, which puts the new ids in place of the old ones. It knows only paths
that were in the two containers' own configurations, passes every other request on unread, and keeps nothing.

How requests get here:

* from the node's own network (Batch's default) by a rule of nftables ahead of ECS's own, in a table that the kernel
  removes with the process that made it: if the agent dies, everybody on the node reaches ECS directly again;
* from a network namespace of the container's own by listening at 169.254.170.2 inside it: nobody else comes near it.

What the proxy asks itself carries a mark, on which the rule lets it pass to ECS. The map is what the containers'
records say (protected_jobs.py), so a new agent has it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess

import structlog

from perdure.domain.errors import CommandFailed
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.container.surroundings import exchange, rewrite
from worker_agent.engine.commands import run
from worker_agent.engine.in_network import in_network_of

log = structlog.get_logger()

ADDRESS, PORT = "169.254.170.2", 80
_MARK = 0x7064
_TABLE = "perdure_identity"
_HEAD_LIMIT = 16 * 1024
_HEAD_SECONDS = 30.0
_TALK_SECONDS = 120.0
_CHUNK = 64 * 1024
_LIMIT = 10.0
_LOOK = 5.0
"""Seconds between two looks at which containers are left."""


class IdentityProxy:
    """One per agent. `refresh` after a restore and before the job goes on; `serve` keeps it in step afterwards."""

    def __init__(self, jobs: ProtectedJobs) -> None:
        self._jobs = jobs
        self._server: asyncio.Server | None = None
        self._inside: dict[str, asyncio.Server] = {}
        self._rule: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._told = ""
        """The last failure, which is told once."""

    async def serve(self) -> None:
        """Until cancelled: containers that end are forgotten, a rule that was lost is made again."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(_LOOK)
        finally:
            await self.close()

    async def close(self) -> None:
        """Every request goes to ECS directly again."""
        await self._drop_rule()
        for server in [*self._inside.values(), *([self._server] if self._server else [])]:
            server.close()
        self._inside, self._server = {}, None

    async def refresh(self) -> None:
        """As the containers on this node need it now. What cannot be had is told in the log: it is tried again."""
        async with self._lock:
            wanted = [job for job in self._jobs if _needs(job)]
            try:
                await self._follow(wanted)
                self._told = ""
            except (OSError, CommandFailed) as problem:
                if str(problem) != self._told:
                    log.error("restored jobs do not reach their new credentials", reason=str(problem))
                self._told = str(problem)

    async def _follow(self, wanted: list[ProtectedJob]) -> None:
        if any(not job.container.own_network for job in wanted):
            if self._rule is None or self._rule.returncode is not None:
                await self._make_rule()
        else:
            await self._drop_rule()
        inside = {job.record.container_id: job for job in wanted if job.container.own_network}
        for gone in set(self._inside) - set(inside):
            self._inside.pop(gone).close()
        for container_id in set(inside) - set(self._inside):
            self._inside[container_id] = await self._listen_inside(inside[container_id])

    async def _make_rule(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        port = self._server.sockets[0].getsockname()[1]
        # It reads until we are gone, and the table is gone with it (nft(8), "owner").
        self._rule = await asyncio.create_subprocess_exec(
            "nft",
            "--interactive",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._rule.stdin is not None
        self._rule.stdin.write(
            f"add table ip {_TABLE} {{ flags owner; }}\n"
            f"add chain ip {_TABLE} output {{ type nat hook output priority -110; }}\n"
            f"add rule ip {_TABLE} output ip daddr {ADDRESS} tcp dport {PORT} meta mark != {_MARK} "
            f"redirect to :{port}\n".encode()
        )
        await self._rule.stdin.drain()
        for _ in range(50):
            with contextlib.suppress(CommandFailed):
                if f":{port}" in await run(["nft", "list", "table", "ip", _TABLE], limit_seconds=_LIMIT):
                    return
            await asyncio.sleep(0.1)
        # A predecessor's table may still be there; the next look makes another try.
        await self._drop_rule()
        raise OSError("nft made no rule for the requests to ECS's address")

    async def _drop_rule(self) -> None:
        if self._rule is not None and self._rule.returncode is None:
            self._rule.kill()
            await self._rule.wait()
        self._rule = None

    async def _listen_inside(self, job: ProtectedJob) -> asyncio.Server:
        listener = await in_network_of(job.container.init_pid, _listen_here, ADDRESS)
        return await asyncio.start_server(self._talk, sock=listener, limit=_HEAD_LIMIT)

    # ---- one request ----------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(_TALK_SECONDS):
                await self._forward(head, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
            log.warning("a request to ECS was not passed on", reason=f"{type(problem).__name__}: {problem}")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, headers = head.partition(b"\r\n")
        method, target, version = _split(line)
        target = rewrite(target, self._paths())
        kept = [one for one in headers.split(b"\r\n") if one and not one.lower().startswith(b"connection:")]
        upstream_reader, upstream = await _connect()
        try:
            first = " ".join((method, target, version)).encode("latin-1")
            upstream.write(b"\r\n".join([first, *kept, b"Connection: close", b"", b""]))
            body = asyncio.create_task(_copy(reader, upstream))
            try:
                await _copy(upstream_reader, writer)
            finally:
                body.cancel()
        finally:
            upstream.close()

    def _paths(self) -> dict[str, str]:
        """Old paths to new ones. What is some container's own path now is never replaced."""
        jobs = list(self._jobs)
        current = {path for job in jobs for path in job.record.given.paths.values()}
        found: dict[str, str] = {}
        for job in jobs:
            if _needs(job):
                found |= exchange(job.record.surroundings, job.record.given)
        return {old: new for old, new in found.items() if old not in current}


def _needs(job: ProtectedJob) -> bool:
    stands = job.container.init_pid > 0 and not job.gone.is_set()
    return stands and bool(exchange(job.record.surroundings, job.record.given))


def _split(line: bytes) -> tuple[str, str, str]:
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise OSError("this is no HTTP request")
    return words[0], words[1], words[2]


async def _connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        async with asyncio.timeout(_LIMIT):
            await asyncio.get_running_loop().sock_connect(connection, (ADDRESS, PORT))
        return await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        raise


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


def _listen_here(address: str) -> socket.socket:
    """A listener at ECS's address, in the calling thread's network. The address may be there from an earlier agent."""
    command = ["ip", "address", "replace", f"{address}/32", "dev", "lo"]
    done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stderr.decode("utf-8", "replace"))
    listener = socket.create_server((address, PORT))
    listener.setblocking(False)
    return listener
