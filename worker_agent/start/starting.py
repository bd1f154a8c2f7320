"""One container's way from `create` to `started`, as the runtime asks for it.

The methods of `Starter` are the runtime's requests (perdure/contracts/runtime.py), each safe to be asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from perdure.contracts.protection import ReportKind
from perdure.contracts.runtime import RuntimeAction, RuntimeReply, RuntimeRequest
from perdure.domain.errors import (
    CheckpointFailed,
    Fenced,
    ImageInvalid,
    NotCheckpointable,
    PerdureError,
    RestoreFailed,
    VolumeDamaged,
)
from worker_agent import engine
from worker_agent.container import stored_job
from worker_agent.container.bundle import Bundle, read_bundle
from worker_agent.container.credentials import IdentityProxy
from worker_agent.container.mounts import shared_destinations
from worker_agent.container.network import keep_names
from worker_agent.container.protected_jobs import ContainerRecord, ProtectedJob
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.save.endings import Endings
from worker_agent.save.hand_over import HandOvers
from worker_agent.start.planning import Planner, Refusal
from worker_agent.start.preparing import Preparer
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

DONE = RuntimeReply(action=RuntimeAction.DONE)
_SIBLING_PATIENCE = 30.0
"""Seconds for an earlier container of the same attempt to stand, or to be given up."""
_PASSTHROUGH = RuntimeReply(action=RuntimeAction.PASSTHROUGH)
_TELL_WHOLE = 86400.0
"""Seconds after which nobody waits any more for a lazily restored job's memory to be whole."""


