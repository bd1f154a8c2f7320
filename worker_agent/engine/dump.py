"""The memory half of a checkpoint: what it shares pages with, what is read before the freeze, dump and pages files.

page sink → (predump, while the job runs) → dump → (the job runs on) → assemble. The page sink gets ready beside the
first sync. Whenever anything about it is in doubt, CRIU writes the pages files itself, whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import structlog

from perdure.domain.budget import WRITING
from perdure.domain.checkpoints import CheckpointKind, ImageFile, ManifestHead
from perdure.domain.errors import CheckpointFailed, CommandFailed, ImageInvalid, JobRootFull, NotCheckpointable
from perdure.image.layout import IMAGES
from perdure.image.mounts import delete_tree
from perdure.image.pages.assembly import shares_pages
from perdure.image.pages.index import PagesFile
from perdure.image.pages.sink import Request
from perdure.waiting import until
from worker_agent.engine import criu_log, criu_options, last_pid, runc, stopped, tasks
from worker_agent.engine import job_root as roots
from worker_agent.engine.commands import complete
from worker_agent.engine.page_sink import PageSink
from worker_agent.engine.threads import urgently
from worker_agent.engine.work import NO_LIMIT, SLACK, Work

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
_STAGING = 128 << 20
"""Bytes of memory in which new pages wait for the disk. A freeze waits for the disk once they are full."""
_JUMPS = 24
"""That reading 1 MiB of an image may make a volume do, once a checkpoint that is not the last shares pages: 43 KiB
between jumps is where gp3's 3,000 IO/s meet its 125 MiB/s. Without a limit a series fell apart after a dozen."""
_GROWTH = 256 << 20
"""Bytes by which a job's memory may grow between the first look and the dump; at least a quarter of it."""
_SPARE_PIPES = 64
_MOST_PIPES = 4096
"""Pages files beyond them are written by CRIU itself."""


def base_of(work: Work, *, full_is_due: bool = True) -> ManifestHead | None:
    """The newest checkpoint, if this one may share its pages; None for a full one. Pages are found by their content, so
    it does not matter which agent took it, on which node, or what became of the dumps since. Blocks."""
    numbers = work.store.numbers()
    if not numbers or work.container.doubts:
        return None
    try:
        newest = work.store.head(numbers[-1])
    except ImageInvalid:
        return None
    if not newest.full or not any(image.index for image in newest.images):
        return None
    due = work.kind is not CheckpointKind.FINAL and newest.after_full + 1 >= work.full_every
    return None if due and full_is_due else newest


def begin_page_sink(work: Work) -> None:
    """Start what takes the job's pages, beside what else comes before the freeze."""
    doubts = sorted(work.container.doubts)
    if doubts:
        log.warning("a checkpoint is written whole", job_id=work.identity.job_id, reason=doubts[0])
        return
    work.starting = asyncio.create_task(_start_page_sink(work))


async def _start_page_sink(work: Work) -> PageSink | None:
    """None where the job root cannot share pages."""
    if not await work.in_thread(shares_pages, work.path):
        return None
    return await PageSink.start(await work.in_thread(_request, work), work.container.tools.page_sinks)


async def open_page_sink(work: Work) -> None:
    """What takes the job's pages is ready, if the job root can share them and nothing is in doubt."""
    starting = work.starting
    if starting is None:
        return
    try:
        await asyncio.wait([starting])  # a cancelled caller leaves it to `end_page_sink`
        work.sink, work.starting = starting.result(), None
    except CheckpointFailed as error:
        work.starting = None
        await _do_without(work, error)
        return
    if work.sink is None:
        log.info("the job root's file system cannot share pages: each checkpoint is written whole")
        work.base = None
        return
    if work.sink.doubt:
        log.warning("a checkpoint shares no pages", job_id=work.identity.job_id, reason=work.sink.doubt)
        work.base = None


