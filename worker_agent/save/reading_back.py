"""What went into a store is read back while the job runs: damage is found while another checkpoint can still be taken.

Only what a checkpoint wrote anew is read, after everything that has a deadline, and one at a time for each job.
"""

from __future__ import annotations

import asyncio
import threading

import structlog

from perdure.domain.errors import ImageInvalid, PerdureError
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.tell.reporting import Reporter

log = structlog.get_logger()


class ReadingBack:
    """Looks after the newest checkpoint of each job that has a store."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._running: dict[str, tuple[asyncio.Task[None], threading.Event]] = {}

    def look(self, job: ProtectedJob) -> None:
        """Begin with the newest checkpoint, unless it was read back; give up when the job goes."""
        name = job.record.container_id
        running = self._running.get(name)
        if running is not None:
            if not job.runs or job.final is not None:
                running[1].set()
            return
        number, job.unread = job.unread, None
        if number is not None and job.runs and job.final is None:
            stop = threading.Event()
            task = asyncio.create_task(self._read(job, number, stop))
            self._running[name] = task, stop
            task.add_done_callback(lambda done: self._running.pop(name, None))

    async def _read(self, job: ProtectedJob, number: int, stop: threading.Event) -> None:
        try:
            await job.in_store(lambda: job.stored.verify_new(number, stop))
        except ImageInvalid as problem:
            await self._drop(job, stop, problem)
        except (PerdureError, OSError) as problem:
            log.info("a checkpoint was not read back", job_id=job.record.job_id, number=number, reason=str(problem))

    async def _drop(self, job: ProtectedJob, stop: threading.Event, problem: ImageInvalid) -> None:
        """What is damaged is never offered again, nor shared with later ones; the next one is taken at once."""
        gone: list[int] = []
        try:
            gone = await job.in_store(lambda: job.stored.discard_damaged(stop))
        except (PerdureError, OSError) as other:
            log.error("damaged checkpoints were not deleted", job_id=job.record.job_id, reason=str(other))
        if not gone:
            return  # it was dropped for a newer one meanwhile
        numbers = ", ".join(map(str, gone))
        said = f"Damaged in the store, and deleted: checkpoint {numbers}. Another one is taken now. ({problem})"
        await self._reporter.remark(job, said, "error")
        job.hurried = job.runs and job.settings.enabled
