"""The steps of a checkpoint, one small function each, on what they hand to each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime

from perdure.domain.checkpoints import CheckpointKind, ManifestHead
from perdure.domain.errors import CheckpointFailed, ImageInvalid, JobRootFull, NotCheckpointable, TooLate
from perdure.image import files
from perdure.image.disk import syncfs
from worker_agent import proc
from worker_agent.engine import (
    dump,
    gpu,
    hosts_file,
    lost_names,
    machine,
    pace,
    runc,
    stdio,
    stopped,
    tasks,
    thread_settings,
)
from worker_agent.engine import job_root as roots
from worker_agent.engine.closed_senders import sockets_of
from worker_agent.engine.commands import complete, run
from worker_agent.engine.connections import breaks_unheard
from worker_agent.engine.container import Container
from worker_agent.engine.looking import Look
from worker_agent.engine.looking import look as look_at
from worker_agent.engine.overlay import device_numbers_of
from worker_agent.engine.refusals import refused
from worker_agent.engine.threads import urgently
from worker_agent.engine.waiting_clients import listening
from worker_agent.engine.watches import watched_paths
from worker_agent.engine.work import NO_LIMIT, SLACK, Work

_VFORK_PATIENCE = 5.0
"""Seconds in which a freeze is tried that meets no parent in a vfork. A job that does little else but start programs
was met in one about every second time (tried)."""
_VFORK_POLL = 0.01
_FRESH = 0.5
"""Seconds."""
_LIKELY_CHANGED = 4
"""A checkpoint that shares pages begins where the volume has room for this part of the job's memory."""
_TELL_THE_PACE = 2
"""So many checkpoints, the newest, are looked at for how fast the volume is."""


async def look(work: Work) -> None:
    """Refuse, before anything is frozen, what is known not to come through a dump."""
    work.looked_at = time.monotonic()
    await machine.describe(work.container.tools)
    container = work.container
    pids = await work.in_thread(work.freezer.pids)
    seen = await work.in_thread(_judge, container, pids)
    gpu.refuse_unless_enabled(container.tools.gpu, await work.in_thread(gpu.seen_users, seen))
    work.watched = await work.in_thread(watched_paths, seen, container.job_root)
    work.listening = await work.in_thread(listening, seen)
    work.sockets = await work.in_thread(sockets_of, seen)
    work.broken = await work.in_thread(breaks_unheard, seen)
    work.nameless = lost_names.opened(seen.descriptors)
    work.look_seconds = time.monotonic() - work.looked_at


async def look_again(work: Work) -> None:
    """What came up during a predump, or while a slow disk was written, is seen before the freeze, too. A look takes as
    long as a job has descriptors: it is not repeated while it is about as old as a new one would be at its end."""
    if time.monotonic() - work.looked_at > _FRESH + 2 * work.look_seconds:
        await look(work)


def _judge(container: Container, pids: list[int]) -> Look:
    """NotCheckpointable for what the table names. Blocks, longer for hundreds of thousands of descriptors."""
    places = [rule.destination for rule in container.mounts]
    shared, trees = container.shared_mounts, container.trees
    seen = look_at(pids, container.init_pid, shared=shared, trees=trees, places=places)
    found = refused(seen)
    if found:
        raise NotCheckpointable(f"the job cannot be saved now: {found[0].sentence}", "look")
    return seen


def ended(work: Work) -> bool:
    """Has the job ended, or is it about to? Its number may be another process's by now, which is in another cgroup."""
    init = work.container.init_pid
    return init not in work.freezer.pids() or tasks.ends(init)


def _obstacle(work: Work) -> str:
    """What stands in the way but will go away by itself; empty if nothing does. NotCheckpointable for what stays."""
    reason = tasks.obstacle(work.freezer.pids(), work.listening, work.sockets)
    if reason and not tasks.goes_away(reason):
        raise NotCheckpointable(f"the job cannot be frozen now: {reason}", "look")
    return reason


async def room(work: Work) -> None:
    """Make the folder, once the dump is sure to fit; older checkpoints go for it. What takes the pages starts in it."""
    work.needed = await work.in_thread(bytes_needed, work)
    if work.commit_by is not None:
        work.known = await work.in_thread(_newest, work)
    work.base = await work.in_thread(dump.base_of, work)
    _refuse_if_late(work)
    await work.in_thread(_make_room, work)
    await complete(_begin(work))
    dump.begin_page_sink(work)


def _newest(work: Work) -> list[ManifestHead]:
    found = []
    for number in work.store.numbers()[-_TELL_THE_PACE:]:
        with contextlib.suppress(ImageInvalid):  # a damaged one tells nothing
            found.append(work.store.head(number))
    return found


def _refuse_if_late(work: Work) -> None:
    """TooLate if a dump could not be committed in time even at this volume's best pace. One that shares pages with
    another writes only what changed, of which nothing is known before."""
    if work.commit_by is None or work.base is not None:
        return
    left, seconds = work.commit_by - time.monotonic(), pace.seconds_needed(work.needed, work.known)
    if seconds > left:
        raise TooLate(
            f"no checkpoint was begun: {work.needed >> 20} MiB take at least {seconds:.0f} s on this volume, by the"
            f" checkpoints before, and {max(left, 0):.0f} s are left",
            "room",
        )


