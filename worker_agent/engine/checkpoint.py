"""Taking a checkpoint: the ordered list of steps, and the way out of every one of them.

The steps from pause to clone see the job standing still; memory, files and output belong to one instant. Whatever goes
wrong (an error, the time limit, a cancelled caller), the torn checkpoint is deleted and the job runs on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, CommandFailed, FreezerFailed, ImageInvalid
from worker_agent.engine import checkpoint_steps as steps
from worker_agent.engine import dump
from worker_agent.engine import job_root as roots
from worker_agent.engine.checkpoint_steps import Work
from worker_agent.engine.commands import complete
from worker_agent.engine.container import Container, Identity
from worker_agent.engine.explanations import explain
from worker_agent.engine.threads import urgently

StepCallback = Callable[[str], None]
PREDUMP_STEP = "predump"
"""The one long step before the freeze; a notice ends it."""
_Step = tuple[str, Callable[[Work], Awaitable[None]]]

BEFORE: tuple[_Step, ...] = (
    ("look", steps.look),
    ("room", steps.room),
    ("presync", steps.sync),
    ("suspend GPU", steps.suspend_gpu),
    ("choose base", dump.choose_base),
    (PREDUMP_STEP, dump.predump),
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
    ("sync", steps.sync),
    ("checksums", steps.digest),
    ("commit", steps.commit),
    ("prune", steps.prune),
)


async def take_checkpoint(
    container: Container,
    identity: Identity,
    *,
    kind: CheckpointKind,
    limit_seconds: float,
    keep: int,
    reserve_bytes: int,
    longest_chain: int = 1,
    predump: bool = False,
    on_step: StepCallback | None = None,
) -> Manifest:
    """Freeze, dump, clone, commit; returns the committed manifest. Only a FINAL one leaves the container frozen.

    `limit_seconds` bounds the time in which the job stands still for dump and clone; `keep` committed checkpoints
    stay, and `reserve_bytes` of the job root are never used. Where the kernel can tell, a dump holds only the memory
    that changed since the checkpoint before, for at most `longest_chain` in a row (1: always all of it); with
    `predump`, most of it is copied before the freeze. `on_step` is told each step's name as it begins.
    The manifest's phases are seconds by step, and `frozen` from the pause to the resume (FINAL: to the commit).

    Raises NotCheckpointable (naming process and command), JobRootFull, Fenced, JobRootBusy, or CheckpointFailed with
    the step; the job then runs on and nothing of the checkpoint is left. Cancelling does the same, but a checkpoint
    that is committed by then stays.
    """
    if container.freezer is None:
        raise CheckpointFailed("the container has no processes yet", "look")
    async with roots.held(container.job_root):
        await urgently(roots.check_lease, container.job_root, identity.epoch)
        store = roots.store(container.job_root)
        work = Work(container, container.freezer, identity, kind, keep, reserve_bytes, store, longest_chain, predump)
        return await _take(work, limit_seconds, on_step or (lambda step: None))


async def _take(work: Work, limit_seconds: float, on_step: StepCallback) -> Manifest:
    step = ""

    async def go(part: tuple[_Step, ...]) -> None:
        nonlocal step
        for step, function in part:
            on_step(step)
            begun = time.monotonic()
            await function(work)
            work.phases[step] = time.monotonic() - begun

    try:
        await go(BEFORE)
        async with asyncio.timeout(limit_seconds):
            await go(FROZEN)
        await go(AFTER)
    except BaseException as error:
        await complete(_abandon(work))
        failure = _failure(error, step, limit_seconds)
        if failure is not None:
            raise failure from error
        raise
    assert work.manifest is not None
    return work.manifest


def _failure(error: BaseException, step: str, limit_seconds: float) -> CheckpointFailed | None:
    """CheckpointFailed with the step, for foreign errors; None for ours and cancellations, which stay as they are."""
    if isinstance(error, TimeoutError):
        return CheckpointFailed(f"the job stood frozen for {limit_seconds:g} s at `{step}`; it was thawed", step)
    if isinstance(error, (CommandFailed, FreezerFailed, ImageInvalid, OSError)):
        known = explain(str(error)) if isinstance(error, CommandFailed) else None
        said = f"{known.sentence} ({error})" if known else str(error)
        return CheckpointFailed(f"no checkpoint at `{step}`: {said}", step)
    return None


async def _abandon(work: Work) -> None:
    """Delete what was begun, *then* let the job run on: on a full volume it would die at its next write. A checkpoint
    that is committed already (the caller was cancelled while old ones were deleted) stays."""
    try:
        if work.folder is not None and work.manifest is None:
            await work.in_thread(work.store.delete, int(work.folder.name))
        if work.names:
            await steps.take_names(work)
    finally:
        await steps.let_go_on(work)
        await steps.return_gpu(work)
