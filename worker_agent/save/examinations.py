"""When the agent takes a preflight look at a job, and when it says something: once after the start, then at changes."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime

import structlog

from perdure.contracts.protection import ReportKind
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.preflight import Finding, Level, Report, Verdict, examine
from worker_agent.tell.reporting import Reporter

log = structlog.get_logger()

_FIRST = 3.0
"""Seconds after the start at which programs have opened what they will work with."""
_AGAIN, _SOON = 60.0, 12.0
"""Seconds between looks, and in the first minute: they cost milliseconds, and jobs of many steps change what they
hold."""


class Examinations:
    """Verdicts as lines of the timeline. Nothing here stands in the way of a checkpoint: CRIU has the last word."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    async def look(self, job: ProtectedJob) -> None:
        """Look if it is time to. A verdict is told once; the same one of the same reasons is not told again."""
        started = job.record.started_at
        if started is None or not job.runs or (job.dump is not None and not job.dump.done()):
            return  # in a dump its processes are in CRIU's hands
        age = (datetime.now(UTC) - started).total_seconds()
        if age < _FIRST or time.monotonic() - job.examined_at < (_AGAIN if age > _AGAIN else _SOON):
            return
        job.examined_at = time.monotonic()
        try:
            report = await asyncio.to_thread(_examine, job)
        except OSError as problem:  # it ended while we looked
            log.info("no preflight", job_id=job.record.job_id, reason=str(problem))
            return
        if job.gone.is_set() or report.fingerprint == job.record.preflight:
            return
        well = report.verdict is Verdict.PROTECTABLE
        # A restored job that is well goes on as it was: nothing to say.
        if not well or job.record.preflight or job.record.restoring is None:
            level = "info" if well else "warning"
            key = uuid.uuid4().hex[:12]
            await self._reporter.report(job, ReportKind.PREFLIGHT, key=key, reason=report.summary, level=level)
        job.note(preflight=report.fingerprint)


def _examine(job: ProtectedJob) -> Report:
    container = job.container
    pids = container.freezer.pids() if container.freezer is not None else []
    plan = job.record.plan
    mounts = [rule.destination for rule in job.record.mounts]
    retry, gpu = (plan.retry if plan else None), container.tools.gpu.enabled
    report = examine(
        pids,
        container.init_pid,
        retry=retry,
        mounts=mounts,
        shared=container.shared_mounts,
        # Many folders take long; each checkpoint looks at them before its freeze.
        trees=container.trees if job.refusal else (),
        gpu=gpu,
    )
    if job.refusal and report.verdict is Verdict.PROTECTABLE:
        # A look sees less than a dump.
        return report.joined(Report.of([Finding(Level.CHANGE, "not saved", "the last checkpoint was refused")]))
    return report