def _make_room(work: Work) -> None:
    """Torn checkpoints first. Before a last one there may be no time for what is not needed. Where there is no room for
    a full one, one that shares pages may still fit."""
    root = work.container.job_root
    if work.kind is not CheckpointKind.FINAL or roots.free_bytes(root) < work.needed + work.reserve_bytes:
        work.store.sweep()
    try:
        roots.make_room(root, to_write(work), work.reserve_bytes)
    except JobRootFull:
        base = None if work.base is not None else dump.base_of(work, full_is_due=False)
        if base is None:
            raise
        work.base = base
        roots.make_room(root, to_write(work), work.reserve_bytes)


def to_write(work: Work) -> int:
    """Bytes that must be free. What changed is not known before: a page sink that finds no room for it gives up, and
    the next checkpoint wants room for everything."""
    return work.needed if work.base is None else work.needed // _LIKELY_CHANGED + SLACK


def bytes_needed(work: Work) -> int:
    """At most what a dump takes on the job root, now. Blocks: the kernel looks at every page of shared memory."""
    return tasks.dump_bytes(work.freezer.pids(), work.container.init_pid) + SLACK


async def _begin(work: Work) -> None:
    work.folder = await work.in_thread(work.store.begin)


async def sync(work: Work) -> None:
    """Before the freeze, so that little is dirty in it; after it, so that what is committed is durable."""
    await work.in_thread(syncfs, work.container.job_root)


async def suspend_gpu(work: Work) -> None:
    """Outside the freeze: the processes themselves bring their device memory home."""
    tools = work.container.tools.gpu
    if not tools.enabled:
        return  # looked for already
    users = await work.in_thread(gpu.users, await work.in_thread(work.freezer.pids))
    gpu.refuse_unless_enabled(tools, users)
    work.gpus = await gpu.suspend(tools, users)
    work.gpu_users = users


async def resume_gpu(work: Work) -> None:
    """A final checkpoint leaves the job without its GPU: it does not run on."""
    if work.kind is not CheckpointKind.FINAL:
        await return_gpu(work)


async def return_gpu(work: Work) -> None:
    """The job's processes have their GPU again. Idempotent. CheckpointFailed if one has not."""
    if work.gpu_users:
        await gpu.resume(work.container.tools.gpu, work.gpu_users, work.gpus)
        work.gpu_users = []


async def pause(work: Work) -> None:
    """Freeze. What began since the first look and goes away by itself (a vfork, a client that waits) gets the time.
    A container that its user has paused stands still already, and is left so."""
    end = time.monotonic() + _VFORK_PATIENCE
    work.users_pause = await urgently(work.freezer.frozen) and not work.container.frozen_by_us.exists()
    while True:
        work.frozen_since = time.monotonic()
        work.frozen_at = datetime.now(UTC)
        if not work.users_pause:
            work.container.frozen_by_us.touch()
            await runc.pause(work.container)
        reason = await urgently(_obstacle, work)
        if not reason:
            return
        if work.users_pause or time.monotonic() > end:
            raise CheckpointFailed(f"the job was never found at rest: {reason}", "pause")
        await urgently(work.freezer.thaw)
        await asyncio.sleep(_VFORK_POLL)


async def measure(work: Work) -> None:
    """What the job holds now that nothing changes any more, and whether that still fits."""
    work.needed = await urgently(bytes_needed, work)
    _refuse_if_late(work)
    await urgently(roots.make_room, work.container.job_root, to_write(work), work.reserve_bytes)
    await urgently(_describe, work)


def _describe(work: Work) -> None:
    pids = work.freezer.pids()
    work.processes = tasks.names(pids)
    work.stopped = stopped.stopped_tasks(pids)
    work.stood_stopped = sorted(proc.inner(work.stopped, work.container.init_pid).values())
    work.threads = thread_settings.noted(pids, work.container.init_pid)
    work.hosts = hosts_file.lines(work.container)


async def lend_names(work: Work) -> None:
    """Only until the files are cloned."""
    await complete(_lend(work))


async def _lend(work: Work) -> None:
    container = work.container
    layer = container.job_root / files.TREES["layer"]
    work.names = await urgently(
        lambda: lost_names.lend(container.init_pid, work.freezer.pids(), work.nameless, layer, container.shared_mounts)
    )


async def drain(work: Work) -> None:
    work.stdio = await stdio.drain(work.container.keeper_socket, work.container.job_root / "log")


async def clone(work: Work) -> None:
    root = work.container.job_root
    for tree, live in files.TREES.items():
        await run(files.clone_command(root / live, work.path / files.FILES / tree), limit_seconds=NO_LIMIT)
    work.inodes = await urgently(files.note_inodes, root)
    work.devices = await urgently(device_numbers_of, root)
    await take_names(work)
    if not await urgently(work.freezer.frozen):
        raise CheckpointFailed("somebody let the job run on while it was saved", "clone")


async def take_names(work: Work) -> None:
    """The names that were lent go from the live tree again. Idempotent."""
    await urgently(lost_names.take_away, work.container.init_pid, work.names)


async def resume(work: Work) -> None:
    """Only a final checkpoint leaves the job standing."""
    if work.kind is not CheckpointKind.FINAL:
        await let_go_on(work)
        work.phases["frozen"] = time.monotonic() - work.frozen_since


async def let_go_on(work: Work) -> None:
    """The job runs on; one that its user has paused stands still on, even if a dump had to be thawed to end."""
    if not work.users_pause:
        await urgently(work.freezer.thaw)
        work.container.frozen_by_us.unlink(missing_ok=True)
    elif work.freezer.exists() and not await urgently(work.freezer.frozen):
        await runc.pause(work.container)
