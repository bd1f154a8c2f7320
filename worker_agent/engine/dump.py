"""The memory half of a checkpoint: what it builds on, the copy just before the freeze, and the dump in it.

choose → (predump, while the job runs) → dump. A chain of dumps is begun anew, with a full one, whenever anything about
it is in doubt (memory.py has the rule).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import structlog

from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import CheckpointFailed, CommandFailed, ImageInvalid, JobRootFull, NotCheckpointable
from perdure.image.chain import IMAGES, PREDUMP, link_to
from perdure.image.mounts import delete_tree
from worker_agent.engine import criu_log, criu_options, memory, runc, stopped, tasks
from worker_agent.engine import job_root as roots
from worker_agent.engine.checkpoint_steps import NO_LIMIT, SLACK, Work, bytes_needed
from worker_agent.engine.commands import complete
from worker_agent.engine.threads import urgently

log = structlog.get_logger()

_DUMP_GRACE = 60.0
"""Seconds that a dump gets to end by itself once it was given up. Killing CRIU is the last resort: it leaves TCP
sockets in repair mode, and the job dies of EPERM at its next read (tried)."""
_ENDS_FROZEN = 5.0
"""Seconds of it in which the job stands still."""
_POLL = 0.05
_PREDUMP_LIMIT = 180.0
"""Seconds after which a predump is not worth waiting for. Whoever asked for the checkpoint waits five minutes longer
than the longest freeze."""
_WORTH_A_PREDUMP = 64 << 20
"""Bytes of memory below which a dump is so short that a predump only costs."""
_BALLAST = "ballast"


async def choose_base(work: Work) -> None:
    """What this dump may leave out: only what the last dump of all, if it became a checkpoint, holds unharmed."""
    container = work.container
    if work.longest_chain < 2 or not await memory.tracks_changes(str(container.tools.criu)):
        return
    used_by_job = await work.in_thread(lambda: memory.clears_it_itself(work.freezer.pids()))
    if used_by_job or work.gpus:
        return  # the job clears the note, or a driver writes its memory: only a full dump is sure
    work.tracks = True
    work.base = container.memory.next_base(work.longest_chain)
    if work.base is not None:
        try:
            await work.in_thread(work.store.check_parent, work.base.link)
        except ImageInvalid as error:
            log.warning("a chain of checkpoints begins anew", job_id=work.identity.job_id, reason=str(error))
            work.base = None


async def predump(work: Work) -> None:
    """Copy the memory while the job runs, so that the freeze has only what changes meanwhile. Not before a final
    checkpoint: there all of it together counts. What goes wrong only costs the time: the dump is a full one then."""
    if not (work.predump and work.tracks and work.kind is not CheckpointKind.FINAL):
        return
    if not await work.in_thread(_may_predump, work):
        return
    await work.in_thread((work.path / PREDUMP).mkdir, mode=0o700)
    parent = link_to(work.base.link.number) if work.base else ""
    work.predumping = asyncio.ensure_future(_criu(work, PREDUMP, parent, _PREDUMP_LIMIT))
    try:
        await work.predumping
    except CheckpointFailed as error:
        await _begin_anew(work, error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not work.hurry.is_set() or task is None or task.cancelling():
            raise
        await _begin_anew(work, CheckpointFailed("a notice came: there is no time for a predump", PREDUMP))
    finally:
        work.predumping = None


def _may_predump(work: Work) -> bool:
    pids = work.freezer.pids()
    if not work.freezer.unified and stopped.stopped_tasks(pids):
        return False  # CRIU would wait for them in a freeze of its own
    if tasks.obstacle(pids, work.listening):
        return False  # it goes away by itself, but CRIU would let the job stand still for it
    size = bytes_needed(work)
    free = roots.free_bytes(work.container.job_root)
    return size - SLACK >= _WORTH_A_PREDUMP and free >= 2 * size + work.reserve_bytes


async def dump(work: Work) -> None:
    """In the freeze. A dump that cannot build on what it should is taken once more, whole."""
    try:
        await _dump(work)
    except (NotCheckpointable, JobRootFull):
        raise
    except CheckpointFailed as error:
        if await urgently(_parent, work) == "":
            raise
        await _begin_anew(work, error)
        await _dump(work)


async def _dump(work: Work) -> None:
    async with stopped.let_through(work.freezer, work.stopped):
        await _criu(work, IMAGES, await urgently(_parent, work), NO_LIMIT)


def _parent(work: Work) -> str:
    """What the images of the freeze build on, as CRIU's link names it; empty if they are complete."""
    if (work.path / PREDUMP).is_dir():
        return f"../{PREDUMP}"
    return link_to(work.base.link.number) if work.base else ""


async def _begin_anew(work: Work, error: CheckpointFailed) -> None:
    """Away with what was dumped; the next dump is a full one."""
    log.warning("a chain of checkpoints begins anew", job_id=work.identity.job_id, reason=str(error))
    work.base = None
    for name in (PREDUMP, IMAGES, _BALLAST):
        await urgently(delete_tree, work.path / name)
    await urgently((work.path / IMAGES).mkdir, mode=0o700)


async def _criu(work: Work, folder: str, parent: str, limit_seconds: float) -> None:
    """One dump or predump into a folder of the checkpoint. From here on the kernel's note is another one."""
    container = work.container
    container.memory.begin()
    criu_options.write_options(container.criu_config, restore=False, watched=work.watched, track_memory=work.tracks)
    try:
        await runc.checkpoint(
            container,
            work.path / folder,
            parent=parent,
            predump=folder == PREDUMP,
            limit_seconds=limit_seconds,
            give_up=lambda: _give_up(work),
            grace_seconds=_DUMP_GRACE,
        )
    except CommandFailed as error:
        step = PREDUMP if folder == PREDUMP else "dump"
        raise await urgently(criu_log.dump_failure, container, error.stderr, step=step) from error
    except asyncio.CancelledError:  # the limit, or nobody wants it any more: how far it came may matter
        await complete(urgently(criu_log.keep, container, "dump", "given up"))
        raise


def _give_up(work: Work) -> None:
    """Make a dump end by itself, soon and cleanly. Blocks.

    One that has much left to write soon finds the disk full; the file that fills it goes with the torn checkpoint. The
    job stands still meanwhile: it would die of the full disk (tried). One that waits for a process that cannot wake
    goes on once the cgroup is thawed (tried).
    """
    size = roots.free_bytes(work.container.job_root) - work.reserve_bytes
    if size > 0:
        with open(work.path / _BALLAST, "wb") as file, contextlib.suppress(OSError):  # somebody else took the space
            os.posix_fallocate(file.fileno(), 0, size)
    end = time.monotonic() + _ENDS_FROZEN
    while tasks.users_of(work.container.work_dir):
        if time.monotonic() > end:
            work.freezer.thaw()
            return
        time.sleep(_POLL)