class Starter:
    """Serves the runtime until the container runs."""

    def __init__(
        self,
        foundation: Foundation,
        planner: Planner,
        identity: IdentityProxy,
        endings: Endings,
        hand_overs: HandOvers,
    ) -> None:
        self._jobs = foundation.jobs
        self._reporter = foundation.reporter
        self._planner = planner
        self._identity = identity
        self._endings = endings
        self._hand_overs = hand_overs
        self._preparer = Preparer(foundation.jobs, foundation.reporter.remark)
        self._telling: set[asyncio.Task[None]] = set()

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
            try:
                await self._siblings(job)
            except NotCheckpointable as problem:
                return await self._refuse(job, bundle, Refusal(str(problem)))
            plan = await self._planner.plan(request.container_id, bundle)
            if isinstance(plan, Refusal):
                return await self._refuse(job, bundle, plan)
            job.note(plan=plan, phases={"waited": time.monotonic() - begun})
        return await self._guarded(job, bundle, self._preparer.prepare(job, bundle))

    async def _siblings(self, job: ProtectedJob) -> None:
        """Another container of the same attempt on this node: either it died while it started, and Batch has counted no
        attempt, or the job has several. They ask for a plan one after the other, for each that is accepted fences the
        one before. NotCheckpointable for a second one beside one that lives."""
        end = time.monotonic() + _SIBLING_PATIENCE
        for other in self._jobs:
            if other is job:
                return
            same = (other.record.job_id, other.record.attempt) == (job.record.job_id, job.record.attempt)
            while same and self._jobs.get(other.record.container_id) is other and time.monotonic() < end:
                if other.gone.is_set() or other.record.ending:
                    break
                if other.record.pid:
                    raise NotCheckpointable("jobs of several containers cannot be frozen together yet")
                await asyncio.sleep(0.1)

    def _take_in(self, request: RuntimeRequest, bundle: Bundle) -> ProtectedJob:
        """Note everything about the container before anything is changed. NotCheckpointable names what forbids it."""
        bundle.check()
        overlay = engine.find_overlay(bundle.rootfs)
        if overlay is None:
            raise NotCheckpointable("its root file system is no overlay, so its files could not be taken along")
        return self._jobs.add(
            ContainerRecord(
                container_id=request.container_id,
                job_id=bundle.job_id,
                attempt=bundle.attempt,
                bundle=bundle.path,
                runc_root=request.runc_root,
                rootfs=bundle.rootfs,
                lower_layers=list(overlay.lower),
                engines_overlay=overlay,
                cgroups_path=bundle.cgroups_path,
                given=bundle.surroundings,
                own_network=bundle.own_network(),
            )
        )

    async def _guarded(self, job: ProtectedJob, bundle: Bundle, work: Awaitable[RuntimeReply]) -> RuntimeReply:
        """The answer of `work`. An error in it never reaches the runtime: the container then runs unprotected, or its
        start fails, as promise 7 says."""
        try:
            return await work
        except Fenced as problem:
            return await self._refuse(job, bundle, Refusal(str(problem), fail=True))
        except NotCheckpointable as problem:  # by its configuration, which only the plan tells
            return await self._refuse(job, bundle, Refusal(str(problem)))
        except (PerdureError, OSError) as problem:
            # What is damaged is as damaged on the next node: an attempt would be lost for nothing.
            plan = None if isinstance(problem, VolumeDamaged) else job.record.plan
            return await self._refuse(job, bundle, self._planner.without_plan(bundle, plan, str(problem)))

    async def _refuse(self, job: ProtectedJob, bundle: Bundle, refusal: Refusal) -> RuntimeReply:
        """Undo what was done, tell the job's people, and let the container run by itself or fail."""
        reason, fail = refusal.reason, refusal.fail
        self._preparer.ports.release(job.record.container_id)
        try:
            await self._endings.undo(job)
        except (PerdureError, OSError) as problem:
            # Our mount may still be the container's root. It is empty, or it holds the files of a checkpoint. A
            # container that ran on it would work with wrong files, so the start fails.
            log.error("a container's start was not undone", job_id=bundle.job_id, reason=str(problem))
            reason, fail = f"{reason}; and what was prepared was not undone: {problem}", True
        if job.epoch:
            word = "was not started" if fail else "runs unprotected"
            await self._reporter.remark(
                job,
                f"The container {word}: {reason}",
                "error" if fail else refusal.level,
                unprotected=not fail,
                rungs=job.record.rungs,
            )
        elif fail:
            log.warning("a container's start is refused", job_id=bundle.job_id, reason=reason)
        else:
            await self._reporter.unprotected(bundle.job_id, job.record.container_id, reason, refusal.level)
        return RuntimeReply(action=RuntimeAction.FAIL, reason=reason) if fail else _PASSTHROUGH

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
        return await self._guarded(job, bundle, self._preparer.after_failure(job, bundle, number, request.message))

    async def verify(self, request: RuntimeRequest) -> RuntimeReply:
        """runc has restored the container, which stands still: are the pages sound that it read? Else this rung did not
        hold."""
        job = self._jobs.get(request.container_id)
        if job is None or job.record.restoring is None:
            return DONE
        try:
            if not await lazy.is_sound(job.container):
                await job.pages_sound(job.record.restoring)
        except RestoreFailed as problem:
            return RuntimeReply(action=RuntimeAction.FAIL, reason=str(problem))
        return DONE

    async def created(self, request: RuntimeRequest) -> RuntimeReply:
        """The container stands and waits for its start (created, or restored and left stopped)."""
        job = self._jobs.get(request.container_id)
        if job is None or request.pid is None or job.container.init_pid == request.pid:
            return DONE
        if not job.has_init(request.pid):
            self._endings.ended(job)
            return DONE
        self._endings.watch(job)
        self._preparer.ports.release(request.container_id)
        if job.record.restoring is not None:
            await self._finish_restore(job, job.record.restoring)
        return DONE

    async def _finish_restore(self, job: ProtectedJob, number: int) -> None:
        await self._read_manifest(job, number)
        await self._identity.refresh()
        if job.manifest is not None:
            try:
                await engine.finish_restore(job.container, job.manifest)
            except PerdureError as problem:
                # Its connections to outside may hang until they time out; that is no reason to lose the restore.
                log.warning("a restored job was not all set right", job_id=job.record.job_id, reason=str(problem))
        job.note(phases={**job.record.phases, "restored": time.monotonic() - job.handed_out})
        if job.settings.diagnosis:
            await asyncio.to_thread(engine.keep_log, job.container, "restore", "it went well")

    async def _read_manifest(self, job: ProtectedJob, number: int) -> None:
        if job.manifest is None:  # a new agent
            try:
                job.manifest = await asyncio.to_thread(engine.read_checkpoint, job.job_root, number)
            except ImageInvalid as problem:
                log.warning("a restored job was not all set right", job_id=job.record.job_id, reason=str(problem))

    async def let_go_on(self, request: RuntimeRequest) -> RuntimeReply:
        """A restored container goes on. Asked again, it does already, and nothing is done to it."""
        job = self._jobs.get(request.container_id)
        if job is None or job.record.restoring is None or not job.container.init_pid:
            return _PASSTHROUGH
        await self._read_manifest(job, job.record.restoring)
        if job.manifest is None:
            return _PASSTHROUGH
        try:
            if not job.goes_on:
                await asyncio.to_thread(self._keep_names, job)
                await engine.continue_restored(job.container, job.manifest)
        except PerdureError as problem:
            return RuntimeReply(action=RuntimeAction.FAIL, reason=str(problem))
        job.goes_on = True
        return DONE

    @staticmethod
    def _keep_names(job: ProtectedJob) -> None:
        """Not earlier: Docker 26 and newer write the container's /etc/hosts after its create."""
        bundle = read_bundle(job.record.bundle, job.folder)
        keep_names(bundle.hosts_file if bundle else None, job.record.given, job.record.surroundings)

    async def started(self, request: RuntimeRequest) -> RuntimeReply:
        """The job runs."""
        job = self._jobs.get(request.container_id)
        if job is not None and not job.started.is_set():
            await self._return_gpus(job)
            await self.note_start(job, datetime.now(UTC))
        return DONE

    async def _return_gpus(self, job: ProtectedJob) -> None:
        """A restored job on a GPU needs it back before it is of any use; without it, it is ended (Batch sees 137)."""
        if job.record.restoring is None or job.manifest is None:
            return
        try:
            await engine.return_gpus(job.container, job.manifest)
        except PerdureError as problem:
            await self._reporter.remark(job, f"The restored job was ended: {problem}", "error")
            if job.container.freezer is not None:
                await asyncio.to_thread(job.container.freezer.kill)

    async def note_start(self, job: ProtectedJob, at: datetime) -> None:
        """Tell that the job runs since `at`, and from what."""
        record = job.record
        job.note(started_at=at)
        job.started.set()
        self._hand_overs.started(job)
        found = await stored_job.found(job)
        await self._reporter.report(
            job,
            ReportKind.STARTED,
            at=at,
            restored_from=record.restoring,
            rungs=record.rungs,
            found=found,
            phases=_phases_for_people(record.phases),
        )
        if record.older_image and record.image is not None:
            said = (
                f"The image {record.image.name} has changed since the job began; it goes on with the one it began with."
            )
            await self._reporter.remark(job, said)
        if record.restoring is not None and record.lazily:
            task = asyncio.create_task(self._tell_whole(job))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        elif record.restoring is not None and record.not_lazy:
            said = f"Checkpoint {record.restoring} was restored whole before the job went on, not lazily:"
            await self._reporter.remark(job, f"{said} {record.not_lazy}.", "info")
        if record.restoring is not None and record.network_remark:
            await self._reporter.remark(job, record.network_remark, "info")
        shared = shared_destinations(job.rules)
        if record.restoring is not None and shared:
            said = f"Outside the promise: what the job wrote to {', '.join(shared)} after the checkpoint stays there."
            await self._reporter.remark(job, said)
        job.start_told.set()

    async def _tell_whole(self, job: ProtectedJob) -> None:
        """Once all memory of a lazily restored job is there. If that fails, its end is told."""
        with contextlib.suppress(CheckpointFailed):
            await lazy.whole(job.container, limit_seconds=_TELL_WHOLE, number=job.record.restoring)
            state = await asyncio.to_thread(lazy.look, job.container)
            if state is not None and job.runs:
                said = f"The job went on before all of its memory was there; the last came after {state.seconds:.1f} s."
                await self._reporter.remark(job, said, "info")

    async def deleted(self, request: RuntimeRequest) -> RuntimeReply:
        """The container is gone from runc's books."""
        job = self._jobs.get(request.container_id)
        if job is not None:
            await self._endings.deleted(job)
        return DONE


def _phases_for_people(phases: dict[str, float]) -> dict[str, float]:
    """The engine's steps under the contract's names."""
    names = {"verify": "verified", "roll back": "rolled back"}
    return {names.get(name, name): round(seconds, 4) for name, seconds in phases.items()}
