"""Taking a checkpoint: the ordered list of steps, the way out of every one, and what a notice changes meanwhile.

The steps from pause to clone see the job standing still; memory, files and output belong to one instant. Whatever goes
wrong (an error, the time limit, a cancelled caller), the torn checkpoint is deleted and the job runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, CommandFailed, FreezerFailed, ImageInvalid, JobEnded, TooLate
from worker_agent.engine import checkpoint_steps as steps
from worker_agent.engine import committing, dump
from worker_agent.engine import job_root as roots
from worker_agent.engine.commands import complete
from worker_agent.engine.container import Container, Identity
from worker_agent.engine.explanations import explain
from worker_agent.engine.threads import urgently
from worker_agent.engine.work import Work

StepCallback = Callable[[str], None]
_Step = tuple[str, Callable[[Work], Awaitable[None]]]

BEFORE: tuple[_Step, ...] = (
    ("look", steps.look),
    ("room", steps.room),
    ("presync", steps.sync),
    ("suspend GPU", steps.suspend_gpu),
    ("page sink", dump.open_page_sink),  # it has been starting since the end of `room`
    ("predump", dump.predump),
    ("look again", steps.look_again),
)
FROZEN: tuple[_Step, ...] = (
    ("pause", steps.pause),
    ("measure", steps.measure),
    ("names", steps.lend_names),
    ("dump", dump.dump),
    ("drain", steps.drain),
    ("clone", steps.clone),
    ("resume", steps.resume),
)
AFTER: tuple[_Step, ...] = (
    ("resume GPU", steps.resume_gpu),
    ("assemble", dump.assemble),
    ("images", committing.examine_images),
    ("sync", steps.sync),
    ("checksums", committing.digest),
    ("commit", committing.commit),
)
COMMITTED: tuple[_Step, ...] = (("prune", committing.prune),)


async def take_checkpoint(
    container: Container,
    identity: Identity,
    *,
    kind: CheckpointKind,
    limit_seconds: float,
    keep: int,
    reserve_bytes: int,
    full_every: int = 8,
    predump: bool = False,
    commit_by: float | None = None,
    on_step: StepCallback | None = None,
) -> Manifest:
    """Freeze, dump, clone, commit; returns the committed manifest. Only a FINAL one leaves the container frozen.

    `limit_seconds` bounds the time in which the job stands still for dump and clone; `keep` committed checkpoints
    stay, and `reserve_bytes` of the job root are never used. Each checkpoint is complete. Where the file system can, it
    shares the memory pages that did not change with those before it, but for one of every `full_every` (1: none share);
    with `predump`, what is new is read and written before the freeze. `commit_by` (monotonic seconds) bounds everything
    up to the commit; a dump that would take longer, by those before it, is not begun. `on_step` is told each step's
    name as it begins. The manifest's phases are seconds by step, and `frozen` from the pause to the resume (FINAL: to
    the commit).

    Raises NotCheckpointable (naming process and command), JobEnded, JobRootFull, TooLate, Fenced, JobRootBusy, or
    CheckpointFailed with the step; the job then runs on and nothing of the checkpoint is left. Cancelling does the
    same, but a checkpoint that is committed by then stays.
    """
    taking = Taking(limit_seconds, commit_by, on_step)
    return await taking.take(
        container,
        identity,
        kind=kind,
        keep=keep,
        reserve_bytes=reserve_bytes,
        full_every=full_every,
        predump=predump,
    )


class Taking:
    """One checkpoint while it is taken. `take` is called once; `take_checkpoint` describes it.

    A notice may come meanwhile. Then `promote` makes the final checkpoint of it, which saves a second dump."""

    def __init__(
        self, limit_seconds: float, commit_by: float | None = None, on_step: StepCallback | None = None
    ) -> None:
        self._limit_seconds = limit_seconds
        self._commit_by = commit_by
        self._on_step = on_step or (lambda step: None)
        self._work: Work | None = None
        self._step = ""
        self._limit: asyncio.Timeout | None = None
        self._frozen_by: float | None = None
        self._wanted: float | None = None

    async def take(
        self,
        container: Container,
        identity: Identity,
        *,
        kind: CheckpointKind,
        keep: int,
        reserve_bytes: int,
        full_every: int = 8,
        predump: bool = False,
    ) -> Manifest:
        """See `take_checkpoint`."""
        if container.freezer is None:
            raise CheckpointFailed("the container has no processes yet", "look")
        async with roots.held(container.job_root):
            await urgently(roots.check_lease, container.job_root, identity.epoch)
            store, freezer = roots.store(container.job_root), container.freezer
            work = Work(container, freezer, identity, kind, keep, reserve_bytes, store, full_every, predump)
            self._work = work
            if self._wanted is not None:
                self._become_final(work, self._wanted)
            try:
                await self._all_steps(work)
            except BaseException as error:
                await complete(_abandon(work))
                failure = await complete(urgently(self._failure, work, error))
                if failure is not None:
                    raise failure from error
                raise
            assert work.manifest is not None
            return work.manifest

    def promote(self, commit_by: float) -> bool:
        """The instance is being taken back, and the final checkpoint must be committed by `commit_by` (monotonic
        seconds). True: it is this one that becomes the final one. False: the job was let go on already."""
        work = self._work
        if work is None:
            self._wanted = commit_by
            return True
        work.hurry.set()
        if self._step in _LET_GO_ON and work.kind is not CheckpointKind.FINAL:
            return False
        self._become_final(work, commit_by)
        return True

    def _become_final(self, work: Work, commit_by: float) -> None:
        work.kind = CheckpointKind.FINAL
        self._commit_by = work.commit_by = commit_by
        self._set_limit()
        if work.sink is not None:
            work.sink.hurry()

    @property
    def commit_by(self) -> float | None:
        """When it must be committed (monotonic seconds); a notice may have set it meanwhile."""
        return self._commit_by

    @property
    def worth_finishing(self) -> bool:
        """After a `promote` that came too late: is this one committed in a moment, or does the final one then share its
        pages, so that both together take less time than a whole one now?"""
        work = self._work
        if work is None:
            return False
        shares = work.sink is not None or work.assembled is not None
        return shares or self._step == "commit" or work.manifest is not None

    async def _all_steps(self, work: Work) -> None:
        work.commit_by = self._commit_by
        async with asyncio.timeout(None) as self._limit:
            self._set_limit()
            await self._go(BEFORE, work)
            self._frozen_by = time.monotonic() + self._limit_seconds
            self._set_limit()
            await self._go(FROZEN, work)
            self._frozen_by = None
            self._set_limit()
            await self._go(AFTER, work)
        self._limit = None
        await self._go(COMMITTED, work)

    async def _go(self, part: tuple[_Step, ...], work: Work) -> None:
        for self._step, function in part:
            self._on_step(self._step)
            begun = time.monotonic()
            await function(work)
            work.phases[self._step] = time.monotonic() - begun

    def _set_limit(self) -> None:
        if self._limit is not None:
            ends = [end for end in (self._frozen_by, self._commit_by) if end is not None]
            with contextlib.suppress(RuntimeError):  # it is over already
                self._limit.reschedule(min(ends, default=None))

    def _failure(self, work: Work, error: BaseException) -> CheckpointFailed | None:
        """JobEnded if the job did: runc and CRIU have many words for that, and none means it. Else CheckpointFailed
        with the step, for foreign errors; None for ours and cancellations, which stay as they are. Blocks shortly."""
        step = self._step
        foreign = (CommandFailed, FreezerFailed, ImageInvalid, OSError)  # TimeoutError is one of them
        if isinstance(error, (*foreign, CheckpointFailed)) and steps.ended(work):
            return JobEnded(step)
        if isinstance(error, TimeoutError):
            if self._commit_by is not None and time.monotonic() >= self._commit_by:
                said = f"no checkpoint could be committed in time: it was given up at `{step}`, and the job was thawed"
                return TooLate(said, step)
            limit = self._limit_seconds
            return CheckpointFailed(f"the job stood frozen for {limit:g} s at `{step}`; it was thawed", step)
        if isinstance(error, foreign):
            known = explain(str(error)) if isinstance(error, CommandFailed) else None
            said = f"{known.sentence} ({error})" if known else str(error)
            return CheckpointFailed(f"no checkpoint at `{step}`: {said}", step)
        return None


_LET_GO_ON = {"resume", *(step for step, _ in (*AFTER, *COMMITTED))}
"""Steps at whose beginning the job is let go on, unless the checkpoint is a final one."""


async def _abandon(work: Work) -> None:
    """Delete what was begun, *then* let the job run on: on a full volume it would die at its next write. A checkpoint
    that is committed already (the caller was cancelled while old ones were deleted) stays."""
    try:
        await dump.end_page_sink(work)
        if work.folder is not None and work.manifest is None:
            await work.in_thread(work.store.delete, int(work.folder.name))
        if work.names:
            await steps.take_names(work)
    finally:
        await steps.let_go_on(work)
        await steps.return_gpu(work)
