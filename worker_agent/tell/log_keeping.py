"""Hands logs out: to a person who asks while the node lives, and to the control plane for the time after it.

What is sent by itself is best effort. It never stands in the way of anything: nothing waits for it, the job volume is
only read of containers that ended by themselves, and what cannot be sent within minutes is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from perdure.contracts import names
from perdure.contracts.logs import CollectedLogs, CollectLogs, KeepLogs, KeptKind, LogActivities
from perdure.contracts.protection import ReportKind
from perdure.domain.nodes import Notice
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.node.this_node import ThisNode
from worker_agent.tell.log_bundle import KEPT, LogBundles

log = structlog.get_logger()

_MOST_WAITING = 16
_PAUSES = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""Seconds between two tries; after the last one the bundle is dropped."""
_CALL_SECONDS = 10.0
_BEHIND_THE_HAND_OVER = 45.0
"""Seconds after a notice in which jobs are saved and handed over before the node's own logs are looked at."""
_SETTLED = 0.25


class LogCollector(LogActivities):
    """The agent's side of perdure.contracts.logs."""

    def __init__(self, bundles: LogBundles) -> None:
        self._bundles = bundles

    @activity.defn(name="collect_logs")
    async def collect_logs(self, request: CollectLogs) -> CollectedLogs:
        """Read-only."""
        work = (
            asyncio.to_thread(self._bundles.of_job, request.job_id, request.containers)
            if request.job_id
            else asyncio.to_thread(self._bundles.of_node)
        )
        return CollectedLogs(content=await work)


class LogKeeper:
    """Sends compact bundles when something ended. Its methods return at once and never raise."""

    def __init__(self, node: ThisNode, jobs: ProtectedJobs, bundles: LogBundles, client: Client) -> None:
        self._node = node
        self._jobs = jobs
        self._bundles = bundles
        self._client = client
        self._sending: set[asyncio.Task[None]] = set()

    def exited(self, job: ProtectedJob) -> None:
        """A container ended by itself. Its output is read at once: its volume is about to be unmounted."""
        self._keep_of(job, KeptKind.EXIT, with_volume=True)

    def reported(self, job: ProtectedJob, kind: ReportKind) -> None:
        """A fact was told. After a hand-over and after failures the logs say more than the fact."""
        if kind is ReportKind.HANDED_OVER:
            self._keep_of(job, KeptKind.HAND_OVER)
        elif kind is ReportKind.CHECKPOINT_FAILED:
            self._keep_of(job, KeptKind.FAILED_CHECKPOINT)
        elif kind is ReportKind.STARTED and job.record.rungs:
            self._keep_of(job, KeptKind.FAILED_RESTORE)

    def noticed(self, notice: Notice) -> None:
        """AWS takes this instance back: its own logs follow once its jobs are handed over."""

        async def send() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEHIND_THE_HAND_OVER):
                    while any(job.runs and job.record.handed_over is None for job in self._jobs):
                        await asyncio.sleep(_SETTLED)
            content = await asyncio.to_thread(self._bundles.of_node, KEPT)
            key = f"{self._node.instance_id}/notice-{int(notice.seen_at.timestamp())}"
            await self._send(self._bundle(key, KeptKind.NOTICE, content))

        self._begin(send)

    def _keep_of(self, job: ProtectedJob, kind: KeptKind, *, with_volume: bool = False) -> None:
        record = job.record
        key = f"{record.container_id[:16]}-{job.epoch}-{kind}"
        if kind is KeptKind.FAILED_CHECKPOINT:
            key += f"-{int(datetime.now(UTC).timestamp()) // 60}"  # one a minute tells enough

        async def send() -> None:
            content = await asyncio.to_thread(self._bundles.of_container, job, with_volume=with_volume)
            await self._node.identified.wait()
            name = f"{self._node.instance_id}/{key}"
            await self._send(self._bundle(name, kind, content, record.job_id, job.epoch))

        self._begin(send)

    def _bundle(self, key: str, kind: KeptKind, content: bytes, job_id: str = "", epoch: int = 0) -> KeepLogs:
        return KeepLogs(
            key=key,
            job_id=job_id,
            instance_id=self._node.instance_id,
            epoch=epoch,
            kind=kind,
            at=datetime.now(UTC),
            content=content,
        )

    def _begin(self, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if len(self._sending) >= _MOST_WAITING:
            log.warning("logs are dropped: too many wait to be sent")
            return
        task = asyncio.create_task(self._quietly(send))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    @staticmethod
    async def _quietly(send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await send()
        except Exception:
            # Logs are never worth a job, and nobody waits for this task who could tell.
            log.exception("logs could not be kept")

    async def _send(self, bundle: KeepLogs) -> None:
        """Until it is taken, or not worth it any more."""
        for pause in (0.0, *_PAUSES):
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._client.start_workflow(
                        names.LOG_KEEPING,
                        bundle,
                        id=names.log_keeping_id(bundle.key),
                        task_queue=names.CONTROL_QUEUE,
                        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                        static_summary=f"{bundle.kind} on {bundle.instance_id}",
                    )
            except WorkflowAlreadyStartedError:
                return
            except (RPCError, RuntimeError, TimeoutError):  # RuntimeError: a lazy client that cannot connect
                continue
            return
        log.warning("logs could not be sent and are dropped", kind=bundle.kind, bytes=len(bundle.content))
