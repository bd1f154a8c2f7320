"""The agent's life: its parts, wired once, and running beside each other.

Each part goes on when another cannot: without Temporal the node still freezes, saves and keeps its rhythm; without the
metadata service containers still start. START HERE to read the agent: `Agent.run` names all parts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from perdure.contracts.names import node_queue
from perdure.contracts.runtime import RuntimeOperation
from perdure.domain.errors import CloudUnavailable, PerdureError
from perdure.domain.nodes import Notice, NoticeKind
from perdure.image.pages.prints import compiled
from perdure.settings import AgentSettings, connect_temporal
from perdure.tracing import OFF, Tracing
from worker_agent import engine
from worker_agent.container.credentials import IdentityProxy
from worker_agent.container.protected_jobs import ProtectedJobs
from worker_agent.node.interruption import Announced, RebalanceRecommendation, Source, SpotInterruption, watch
from worker_agent.node.metadata import Metadata
from worker_agent.node.scratch import sweep_scratch
from worker_agent.node.this_node import ThisNode
from worker_agent.rehearse.rehearsals import Rehearsals
from worker_agent.save.checkpointing import Checkpoints
from worker_agent.save.endings import Endings
from worker_agent.save.hand_over import HandOvers
from worker_agent.save.node_activities import AgentActivities
from worker_agent.save.rhythm import Rhythm
from worker_agent.start.attach import Attacher
from worker_agent.start.inheritance import Inheritance
from worker_agent.start.planning import Planner
from worker_agent.start.runtime_socket import RuntimeSocket
from worker_agent.start.starting import Starter
from worker_agent.start.unprotected import UnprotectedNotes
from worker_agent.tell.connection import Connection
from worker_agent.tell.foundation import Foundation
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

    def __init__(self, settings: AgentSettings, client: Client, tracing: Tracing = OFF) -> None:
        self._settings = settings
        self._tracing = tracing
        self._metadata = Metadata(settings.metadata_url)
        # What is made first needs nothing of what comes after it: nothing is set in a part once it is made.
        self._node = ThisNode(settings)
        self._jobs = ProtectedJobs(self._node)
        connection = Connection(client, self._connect)
        self._spool = Spool(settings.state_dir / "spool", connection)
        self._bundles = LogBundles(self._node, self._jobs)
        self._logs = LogKeeper(self._node, self._jobs, self._bundles, client)
        self._reporter = Reporter(self._node, self._spool, self._logs.reported)
        foundation = Foundation(self._node, self._jobs, self._spool, self._reporter)
        rehearsals = Rehearsals(foundation)
        self._checkpoints = Checkpoints(self._jobs, self._reporter, rehearsals.consider)
        self._endings = Endings(foundation, self._logs.exited, rehearsals)
        self._hand_overs = HandOvers(foundation, self._checkpoints, self._endings, rehearsals)
        self._rhythm = Rhythm(foundation, self._checkpoints, self._endings, self._hand_overs)
        self._identity = IdentityProxy(self._jobs)
        planner = Planner(self._node, Attacher(connection))
        self._starter = Starter(foundation, planner, self._identity, self._endings, self._hand_overs)
        self._inheritance = Inheritance(foundation, self._starter, self._endings, self._hand_overs, rehearsals)
        self._unprotected = UnprotectedNotes(foundation)
        self._activities = AgentActivities(
            self._jobs, self._checkpoints, self._hand_overs, self._notice, log_level_fixed=settings.log_level_fixed
        )
        self._announced = Announced()
        self._leaving: set[asyncio.Task[None]] = set()
        self._socket = RuntimeSocket(
            settings.run_dir / "agent.sock", self._handlers(), self._runtime_waits, self._runtime_left
        )

    async def _connect(self) -> Client:
        return await connect_temporal(interceptors=self._tracing.interceptors())

    def _handlers(self) -> dict[RuntimeOperation, Any]:
        starter = self._starter
        return {
            RuntimeOperation.CREATE: starter.create,
            RuntimeOperation.CREATED: starter.created,
            RuntimeOperation.VERIFY: starter.verify,
            RuntimeOperation.RESTORED: starter.created,
            RuntimeOperation.FAILED: starter.failed,
            RuntimeOperation.CONTINUE: starter.let_go_on,
            RuntimeOperation.STARTED: starter.started,
            RuntimeOperation.DELETED: starter.deleted,
        }

    async def run(self) -> None:
        """Until cancelled. What an earlier agent left is taken over beside everything else: a dump that lost its agent
        may take a while to end, and nobody should wait for it."""
        await asyncio.to_thread(self._node.remember)
        await asyncio.to_thread(self._spool.load)
        left = await asyncio.to_thread(self._jobs.load)
        await asyncio.to_thread(sweep_scratch, self._node.scratch, {job.scratch for job in left})
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._inheritance.sweep_networks({job.record.container_id for job in left}))
                for job in left:
                    parts.create_task(self._inheritance.take_over(job))
                parts.create_task(self._check_criu())
                for name, part in (
                    ("runtime socket", self._socket.serve),
                    ("interruption watcher", self._watch),
                    ("rhythm", self._rhythm.keep),
                    ("task identity", self._identity.serve),
                    ("reports", self._deliver),
                    ("Temporal worker", self._serve_temporal),
                    ("unprotected containers", self._unprotected.collect),
                ):
                    parts.create_task(_for_ever(name, part))
        finally:
            await self._node.page_sinks.end()
            await self._spool.stop()
            await self._metadata.close()

    def undelivered(self) -> int:
        """How many messages wait until Temporal takes them."""
        return self._spool.pending()

    async def _check_criu(self) -> None:
        """Once, early: it fills CRIU's cache of what the kernel can do (a restore took .58 s instead of .82), and says
        when this node cannot freeze anything."""
        try:
            await engine.check_criu(self._node.tools, _CHECK_SECONDS)
        except PerdureError as problem:
            log.error("CRIU cannot work on this node: jobs run, but no checkpoint will be taken", reason=str(problem))
        await self._bundles.learn_versions()
        if compiled() is None:
            log.warning("the compiled loop of shared-page checkpoints is missing: freezes are longer than they need be")

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
        """From the metadata service, or from an event that the control worker hands on."""
        if not self._announced.first_time(notice):
            return
        if notice.kind is NoticeKind.INTERRUPTION:
            self._hand_overs.begin(notice)
            self._logs.noticed(notice)
        else:
            # A checkpoint of each job at once; containers go on as before.
            log.warning("rebalance recommendation")
            self._rhythm.hurry()
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
        client = await connect_temporal(lazy=False, interceptors=self._tracing.interceptors())
        worker = Worker(
            client,
            task_queue=node_queue(self._node.instance_id),
            activities=[
                self._activities.checkpoint,
                self._activities.final_checkpoint,
                self._activities.apply_checkpoint_settings,
                self._activities.apply_log_settings,
                self._activities.hear_notice,
                LogCollector(self._bundles).collect_logs,
            ],
            max_concurrent_activities=activity_slots(os.cpu_count() or 1),
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            graceful_shutdown_timeout=_SHUTDOWN,
        )
        await worker.run()

    # ---- containers -----------------------------------------------------------------------------------------------

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


def activity_slots(vcpus: int) -> int:
    """Activities at once on an instance. A Batch job on EC2 has at least one vCPU (Batch, RegisterJobDefinition), so no
    more jobs run than there are vCPUs. Each may have its rhythm, a wish and its final checkpoint at the same time. The
    rest is for the node itself, and for jobs that are about to go. An activity that waits costs next to nothing."""
    return 64 + 4 * vcpus


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
