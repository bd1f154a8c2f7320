"""How the agent tells what happened: every fact becomes one spooled message with a stable id."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from perdure.contracts.inventory import NodeChanged
from perdure.contracts.protection import NodeReport, ReportKind
from perdure.domain.nodes import Notice
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.node.this_node import ThisNode
from worker_agent.tell.spool import Entry, EntryKind, Spool

log = structlog.get_logger()

_TELL_STORE_USE = {
    ReportKind.STARTED,
    ReportKind.CHECKPOINT,
    ReportKind.CHECKPOINT_FAILED,
    ReportKind.HANDED_OVER,
    ReportKind.EXITED,
}
"""Facts before which the store was asked."""


class Reporter:
    """Turns facts into messages. Every method returns once the message is stored; none waits for Temporal."""

    def __init__(self, node: ThisNode, spool: Spool, told: Callable[[ProtectedJob, ReportKind], None]) -> None:
        """`told` hears of every fact about a container once it is stored."""
        self._node = node
        self._spool = spool
        self._told = told

    async def report(self, job: ProtectedJob, kind: ReportKind, key: str = "", **fields: Any) -> None:
        """A fact about a container. `key` tells facts of one kind apart: said again (after a restart of the agent),
        the same fact has the same id."""
        record = job.record
        name = kind.value.replace(" ", "-")
        fields.setdefault("at", datetime.now(UTC))
        report_id = f"{record.container_id[:16]}-{job.epoch}-{name}{'-' + key if key else ''}"
        if kind in _TELL_STORE_USE:
            fields["store_use"] = await job.store_use(report_id, datetime.now(UTC))
        report = NodeReport(
            report_id=report_id,
            job_id=record.job_id,
            epoch=job.epoch,
            kind=kind,
            instance_id=self._node.instance_id,
            **fields,
        )
        about = {"job_id": record.job_id, "epoch": job.epoch, "reason": report.reason, "phases": report.phases}
        log.info(kind.value, **{name: value for name, value in about.items() if value not in ("", {})})
        await self._spool.add(Entry(kind=EntryKind.REPORT, job_id=record.job_id, report=report))
        self._told(job, kind)

    async def remark(self, job: ProtectedJob, reason: str, level: str = "warning", **fields: Any) -> None:
        """A line on the job's timeline."""
        await self.report(job, ReportKind.REMARK, key=uuid.uuid4().hex[:12], reason=reason, level=level, **fields)

    async def unprotected(self, job_id: str, container_id: str, reason: str, level: str = "warning") -> None:
        """A container of the job runs as if we were not there. It has no epoch; the job may not even be known yet."""
        await self._node.identified.wait()
        log.warning("unprotected", job_id=job_id, container=container_id[:12], reason=reason)
        report = NodeReport(
            report_id=f"{container_id[:16]}-unprotected",
            job_id=job_id,
            epoch=0,
            kind=ReportKind.REMARK,
            at=datetime.now(UTC),
            instance_id=self._node.instance_id,
            reason=f"The container on {self._node.instance_id} runs unprotected: {reason}",
            level=level,
        )
        await self._spool.add(Entry(kind=EntryKind.UNPROTECTED, job_id=job_id, report=report))

    async def notice(self, job: ProtectedJob, notice: Notice) -> None:
        """The job's workflow should know what AWS announced for its node."""
        await self._spool.add(Entry(kind=EntryKind.NOTICE, job_id=job.record.job_id, notice=notice))

    async def node(self, *, wants_log_settings: bool = False) -> None:
        """The inventory should know how this node is; an agent that has just started asks how it is to log."""
        changed = NodeChanged(node=self._node.describe(), at=datetime.now(UTC), wants_log_settings=wants_log_settings)
        await self._spool.add(Entry(kind=EntryKind.NODE, node=changed))
