"""The end of a container: its exit is seen, told, and nothing of it stays mounted on this node."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import structlog

from perdure.contracts.protection import ReportKind
from perdure.domain.errors import PerdureError
from perdure.domain.retries import HandOver
from worker_agent.container import stored_job
from worker_agent.container.bundle import restore_config
from worker_agent.container.network import remove_network
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.engine import clean, give_back, is_in_place, leave_files, release
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.node.volumes import unmount_volume
from worker_agent.rehearse.rehearsals import Rehearsals
from worker_agent.save.checkpointing import measure
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_STARTED_NEWS = 3.0
"""A container may end before the runtime has said that it started it. The report of the exit waits so many seconds for
the report of the start, which must be told first."""
_DELETE_PATIENCE = 20.0
"""Seconds between a container's exit and its deletion by the container engine; then we let go by ourselves."""
_BETWEEN_TRIES = 2.0
_POLL = 0.25


class Endings:
    """Watches containers' first processes, and lets go of what their containers held."""

    def __init__(self, foundation: Foundation, exited: Callable[[ProtectedJob], None], rehearsals: Rehearsals) -> None:
        """`exited` hears of every container that ended by itself."""
        self._jobs = foundation.jobs
        self._reporter = foundation.reporter
        self._exited = exited
        self._rehearsals = rehearsals
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, job: ProtectedJob) -> None:
        """Notice when the container's first process ends; at once if it has ended already."""
        try:
            descriptor = os.pidfd_open(job.container.init_pid)
        except (ProcessLookupError, OSError):
            self.ended(job)
            return
        loop = asyncio.get_running_loop()

        def readable() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self.ended(job)

        loop.add_reader(descriptor, readable)

    def ended(self, job: ProtectedJob) -> None:
        """The first process is gone: tell, and see to it that nothing stays mounted."""
        if not job.gone.is_set():
            job.gone.set()
            unfilled = lazy.ended_by_us(job.container) if job.record.lazily else ""
            if unfilled:
                job.note(ending=True)
            if not job.record.ending:
                self._exited(job)
            task = asyncio.create_task(self._after_exit(job, unfilled))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _after_exit(self, job: ProtectedJob, unfilled: str) -> None:
        """`unfilled`: why the memory of a lazily restored job did not come in, for which its container was ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STARTED_NEWS):
                await job.start_told.wait()
        if unfilled:
            said = f"After a lazy restore its memory could not be brought in, so its container was ended: {unfilled}."
            said += f" The next attempt restores checkpoint {job.record.restoring} whole, or an older one."
            await self._reporter.remark(job, said, "error")
        if not job.record.ending:
            await measure(job)
            await self._reporter.report(job, ReportKind.EXITED, max_rootfs_bytes=job.record.max_rootfs_bytes)
        end = asyncio.get_running_loop().time() + _DELETE_PATIENCE
        while job.container.runc_folder.exists() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_POLL)
        if job.container.runc_folder.exists():
            await self.let_go(job)
        else:
            # Deleted; and nobody may have told us, because we were not there.
            await self.deleted(job)
        if unfilled:
            # Its volume is free. The next attempt goes on from the same checkpoint, as after a notice.
            way = HandOver.END_CONTAINER
            await self._reporter.report(job, ReportKind.HANDED_OVER, key="unfilled", reason=unfilled, hand_over=way)

    async def deleted(self, job: ProtectedJob) -> None:
        """The container engine has deleted the container: let go of everything, then forget it."""
        job.gone.set()
        await self.let_go(job)
        async with job.lock:
            if self._jobs.get(job.record.container_id) is job:
                await asyncio.to_thread(self._jobs.forget, job)

    async def let_go(self, job: ProtectedJob) -> None:
        """Until nothing of the container is mounted here any more, however often that must be tried."""
        for task in (job.dump, job.final):
            if task is not None and not task.done():
                await asyncio.wait([task])
        told = False
        while True:
            async with job.lock:
                try:
                    await self.release(job)
                    return
                except (PerdureError, OSError) as problem:
                    if not told:
                        log.error("a job volume is still busy", job_id=job.record.job_id, reason=str(problem))
                        told = True
            await asyncio.sleep(_BETWEEN_TRIES)

    async def release(self, job: ProtectedJob) -> None:
        """Unmount the overlay and the volume, once. JobRootBusy or VolumeFailed if something still uses them. The
        caller holds `job.lock`."""
        if job.released.is_set():
            return
        await self._rehearsals.gone(job)
        if job.job_root.is_dir():
            if not job.record.pid and (job.handed_out or job.record.restoring is not None):
                # It never stood: a create or restore that was cut short leaves what runc does not know of.
                await clean(job.container)
            in_place = await asyncio.to_thread(is_in_place, job.container)
            await release(job.container)
            await self._leave_to_engine(job, in_place)
            await remove_network(job.network_file)
            await unmount_volume(job.job_root)
            await stored_job.drop_root(job)
        job.released.set()

    async def _leave_to_engine(self, job: ProtectedJob, in_place: bool) -> None:
        """The engine's own root file system again, with the job's files: for `docker cp`, `diff` and `commit` after the
        exit, and for `docker restart`, which does not mount it anew. A failure is no reason to keep the volume."""
        try:
            if (
                job.started.is_set()
                and not job.record.ending
                and not await asyncio.to_thread(leave_files, job.container)
            ):
                log.info("the layer was not copied to the container engine's folder", job_id=job.record.job_id)
            if in_place:
                await asyncio.to_thread(give_back, job.container)
        except (PerdureError, OSError) as problem:
            log.warning("the layer was not left to the container engine", job_id=job.record.job_id, reason=str(problem))

    async def undo(self, job: ProtectedJob) -> None:
        """A container that will not be protected after all: everything as the container engine made it."""
        await job.end_verifying()
        async with job.lock:
            await self.release(job)
        await asyncio.to_thread(give_back, job.container)
        await asyncio.to_thread(restore_config, job.record.bundle, job.folder)
        await asyncio.to_thread(self._jobs.forget, job)
