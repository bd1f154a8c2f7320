"""When a checkpoint is rehearsed: after a job's first one, and again when its make-up has something new.

One at a time on a node, and only while nothing is more important: a notice ends it at once, and no checkpoint ever
waits for it. What stands in the way (memory, space on the volume, a notice) is a reason to try again after a later
checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid
from datetime import UTC, datetime

import structlog

from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import Checkpoint, Rehearsal, RehearsalVerdict
from perdure.domain.errors import PerdureError
from worker_agent import proc
from worker_agent.container.protected_jobs import ProtectedJob
from worker_agent.engine import Container, committed, read_head
from worker_agent.engine.commands import complete
from worker_agent.engine.in_network import in_network_of
from worker_agent.engine.job_root import free_bytes
from worker_agent.engine.machine import available_bytes, total_bytes
from worker_agent.rehearse.make_up import make_up
from worker_agent.rehearse.remains import tidy
from worker_agent.rehearse.shielding import SETTINGS, network_settings
from worker_agent.rehearse.spec import ALONE, FOLDER, Answer, Spec
from worker_agent.rehearse.staging import run_stage
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_LIMIT, _RESTORE_LIMIT = 900.0, 600.0
"""Seconds, at low priority: a busy instance may have no time for it."""
_SPARE = 256 << 20
"""Bytes of memory that stay free beside a rehearsal, at least; and a tenth of the node's."""
_OWN = 256 << 20
"""Bytes that a rehearsal may use beside the job's memory: the restorer, and what it has read of the images."""
_LOOK = 0.5
"""Seconds between two looks at what a rehearsal takes from others."""
_ALONE, _POLL = 10.0, 0.02
"""Seconds in which a rehearsal has let go of other jobs' files."""
_MOST_WORDS = 1000
"""Of a job's make-up that are remembered: a job that starts ever new programs is not rehearsed for ever."""