def _request(work: Work) -> Request:
    needed, base = work.needed, work.base
    growth = max(_GROWTH, needed // 4)
    free = max(0, _free(work) - SLACK)
    predump = max(0, min(needed + growth, free - needed)) if work.predump else 0
    return Request(
        checkpoint=str(work.path),
        images=IMAGES,
        number=int(work.path.name),
        most_bytes=needed + growth + predump,
        most_written=free,
        staging_bytes=_STAGING,
        most_jumps=0 if work.kind is CheckpointKind.FINAL else _JUMPS,
        base=str(work.store.folder(base.number)) if base else "",
        base_files=[_pages(image) for image in base.images if image.index] if base else [],
        predump_bytes=predump,
        predump_seconds=_PREDUMP_LIMIT,
    )


def _pages(image: ImageFile) -> PagesFile:
    return PagesFile(image.path, image.size, image.blake3, image.index)


def _free(work: Work) -> int:
    return roots.free_bytes(work.container.job_root) - work.reserve_bytes


async def predump(work: Work) -> None:
    """Read the memory while the job runs and write what is new, so that the freeze has only what changes meanwhile.
    Not before a final checkpoint: there all of it together counts."""
    if work.sink is None or not work.predump or work.hurry.is_set() or work.kind is CheckpointKind.FINAL:
        return
    if work.needed - SLACK < _WORTH_A_PREDUMP or await work.in_thread(_free, work) < 2 * work.needed:
        return
    try:
        await work.sink.predump(await work.in_thread(work.freezer.pids))
    except CheckpointFailed as error:
        await _do_without(work, error)


async def dump(work: Work) -> None:
    """In the freeze. If the page sink fails, CRIU dumps once more, whole."""
    if work.sink is not None:
        try:
            await _dump_into(work, work.sink)
            return
        except NotCheckpointable:
            raise
        except JobRootFull as error:
            await _do_without(work, error)
            raise
        except CheckpointFailed as error:
            failed = await work.sink.failed()
            await _do_without(work, error)
            if not failed:
                raise  # CRIU itself failed
        if await urgently(_free, work) < work.needed:
            raise JobRootFull("the job volume has no room for a whole checkpoint, and the page sink failed", "dump")
        await urgently(delete_tree, work.path / IMAGES)
        await urgently((work.path / IMAGES).mkdir, mode=0o700)
    await _dump(work)


async def _dump_into(work: Work, sink: PageSink) -> None:
    if work.hurry.is_set() or work.kind is CheckpointKind.FINAL:
        sink.hurry()
    await sink.pipes(min(_MOST_PIPES, 2 * len(work.processes) + _SPARE_PIPES))
    watching = asyncio.create_task(sink.watch())
    try:
        await _dump(work)
        await sink.captured()
    finally:
        watching.cancel()


async def _dump(work: Work) -> None:
    counting = asyncio.create_task(last_pid.read(work.container.init_pid))
    try:
        async with stopped.let_through(work.freezer, work.stopped):
            await _criu(work)
    finally:
        work.last_pid = await complete(counting)


async def assemble(work: Work) -> None:
    """The pages files, out of what is shared and what is new. What fails here fails the checkpoint: the next one is
    written whole."""
    if work.sink is None:
        return
    try:
        work.assembled = await work.sink.finish()
        work.phases[WRITING] = work.assembled.write_seconds
    except CheckpointFailed as error:
        await _do_without(work, error)
        raise
    await complete(work.sink.end())
    work.sink = None


async def _do_without(work: Work, error: CheckpointFailed) -> None:
    log.warning("the page sink is of no use", job_id=work.identity.job_id, reason=str(error))
    work.container.doubts.add(str(error))
    work.base = None
    if work.sink is not None:
        await complete(work.sink.end())
        work.sink = None
    await urgently(delete_tree, work.path / "staging")


async def end_page_sink(work: Work) -> None:
    """None is at work when this returns, and none is starting. Idempotent."""
    if work.starting is not None:
        work.starting.cancel()
        await asyncio.wait([work.starting])
        if not work.starting.cancelled() and work.starting.exception() is None:
            work.sink = work.starting.result()
        work.starting = None
    if work.sink is not None:
        await work.sink.end()


async def _criu(work: Work) -> None:
    container = work.container
    criu_options.write_options(container.criu_config, restore=False, watched=work.watched)
    try:
        await runc.checkpoint(
            container,
            work.path / IMAGES,
            limit_seconds=NO_LIMIT,
            give_up=lambda: _give_up(work),
            grace_seconds=_DUMP_GRACE,
        )
    except CommandFailed as error:
        raise await urgently(criu_log.dump_failure, container, error.stderr, step="dump") from error
    except asyncio.CancelledError:  # the limit, or nobody wants it any more: how far it came may matter
        await complete(urgently(criu_log.keep, container, "dump", "given up"))
        raise


def _give_up(work: Work) -> None:
    """Make a dump end by itself, soon and cleanly. Blocks.

    One that writes into the page sink fails as soon as nobody reads. One that writes to the disk and has much left soon
    finds it full; the file that fills it goes with the torn checkpoint. The job stands still meanwhile: it would die of
    the full disk (tried). One that waits for a process that cannot wake goes on once the cgroup is thawed (tried).
    """
    if work.sink is not None:
        work.sink.kill()
    elif (size := _free(work)) > 0:
        with open(work.path / _BALLAST, "wb") as file, contextlib.suppress(OSError):  # somebody else took the space
            os.posix_fallocate(file.fileno(), 0, size)

    def ended() -> bool:
        if work.sink is not None:
            work.sink.release_writers()
        return not tasks.users_of(work.container.work_dir)

    try:
        until(ended, _ENDS_FROZEN, _POLL)
    except TimeoutError:
        work.freezer.thaw()
