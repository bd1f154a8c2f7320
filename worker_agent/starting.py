"""One container's way from `create` to `started`: plan, volume, clean start or the ladder of restores (promise 5).

The methods of `Starter` are the runtime's requests (perdure/contracts/runtime.py), each safe to be asked twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from perdure.contracts.protection import AttachReply, ReportKind, RestoreRung, Verdict
from perdure.contracts.runtime import RuntimeAction, RuntimeReply, RuntimeRequest
from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import (
    Fenced,
    JobRootBusy,
    NotCheckpointable,
    PerdureError,
    RestoreFailed,
    VolumeFailed,
)
from worker_agent import engine
from worker_agent.bundle import Bundle, edit_config, read_bundle
from worker_agent.endings import Endings
from worker_agent.planning import Planner, Refusal, retries_failed_start
from worker_agent.protected_jobs import ContainerRecord, ProtectedJob, ProtectedJobs
from worker_agent.reporting import Reporter
from worker_agent.this_node import ThisNode
from worker_agent.volumes import mount_volume

T = TypeVar("T")
log = structlog.get_logger()

DONE = RuntimeReply(action=RuntimeAction.DONE)
_PASSTHROUGH = RuntimeReply(action=RuntimeAction.PASSTHROUGH)
_BUSY_TRIES = 5
_BETWEEN_TRIES = 2.0
_PREDECESSOR = 60.0
"""Seconds in which an earlier container of the same job on this node must have let go of the job root."""


class Starter:
    """Serves the runtime until the container runs."""

    def __init__(
        self, node: ThisNode, jobs: ProtectedJobs, planner: Planner, endings: Endings, reporter: Reporter
    ) -> None:
        self._node = node
        self._jobs = jobs
        self._planner = planner
        self._endings = endings
        self._reporter = reporter
        self.on_started: Callable[[ProtectedJob], None] = lambda job: None
        """Told of every container that runs from now on."""

    # ---- create ---------------------------------------------------------------------------------------------------

    async def create(self, request: RuntimeRequest) -> RuntimeReply:
        """What the runtime is to do with a new container."""
        known = self._jobs.get(request.container_id)
        try:
            bundle = await asyncio.to_thread(read_bundle, Path(request.bundle), known.folder if known else None)
        except NotCheckpointable as problem:
            log.warning("a container is let through", container=request.container_id[:12], reason=str(problem))
            return _PASSTHROUGH
        if bundle is None:
            log.info("no Batch job, or its id is none", container=request.container_id[:12])
            return _PASSTHROUGH
        try:
            job = known if known is not None else await asyncio.to_thread(self._take_in, request, bundle)
        except NotCheckpointable as problem:
            await self._reporter.unprotected(bundle.job_id, request.container_id, str(problem))
            return _PASSTHROUGH
        if job.record.plan is None:
            begun = time.monotonic()
            plan = await self._planner.plan(request.container_id, bundle)
            if isinstance(plan, Refusal):
                return await self._refuse(job, bundle, plan)
            job.note(plan=plan, phases={"waited": time.monotonic() - begun})
        return await self._guarded(job, bundle, self._prepare(job, bundle, _plan(job)))

    def _take_in(self, request: RuntimeRequest, bundle: Bundle) -> ProtectedJob:
        """Note everything about the container before anything is changed. NotCheckpointable names what forbids it."""
        bundle.check()
        overlay = engine.find_overlay(bundle.rootfs)
        if overlay is None:
            raise NotCheckpointable("its root file system is no overlay, so its files could not be taken along")
        bundle.rules(JobVolumeConfiguration().mount_path)
        return self._jobs.add(
            ContainerRecord(
                container_id=request.container_id,
                job_id=bundle.job_id,
                attempt=bundle.attempt,
                bundle=bundle.path,
                runc_root=request.runc_root,
                rootfs=bundle.rootfs,
                lower_layers=list(overlay.lower),
                cgroups_path=bundle.cgroups_path,
            )
        )

    async def _guarded(self, job: ProtectedJob, bundle: Bundle, work: Awaitable[RuntimeReply]) -> RuntimeReply:
        """Our own faults end in promise 7, those of the node in its stated policy."""
        try:
            return await work
        except Fenced as problem:
            return await self._refuse(job, bundle, Refusal(str(problem), fail=True))
        except (PerdureError, OSError) as problem:
            return await self._refuse(job, bundle, self._planner.without_plan(bundle, job.record.plan, str(problem)))

    async def _refuse(self, job: ProtectedJob, bundle: Bundle, refusal: Refusal) -> RuntimeReply:
        """Undo what was done, tell the job's people, and let the container run by itself or fail."""
        reason, fail = refusal.reason, refusal.fail
        try:
            await self._endings.undo(job)
        except (PerdureError, OSError) as problem:
            # Its root may be a mount of ours now: empty, or a checkpoint's. Only nothing started is surely right.
            log.error("a container's start was not undone", job_id=bundle.job_id, reason=str(problem))
            reason, fail = f"{reason}; and what was prepared was not undone: {problem}", True
        if job.epoch:
            word = "was not started" if fail else "runs unprotected"
            await self._reporter.remark(job, f"The container {word}: {reason}", "error" if fail else refusal.level)
        elif fail:
            log.warning("a container's start is refused", job_id=bundle.job_id, reason=reason)
        else:
            await self._reporter.unprotected(bundle.job_id, job.record.container_id, reason, refusal.level)
        return RuntimeReply(action=RuntimeAction.FAIL, reason=reason) if fail else _PASSTHROUGH

    # ---- prepare --------------------------------------------------------------------------------------------------

    async def _prepare(self, job: ProtectedJob, bundle: Bundle, plan: AttachReply) -> RuntimeReply:
        mount_path = _mount_path(plan)
        job.rules = bundle.rules(mount_path)
        await self._await_predecessors(job)
        if plan.volume_id is None:
            raise VolumeFailed(f"the plan for {bundle.job_id} names no job volume")
        job.hold()
        phases = await mount_volume(plan.volume_id, job.job_root)
        await asyncio.to_thread(engine.ensure_layout, job.job_root)
        job.note(phases={**job.record.phases, "attached": phases["attached"] + phases["mounted"]})
        if plan.verdict is Verdict.RESTORE:
            return await self._next_rung(job, bundle)
        return await self._fresh(job, bundle)

    async def _await_predecessors(self, job: ProtectedJob) -> None:
        """Containers of the same job that ended on this node a moment ago still hold the job root."""
        for other in self._jobs:
            if other is not job and other.record.job_id == job.record.job_id:
                try:
                    await asyncio.wait_for(other.released.wait(), _PREDECESSOR)
                except TimeoutError:
                    raise JobRootBusy(f"an earlier container of {job.record.job_id} still lives here") from None

    async def _fresh(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        phases = await self._patiently(partial(engine.prepare_fresh, job.container, epoch=job.epoch))
        job.mark_restoring(None)
        job.manifest = None
        job.note(phases={**job.record.phases, **phases})
        return await self._ready(job, bundle, RuntimeReply(action=RuntimeAction.CREATE))

    async def _next_rung(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        """The newest checkpoint that has not failed yet; below the last rung a clean start on clean files."""
        done = {rung.number for rung in job.record.rungs} | set(_plan(job).quarantined)
        for number in await asyncio.to_thread(engine.offered, job.job_root):
            if number in done:
                continue
            job.mark_restoring(number)
            prepare = partial(engine.prepare_restore, job.container, number, epoch=job.epoch, job_id=job.record.job_id)
            try:
                prepared = await self._patiently(prepare)
            except RestoreFailed as problem:
                self._fell(job, number, problem)
                continue
            job.manifest = prepared.manifest
            job.note(phases={**job.record.phases, **prepared.phases})
            tools = job.container.tools
            return await self._ready(
                job,
                bundle,
                RuntimeReply(
                    action=RuntimeAction.RESTORE,
                    argv=prepared.argv,
                    criu=str(tools.criu),
                    path_first=str(tools.path_first),
                ),
            )
        return await self._below_the_ladder(job, bundle)

    def _fell(self, job: ProtectedJob, number: int, problem: RestoreFailed) -> None:
        log.warning("not restored", job_id=job.record.job_id, checkpoint=number, reason=str(problem))
        rung = RestoreRung(number=number, reason=str(problem)[:1000], node_fault=problem.node_fault)
        job.note(rungs=[*job.record.rungs, rung])
        if problem.node_fault and retries_failed_start(_plan(job)):
            # Not the checkpoint's fault: another node may restore it, and Batch will try one.
            raise RestoreFailed(str(problem), problem.step, node_fault=True)

    async def _below_the_ladder(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        """Nothing could be restored. A clean start drops the checkpoints, which is right only where they are bad: while
        a node's fault stood in the way, they are kept and the container runs unprotected beside them."""
        if any(rung.node_fault for rung in job.record.rungs):
            reason = f"this node cannot restore its checkpoints ({job.record.rungs[-1].reason}); they are kept"
            return await self._refuse(job, bundle, Refusal(reason, level="error"))
        return await self._fresh(job, bundle)

    async def _ready(self, job: ProtectedJob, bundle: Bundle, reply: RuntimeReply) -> RuntimeReply:
        job.container = job.with_mounts(job.rules)
        await asyncio.to_thread(
            edit_config,
            bundle,
            data=job.job_root / "data",
            mount_path=_mount_path(_plan(job)),
            criu_config=job.container.criu_config,
            keep_in=job.folder,
        )
        job.handed_out = time.monotonic()
        return reply.model_copy(update={"keeper": [str(job.job_root / "log"), str(job.container.keeper_socket)]})

    @staticmethod
    async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
        """What an earlier try left goes within seconds; then JobRootBusy stands."""
        for _ in range(_BUSY_TRIES - 1):
            try:
                return await work()
            except JobRootBusy as problem:
                log.info("the job root is busy", reason=str(problem))
            await asyncio.sleep(_BETWEEN_TRIES)
        return await work()

    # ---- what the runtime did -------------------------------------------------------------------------------------

    async def failed(self, request: RuntimeRequest) -> RuntimeReply:
        """runc could not create or restore: the next rung, or the container as the engine made it."""
        job = self._jobs.get(request.container_id)
        if job is None or job.record.plan is None:
            return _PASSTHROUGH
        bundle = await asyncio.to_thread(read_bundle, job.record.bundle, job.folder)
        if bundle is None:
            return _PASSTHROUGH
        number = job.record.restoring
        if number is None:
            return await self._refuse(job, bundle, Refusal(f"runc could not create it: {request.message[-1000:]}"))
        return await self._guarded(job, bundle, self._after_failed_rung(job, bundle, number, request.message))

    async def _after_failed_rung(self, job: ProtectedJob, bundle: Bundle, number: int, message: str) -> RuntimeReply:
        self._fell(job, number, engine.restore_failure(job.container, number, message))
        return await self._next_rung(job, bundle)

    async def created(self, request: RuntimeRequest) -> RuntimeReply:
        """The container stands and waits for its start (created, or restored and left stopped)."""
        job = self._jobs.get(request.container_id)
        if job is None or request.pid is None or job.container.init_pid == request.pid:
            return DONE
        if not job.has_init(request.pid):
            self._endings.ended(job)
            return DONE
        self._endings.watch(job)
        if job.record.restoring is not None:
            await self._finish_restore(job, job.record.restoring)
        return DONE

    async def _finish_restore(self, job: ProtectedJob, number: int) -> None:
        if job.manifest is None:  # a new agent
            found = await asyncio.to_thread(engine.committed, job.job_root)
            job.manifest = next((one for one in found if one.number == number), None)
        if job.manifest is not None:
            try:
                await engine.finish_restore(job.container, job.manifest)
            except PerdureError as problem:
                # Its connections to outside may hang until they time out; that is no reason to lose the restore.
                log.warning("old addresses were not given back", job_id=job.record.job_id, reason=str(problem))
        job.note(phases={**job.record.phases, "restored": time.monotonic() - job.handed_out})

    async def started(self, request: RuntimeRequest) -> RuntimeReply:
        """The job runs."""
        job = self._jobs.get(request.container_id)
        if job is not None and not job.started.is_set():
            await self.note_start(job, datetime.now(UTC))
        return DONE

    async def note_start(self, job: ProtectedJob, at: datetime) -> None:
        """Tell that the job runs since `at`, and from what."""
        record = job.record
        job.note(started_at=at)
        job.started.set()
        self.on_started(job)
        found = await asyncio.to_thread(engine.committed, job.job_root)
        await self._reporter.report(
            job,
            ReportKind.STARTED,
            at=at,
            restored_from=record.restoring,
            rungs=record.rungs,
            found=[manifest.summary() for manifest in found],
            phases=_phases_for_people(record.phases),
        )

    async def deleted(self, request: RuntimeRequest) -> RuntimeReply:
        """The container is gone from runc's books."""
        job = self._jobs.get(request.container_id)
        if job is not None:
            await self._endings.deleted(job)
        return DONE


def _plan(job: ProtectedJob) -> AttachReply:
    assert job.record.plan is not None
    return job.record.plan


def _mount_path(plan: AttachReply) -> str:
    settings = plan.configuration.job_volume if plan.configuration else JobVolumeConfiguration()
    return settings.mount_path


def _phases_for_people(phases: dict[str, float]) -> dict[str, float]:
    """The engine's steps under the contract's names."""
    names = {"verify": "verified", "roll back": "rolled back"}
    return {names.get(name, name): round(seconds, 4) for name, seconds in phases.items()}