class Rehearsals:
    """Of the jobs on this node."""

    def __init__(self, foundation: Foundation) -> None:
        self._node = foundation.node
        self._reporter = foundation.reporter
        self._task: asyncio.Task[None] | None = None
        self._of: ProtectedJob | None = None
        """Whose checkpoint is being rehearsed."""
        self._tried_at: dict[str, float] = {}

    def consider(self, job: ProtectedJob, checkpoint: Checkpoint) -> None:
        """A checkpoint was committed, and the job runs on. Returns at once."""
        name = job.record.container_id
        if not job.settings.rehearsal or self._runs():
            return
        if time.monotonic() - self._tried_at.get(name, float("-inf")) < self._node.settings.rehearsal_between:
            return
        self._of, self._task = job, asyncio.create_task(self._consider(job, checkpoint))

    def _runs(self) -> bool:
        return self._task is not None and not self._task.done()

    def cut(self) -> None:
        """Something is more important: whatever runs is being ended when this returns. `gone` waits for it."""
        if self._task is not None:
            self._task.cancel()

    async def gone(self, job: ProtectedJob) -> None:
        """No rehearsal uses this job's volume when this returns. The job's own is ended; a neighbour's goes on once it
        has let go of what it inherited, which is the first thing that it does."""
        end = time.monotonic() + _ALONE
        while self._task is not None and self._of is not None and self._runs():
            if self._of is job or time.monotonic() > end:
                self._task.cancel()
                await asyncio.wait([self._task])
            elif (self._of.job_root / FOLDER / ALONE).exists():
                break
            else:
                await asyncio.sleep(_POLL)
        self._tried_at.pop(job.record.container_id, None)

    async def inherit(self, job: ProtectedJob) -> None:
        """What an agent that was killed left of one goes away."""
        await asyncio.to_thread(tidy, job.job_root, job.record.container_id)

    # ---- one rehearsal --------------------------------------------------------------------------------------------

    async def _consider(self, job: ProtectedJob, checkpoint: Checkpoint) -> None:
        freezer = job.container.freezer
        if freezer is None:
            return
        try:
            now = await asyncio.to_thread(lambda: make_up(freezer.pids()))
            if job.record.made_of and now <= set(job.record.made_of):
                return
            await self._rehearse(job, checkpoint, now)
        except (PerdureError, OSError) as problem:  # the job ended while we looked
            log.info("no rehearsal", job_id=job.record.job_id, reason=str(problem))

    async def _rehearse(self, job: ProtectedJob, checkpoint: Checkpoint, made_of: frozenset[str]) -> None:
        self._tried_at[job.record.container_id] = begun = time.monotonic()
        try:
            answer = await self._answer(job, checkpoint)
        except asyncio.CancelledError:
            self._tried_at.pop(job.record.container_id, None)
            raise
        if job.gone.is_set() or self._node.interrupted.is_set():
            return
        numbers = [one.number for one in await asyncio.to_thread(committed, job.job_root)]
        if checkpoint.number not in numbers:
            return  # it was dropped meanwhile: whatever was missing says nothing
        if answer.verdict is RehearsalVerdict.PASSED:
            known = {*job.record.made_of, *made_of}
            job.note(made_of=sorted(known) if len(known) <= _MOST_WORDS else job.record.made_of)
        await self._tell(job, checkpoint, answer, time.monotonic() - begun)

    async def _answer(self, job: ProtectedJob, checkpoint: Checkpoint) -> Answer:
        head = await asyncio.to_thread(read_head, job.job_root, checkpoint.number)
        in_memory = sum(image.size for image in head.images if os.path.basename(image.path).startswith("tmpfs-"))
        needed = in_memory + await asyncio.to_thread(_memory_of, job.container)
        why_not = "the instance is being taken back" if self._node.notice is not None else no_room(needed)
        if why_not:
            return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=why_not)
        spec = Spec.of(
            job.container,
            job_id=job.record.job_id,
            predecessors=job.record.plan.predecessors if job.record.plan else [],
            number=checkpoint.number,
            own_network=job.record.own_network,
            network_settings=await in_network_of(job.container.init_pid, network_settings, SETTINGS),
            memory_bytes=needed + needed // 4 + _OWN,
            reserve_bytes=job.settings.reserve_mib << 20,
            restore_seconds=_RESTORE_LIMIT,
            failure_logs=job.container.failure_logs,
        )
        log.info("rehearsal", job_id=spec.job_id, checkpoint=spec.number, memory_bytes=spec.memory_bytes)
        answer = await _while_there_is_room(spec)
        if answer.verdict is RehearsalVerdict.FAILED:  # an alarm that is worth a second look
            answer = await _while_there_is_room(spec)
        return answer

    async def _tell(self, job: ProtectedJob, checkpoint: Checkpoint, answer: Answer, seconds: float) -> None:
        """A rehearsal that was not tried is told once for each reason."""
        told = re.sub(r"[0-9]+", "", f"{answer.verdict} {answer.reason}")
        if answer.verdict is RehearsalVerdict.NOT_TRIED and told == job.record.rehearsal_told:
            return
        job.note(rehearsal_told=told)
        rehearsal = Rehearsal(
            number=checkpoint.number,
            epoch=job.epoch,
            at=datetime.now(UTC),
            verdict=answer.verdict,
            reason=answer.reason[:2000],
            seconds=round(seconds, 3),
        )
        level = "error" if answer.verdict is RehearsalVerdict.FAILED else "info"
        key = f"rehearsed-{uuid.uuid4().hex[:12]}"
        await self._reporter.report(
            job, ReportKind.REHEARSED, key=key, rehearsal=rehearsal, reason=answer.reason[:2000], level=level
        )


def no_room(needed: int, available: int | None = None, total: int | None = None) -> str:
    """Why a job of `needed` bytes of memory cannot be rehearsed on this node now; empty: it can."""
    available = available_bytes() if available is None else available
    spare = _spare(total_bytes() if total is None else total)
    if needed + _OWN + spare <= available:
        return ""
    said = f"it needs {(needed + _OWN) >> 20} MiB of memory and {spare >> 20} MiB must stay free, "
    return said + f"but the instance has {available >> 20} MiB"


def _spare(total: int) -> int:
    return max(_SPARE, total // 10)


async def _while_there_is_room(spec: Spec) -> Answer:
    """The verdict; or that it was ended, because another container wants the memory or the job its volume's space."""
    stage = asyncio.create_task(run_stage(spec, _LIMIT))
    try:
        while not (await asyncio.wait([stage], timeout=_LOOK))[0]:
            short = "memory" if available_bytes() < _spare(total_bytes()) // 2 else ""
            short = short or ("space on the job volume" if free_bytes(spec.job_root) < spec.reserve_bytes else "")
            if short:
                return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=f"it was ended, because {short} became short")
        return stage.result()
    finally:
        stage.cancel()
        await complete(asyncio.wait([stage]))


def _memory_of(container: Container) -> int:
    """Bytes of its processes that a restore brings back; what they share is counted for each. Blocks."""
    total = 0
    for pid in container.freezer.pids() if container.freezer else []:
        status = proc.status(pid)
        total += (status.private_kib + status.kib("RssShmem")) << 10
    return total
