"""What the node has to tell, kept on disk until Temporal has it.

An activity's answer is lost when the server is away at the wrong moment (tried: a good dump was reported as failed), so
everything that matters goes through here: written to disk first, then signalled, in order for each workflow, again and
again until it is accepted. The receivers know what they have heard by the reports' own ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from enum import StrEnum
from pathlib import Path

import structlog
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.contracts.protection import JobProtectionInput, NodeReport
from perdure.domain.nodes import Notice
from perdure.domain.values import Frozen
from perdure.image.disk import fsync_folder
from worker_agent.tell.connection import Connection

log = structlog.get_logger()

_MOST = 20_000
"""Entries kept; beyond them the oldest go. About 1 KB each: weeks of an unreachable server."""
_CALL_SECONDS = 5.0
"""A server that is there has a message on its disk in some milliseconds. One that is sent twice is known by its id."""
_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds between two tries while the server is away."""


class EntryKind(StrEnum):
    """What an entry becomes: a signal to a job's workflow, one that starts it if need be, or one to the node's."""

    REPORT = "report"
    UNPROTECTED = "unprotected"
    NOTICE = "notice"
    NODE = "node"


class Entry(Frozen):
    """One message. Exactly one of `report`, `notice` and `node` is there."""

    kind: EntryKind
    job_id: str = ""
    report: NodeReport | None = None
    notice: Notice | None = None
    node: NodeChanged | None = None

    @property
    def workflow_id(self) -> str:
        """Who is to hear it."""
        if self.node is not None:
            return names.node_workflow_id(self.node.node.instance_id)
        return names.job_workflow_id(self.job_id)


class Spool:
    """A folder of entries, and the task that delivers them."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self._folder = folder
        self._connection = connection
        self._queues: dict[str, list[Path]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._last = 0
        self._writing = asyncio.Lock()
        """Entries are queued in the order in which they are stored."""
        self.in_reach = False
        """Did the server take the last message that was tried?"""

    def load(self) -> int:
        """Queue what an earlier agent left; how many. Blocks."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stray in self._folder.glob("*.new"):
            stray.unlink()
        paths = sorted(self._folder.glob("*.json"))
        for path in paths:
            if path.stem.isdigit():
                self._last = int(path.stem)  # what comes now follows these, though the clock be set back
            entry = self._read(path)
            if entry is not None:
                self._queues.setdefault(entry.workflow_id, []).append(path)
        return len(paths)

    def start(self) -> None:
        """Begin to deliver what `load` found."""
        for workflow_id in list(self._queues):
            self._send_soon(workflow_id)

    async def stop(self) -> None:
        """End delivery; what is not delivered stays on disk."""
        senders = list(self._senders.values())
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)

    async def add(self, entry: Entry) -> None:
        """Store the message durably, then deliver it when possible. Returns once it is stored."""
        async with self._writing:
            self._last = max(self._last + 1, time.time_ns())
            path = self._folder / f"{self._last:020d}.json"
            try:
                await asyncio.to_thread(self._write, path, entry)
            except OSError as problem:
                # A full or broken disk: what cannot be kept is at least sent once, from memory.
                log.error("a report could not be stored; it is sent once", reason=str(problem))
                await self._try(entry)
                return
            self._queues.setdefault(entry.workflow_id, []).append(path)
            self._send_soon(entry.workflow_id)
            await asyncio.to_thread(self._bound)

    def pending(self) -> int:
        """Messages that are not delivered yet."""
        return sum(len(queue) for queue in self._queues.values())

    async def delivered(self, workflow_id: str) -> None:
        """Wait until nothing is left for that workflow."""
        while sender := self._senders.get(workflow_id):
            await asyncio.wait([sender])

    def _write(self, path: Path, entry: Entry) -> None:
        fresh = path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(entry.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        fsync_folder(self._folder)

    def _bound(self) -> None:
        if self.pending() <= _MOST:
            return
        for path in sorted(self._folder.glob("*.json"))[:-_MOST]:
            log.error("the spool is full; its oldest message is dropped", entry=path.name)
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Entry | None:
        try:
            return Entry.model_validate_json(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as problem:
            log.error("a spooled message cannot be read; it is put aside", entry=path.name, reason=str(problem)[:300])
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".unreadable"))
            return None

    def _send_soon(self, workflow_id: str) -> None:
        if workflow_id not in self._senders:
            self._senders[workflow_id] = asyncio.create_task(self._send_all(workflow_id))

    async def _send_all(self, workflow_id: str) -> None:
        queue = self._queues[workflow_id]
        tries = 0
        try:
            while queue:
                entry = await asyncio.to_thread(self._read, queue[0])
                if entry is not None and not await self._try(entry):
                    await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                    tries += 1
                    continue
                tries = 0
                await asyncio.to_thread(queue[0].unlink, missing_ok=True)
                queue.pop(0)
        finally:
            del self._senders[workflow_id]
        self._queues.pop(workflow_id, None)

    async def _try(self, entry: Entry) -> bool:
        """Send once. True: delivered, or nobody is left to hear it."""
        client = self._connection.client
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await _send(client, entry)
        except (RPCError, RuntimeError, TimeoutError) as problem:
            # RuntimeError: a lazy client that cannot connect.
            if isinstance(problem, RPCError) and _hopeless(problem):
                log.warning("nobody can hear this", workflow=entry.workflow_id, kind=entry.kind, reason=str(problem))
                self.in_reach = True
                return True
            if self.in_reach:
                log.warning("Temporal is out of reach; reports are kept", reason=str(problem) or type(problem).__name__)
            self.in_reach = False
            if isinstance(problem, TimeoutError):
                await self._connection.doubt(client)
            return False
        except WorkflowAlreadyStartedError:
            log.info("the job is over; nobody hears this any more", workflow=entry.workflow_id)
        self.in_reach = True
        return True


async def _send(client: Client, entry: Entry) -> None:
    if entry.node is not None:
        await client.start_workflow(
            names.NODE_WATCH,
            NodeWatchInput(instance_id=entry.node.node.instance_id),
            id=entry.workflow_id,
            task_queue=names.CONTROL_QUEUE,
            start_signal="node_changed",
            start_signal_args=[entry.node],
            static_summary=f"instance {entry.node.node.instance_id} in {entry.node.node.zone}",
        )
    elif entry.kind is EntryKind.UNPROTECTED:
        await client.start_workflow(
            names.JOB_PROTECTION,
            JobProtectionInput(job_id=entry.job_id),
            id=entry.workflow_id,
            task_queue=names.CONTROL_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            start_signal="report",
            start_signal_args=[entry.report],
            static_summary=f"job {entry.job_id} (not protected)",
        )
    else:
        handle = client.get_workflow_handle(entry.workflow_id)
        await handle.signal(str(entry.kind), entry.report or entry.notice)


def _hopeless(problem: RPCError) -> bool:
    """The workflow is closed or never was, or the message itself is refused; a missing namespace may yet be made."""
    if problem.status == RPCStatusCode.NOT_FOUND:
        return "namespace" not in str(problem).lower()
    return problem.status == RPCStatusCode.INVALID_ARGUMENT
