"""The agent's life: its parts, wired once, and running beside each other.

Each part goes on when another cannot: without Temporal the node still freezes, saves and keeps its rhythm; without the
metadata service containers still start. START HERE to read the agent: `Agent.run` names all parts.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from perdure.contracts.names import node_queue
from perdure.contracts.runtime import RuntimeOperation
from perdure.domain.errors import CloudUnavailable, FreezerFailed, PerdureError
from perdure.domain.nodes import Notice, NoticeKind
from perdure.settings import AgentSettings, connect_temporal
from worker_agent import engine
from worker_agent.container.bundle import JOB_ID
from worker_agent.container.credentials import IdentityProxy
from worker_agent.container.network import sweep_networks
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs, start_ticks
from worker_agent.engine.memory import tracks_changes
from worker_agent.node.interruption import RebalanceRecommendation, Source, SpotInterruption, watch
from worker_agent.node.metadata import Metadata
from worker_agent.node.this_node import ThisNode
from worker_agent.save.checkpointing import Checkpoints
from worker_agent.save.endings import Endings
from worker_agent.save.hand_over import HandOvers
from worker_agent.save.node_activities import AgentActivities
from worker_agent.save.rhythm import Rhythm
from worker_agent.start.attach import Attacher
from worker_agent.start.planning import Planner
from worker_agent.start.runtime_socket import RuntimeSocket
from worker_agent.start.starting import Starter
from worker_agent.tell.log_bundle import LogBundles
from worker_agent.tell.log_keeping import LogCollector, LogKeeper
from worker_agent.tell.reporting import Reporter
from worker_agent.tell.spool import Spool

log = structlog.get_logger()

_AGAIN = 1.0
"""Seconds before a part that ended is begun again."""
_LASTED = 10.0
"""A part that ran for so many seconds had really begun: its next fault is told again."""
_CHECK_SECONDS = 60.0
_COMES_BACK = 2.0
"""Seconds in which a runtime that lost its connection asks again."""
_SHUTDOWN = timedelta(seconds=5)


class Agent:
    """One per instance."""

    def __init__(self, settings: AgentSettings, client: Client) -> None:
        self._settings = settings
        self._node = ThisNode(settings)
        self._metadata = Metadata(settings.metadata_url)
        self._jobs = ProtectedJobs(self._node)
        self._spool = Spool(settings.state_dir / "spool", client)
        self._reporter = Reporter(self._node, self._spool)
        self._checkpoints = Checkpoints(self._reporter)
        self._endings = Endings(self._jobs, self._reporter)
        self._hand_overs = HandOvers(
            self._node, self._jobs, self._checkpoints, self._endings, self._reporter, self._spool
        )
        planner = Planner(self._node, Attacher(client))
        self._identity = IdentityProxy(self._jobs)
        self._starter = Starter(self._node, self._jobs, planner, self._endings, self._reporter, self._identity)
        self._starter.on_started = self._started
        self._rhythm = Rhythm(
            self._node,
            self._jobs,
            self._checkpoints,
            self._endings,
            self._hand_overs,
            self._reporter,
            self._spool,
            client,
        )
        self._activities = AgentActivities(
            self._jobs, self._checkpoints, self._hand_overs, log_level_fixed=settings.log_level_fixed
        )
        self._bundles = LogBundles(self._node, self._jobs)
        self._logs = LogKeeper(self._node, self._jobs, self._bundles, client)
        self._endings.on_exit, self._reporter.on_report = self._logs.exited, self._logs.reported
        self._leaving: set[asyncio.Task[None]] = set()
        self._socket = RuntimeSocket(
            settings.run_dir / "agent.sock", self._handlers(), self._runtime_waits, self._runtime_left
        )

    def _handlers(self) -> dict[RuntimeOperation, Any]:
        starter = self._starter
        return {
            RuntimeOperation.CREATE: starter.create,
            RuntimeOperation.CREATED: starter.created,
            RuntimeOperation.RESTORED: starter.created,
            RuntimeOperation.FAILED: starter.failed,
            RuntimeOperation.STARTED: starter.started,
            RuntimeOperation.DELETED: starter.deleted,
        }

    async def run(self) -> None:
        """Until cancelled. What an earlier agent left is taken over beside everything else: a dump that lost its agent
        may take a while to end, and nobody should wait for it."""
        await asyncio.to_thread(self._node.remember)
        await asyncio.to_thread(self._spool.load)
        left = await asyncio.to_thread(self._jobs.load)
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._sweep_networks({job.record.container_id for job in left}))
                for job in left:
                    parts.create_task(self._take_over(job))
                parts.create_task(self._check_criu())
                for name, part in (
                    ("runtime socket", self._socket.serve),
                    ("interruption watcher", self._watch),
                    ("rhythm", self._rhythm.keep),
                    ("task identity", self._identity.serve),
                    ("reports", self._deliver),
                    ("Temporal worker", self._serve_temporal),
                    ("unprotected containers", self._collect_unprotected),
                ):
                    parts.create_task(_for_ever(name, part))
        finally:
            await self._spool.stop()
            await self._metadata.close()

    async def _check_criu(self) -> None:
        """Once, early: it fills CRIU's cache of what the kernel can do (a restore took .58 s instead of .82), and says
        when this node cannot freeze anything."""
        try:
            await engine.check_criu(self._node.tools, _CHECK_SECONDS)
        except PerdureError as problem:
            log.error("CRIU cannot work on this node: jobs run, but no checkpoint will be taken", reason=str(problem))
        await self._bundles.learn_versions()
        if not await tracks_changes(str(self._node.tools.criu)):
            log.warning("this kernel does not note changed memory (soft-dirty): every checkpoint holds all of it")

    async def _sweep_networks(self, known: set[str]) -> None:
        """Namespaces of containers that ended while no agent looked."""
        try:
            await sweep_networks(self._settings.run_dir / "networks", known)
        except (PerdureError, OSError) as problem:
            log.error("what is left of a job's network was not removed", reason=str(problem))

    # ---- the parts ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Who we are, then what AWS announces."""
        while not self._node.identified.is_set():
            try:
                identity = await self._metadata.identity()
                await asyncio.to_thread(self._node.identify, identity)
            except CloudUnavailable as problem:
                log.warning("waiting for the metadata service", reason=str(problem))
                await asyncio.sleep(_AGAIN)
        log.info("this is", instance=self._node.instance_id, zone=self._node.identity.availabilityZone)
        sources: list[Source] = [SpotInterruption(self._metadata), RebalanceRecommendation(self._metadata)]
        await watch(sources, self._node.instance_id, self._settings.notice_poll, self._notice)

    def _notice(self, notice: Notice) -> None:
        if notice.kind is NoticeKind.INTERRUPTION:
            self._hand_overs.begin(notice)
            self._logs.noticed(notice)
        else:
            # Only told: the job's workflow asks for a checkpoint at once, and containers go on as before.
            log.warning("rebalance recommendation")
            self._hand_overs.tell(notice)

    async def _deliver(self) -> None:
        """The inventory hears of us; then everything spooled is on its way until the end."""
        self._spool.start()
        await self._node.identified.wait()
        await self._reporter.node(wants_log_settings=True)
        await asyncio.Event().wait()

    async def _serve_temporal(self) -> None:
        """Our own task queue, activities only, one poller; heartbeats are not held back (they carry cancellations)."""
        await self._node.identified.wait()
        client = await connect_temporal(lazy=False)
        worker = Worker(
            client,
            task_queue=node_queue(self._node.instance_id),
            activities=[
                self._activities.checkpoint,
                self._activities.final_checkpoint,
                self._activities.apply_log_settings,
                LogCollector(self._bundles).collect_logs,
            ],
            max_concurrent_activities=activity_slots(os.cpu_count() or 1),
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            graceful_shutdown_timeout=_SHUTDOWN,
        )
        await worker.run()

    async def _collect_unprotected(self) -> None:
        """Containers that the runtime ran without us, because nobody answered it, become events."""
        folder = self._settings.run_dir / "unprotected"
        while True:
            for path in await asyncio.to_thread(lambda: sorted(folder.glob("*.json"))):
                await self._tell_unprotected(path)
            await asyncio.sleep(_AGAIN)

    async def _tell_unprotected(self, path: Path) -> None:
        try:
            note = json.loads(await asyncio.to_thread(path.read_text))
            job_id, container_id, later = str(note["job_id"]), str(note["container_id"]), bool(note["later"])
            reason = str(note["reason"])[:500]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            log.error("a note of the runtime is not understood", note=path.name, reason=str(problem))
            job_id = ""
        if JOB_ID.fullmatch(job_id):
            level = "error" if later else "warning"
            kept = "; it started anew, and its checkpoints are kept on the job volume" if later else ""
            await self._reporter.unprotected(job_id, container_id, reason + kept, level)
        await asyncio.to_thread(path.unlink, missing_ok=True)

    # ---- containers -----------------------------------------------------------------------------------------------

    def _started(self, job: ProtectedJob) -> None:
        if self._node.interrupted.is_set() and job.runs:
            self._hand_overs.start(job)

    def _runtime_waits(self, container_id: str) -> None:
        job = self._jobs.get(container_id)
        if job is not None:
            job.heard = asyncio.get_running_loop().time()

    def _runtime_left(self, container_id: str) -> None:
        task = asyncio.create_task(self._after_runtime(container_id, asyncio.get_running_loop().time()))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _after_runtime(self, container_id: str, left_at: float) -> None:
        """A runtime that waited for its orders is gone. One that comes back does so at once; else its container engine
        has given the container up (a job that was ended while it started): what was prepared is undone."""
        await asyncio.sleep(_COMES_BACK)
        job = self._jobs.get(container_id)
        if job is None or job.heard > left_at or job.record.pid:
            return
        # Nothing is lost by cancelling a wait for a plan; work on the disk comes to its end first.
        await self._socket.end_work(container_id, cancel=job.record.plan is None)
        if self._jobs.get(container_id) is not job or job.heard > left_at or job.record.pid:
            return
        log.warning("a container was given up before it was created", container=container_id[:12])
        try:
            await self._endings.undo(job)
        except (PerdureError, OSError) as problem:
            # The rhythm tries again.
            log.error("a container that was given up is not undone yet", container=container_id[:12], exc_info=problem)

    async def _take_over(self, job: ProtectedJob) -> None:
        try:
            await self._go_on_with(job)
        except Exception:
            # One container's fault must not keep the agent from serving the others.
            log.exception("a container was not taken over", container=job.record.container_id[:12])

    async def _go_on_with(self, job: ProtectedJob) -> None:
        """A container of our predecessor: thawed, swept, watched, and its story continued."""
        record = job.record
        started, stands = job.mark("started"), job.mark("restored") or job.mark("created")
        log.info("taken over", job_id=record.job_id, container=record.container_id[:12], started=started is not None)
        pid = int((stands or {}).get("pid") or record.pid)
        if not pid:
            return  # never created: the runtime asks again, or nobody does and it is given up
        known = record.pid_started
        if not _is_alive(pid, known) or not job.has_init(pid):
            job.note(pid=pid)
            if started is not None and record.started_at is None:
                await self._starter.note_start(job, datetime.now(UTC))
            job.started.set()
            job.start_told.set()
            self._endings.ended(job)
            return
        self._endings.watch(job)
        if record.final is not None:
            # Saved, and the predecessor ended before the hand-over was over: the job must not run on past it.
            job.started.set()
            job.start_told.set()
            if record.handed_over is None:
                self._hand_overs.start(job)
            return
        await self._thaw(job)
        if started is None:
            return
        if record.started_at is None:
            await self._starter.note_start(job, datetime.now(UTC))
        job.started.set()
        job.start_told.set()
        self._started(job)

    async def _thaw(self, job: ProtectedJob) -> None:
        try:
            remarks = await engine.thaw_and_clean(job.container)
        except (PerdureError, OSError) as problem:
            remarks = [f"what the agent's predecessor left was not all cleaned: {problem}"]
            log.error("not cleaned", job_id=job.record.job_id, reason=str(problem))
        for remark in remarks:
            await self._reporter.remark(job, remark)


def activity_slots(vcpus: int) -> int:
    """Activities at once on an instance. A Batch job on EC2 has at least one vCPU (Batch, RegisterJobDefinition), so no
    more jobs run than there are vCPUs. Each may have its rhythm, a wish and its final checkpoint at the same time. The
    rest is for the node itself, and for jobs that are about to go. An activity that waits costs next to nothing."""
    return 64 + 4 * vcpus


def _is_alive(pid: int, ticks: int) -> bool:
    """The process exists, and is the one that started then (0: not known)."""
    try:
        return start_ticks(pid) == ticks or ticks == 0
    except (OSError, FreezerFailed):
        return False


async def _for_ever(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """A part that ends is begun again: no fault of one may stop the others. The same fault is told once."""
    told: type[BaseException] | None = None
    while True:
        begun = asyncio.get_running_loop().time()
        try:
            await part()
            log.error("a part of the agent ended", part=name)
        except Exception as problem:
            if asyncio.get_running_loop().time() - begun > _LASTED:
                told = None
            if type(problem) is not told:
                told = type(problem)
                log.error("a part of the agent failed; it is tried again", part=name, exc_info=problem)
        await asyncio.sleep(_AGAIN)
