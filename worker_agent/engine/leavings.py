"""What earlier tries leave behind on a node: orphaned dumps, frozen processes, mounts. Found, and cleaned in order.

The order matters: CRIU killed in a restore leaves all cgroup hierarchies mounted below its work folder, and runc
leaves the container's root mounted in its state folder. Everything is unmounted before anything is deleted, and
nothing starts while something is left: after an incomplete cleaning a restore says ok and the job dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from perdure.domain.errors import FreezerFailed, JobRootBusy
from perdure.image.disk import syncfs
from perdure.image.files import TREES
from perdure.image.layout import IMAGES
from perdure.image.mounts import delete_tree, mounts_below, read_mounts
from perdure.image.pages.pipes import release_writers
from perdure.image.pages.sink import NAME as PAGE_SINK
from perdure.waiting import until
from worker_agent import proc
from worker_agent.engine import job_root as roots
from worker_agent.engine import replaced_files, runc, stdio, stopped, tasks
from worker_agent.engine.container import Container
from worker_agent.engine.overlay import overlays_on, parse_overlay, unmount
from worker_agent.engine.threads import urgently
from worker_agent.engine.writable_layer import shown_from, unmount_layer
from worker_agent.freezer import Freezer
from worker_agent.lazy_pages.guard import NAME as LAZY

_POLL = 0.02
_ORPHAN_PATIENCE = 120.0
"""Seconds in which a dump that lost its agent may still end by itself, before it is thawed."""
_ORPHAN_GRACE = 30.0
"""Seconds more before it is killed: the last resort, which the job may not survive."""
_ENGINE_PROGRAMS = ("criu", "runc", "cp", "tar", PAGE_SINK, LAZY)
"""What may still work among the checkpoints after an agent's death; anything else there is not ours to kill."""
_DEATH = 60.0
"""Seconds in which killed processes must be gone: a large job has much memory to give back."""


async def thaw_and_clean(container: Container) -> list[str]:
    """What a starting agent does for each container of its predecessor: the job runs again and no torn checkpoint
    is left. Returns remarks for the job's timeline; empty if there was nothing to do.

    A dump whose agent died goes on; killing it at once is a needless risk to the job, so it gets some time first.
    """
    remarks = []
    users = await asyncio.to_thread(_at_a_checkpoint, *_places(container))
    # CRIU works inside the job, whose processes then are users too. A SIGCONT there is a stop to the one who traces
    # them: CRIU fails of it, leaves TCP sockets in repair mode, and the job dies of EPERM at its next read (tried).
    jobs_own = container.freezer.pids() if container.freezer is not None else []
    for pid in set(users).difference(jobs_own):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # stopped.py may have died in the moment in which it held CRIU
    if users:
        await _outwait(container)
        remarks.append("a checkpoint was cut short when the agent ended; it does not count")
    if await urgently(_let_go_on, container):
        remarks.append("the job stood frozen when the agent started again; it runs on")
    torn = await asyncio.to_thread(_sweep, container.job_root)
    if torn:
        remarks.append(f"torn checkpoints were removed: {', '.join(map(str, torn))}")
    return remarks


def _let_go_on(container: Container) -> bool:
    """Did it stand frozen because of a checkpoint?"""
    if container.freezer is None:
        return False
    stopped.clean(container.freezer)
    if not container.freezer.frozen() or not container.frozen_by_us.exists():
        return False
    try:
        replaced_files.put_back(container.job_root / TREES["layer"])
    finally:
        container.freezer.thaw()
        container.frozen_by_us.unlink()
    return True


def _places(container: Container) -> tuple[Path, Path]:
    """Where the programs of a checkpoint work: runc and CRIU in the first, CRIU and `cp` in the second."""
    return container.work_dir, roots.store(container.job_root).root


async def _outwait(container: Container) -> None:
    releasing = asyncio.create_task(_release_writers(container.job_root))
    try:
        for seconds in (_ORPHAN_PATIENCE, _ORPHAN_GRACE):
            try:
                await _wait_until_unused(*_places(container), limit_seconds=seconds, users=_at_a_checkpoint)
                return
            except JobRootBusy:
                await thaw(container)  # what hangs on a stopped process goes on now
        await _end_users(container.work_dir)
    finally:
        releasing.cancel()


async def _release_writers(job_root: Path) -> None:
    """For ever: a dump whose page sink went with the agent fails instead of waiting for a reader."""

    def release() -> None:
        for images in roots.store(job_root).root.glob(f"*/{IMAGES}"):
            release_writers(images)

    while True:
        await urgently(release)
        await asyncio.sleep(_POLL)


def _sweep(job_root: Path) -> list[int]:
    with roots.locked(job_root):
        return roots.sweep(job_root)


async def clean(container: Container) -> None:
    """Before a start or a restore: end and remove whatever an earlier try left of this container, or on its job root.

    Everything of this container, and every process of another one that still lives on the job root, is killed: the
    caller holds the lease, so they are of an older epoch or of a restore that was cut short. JobRootBusy, naming it,
    if something cannot be removed; then nothing must be started.
    """
    await _end_users(container.work_dir)
    if container.cgroup:
        # A restore that was cut short leaves processes in the cgroup before runc knows the container.
        left = await urgently(_kill_cgroup, container.cgroup)
        await urgently(left.wait_empty, _DEATH)
    await asyncio.to_thread(_unmount_all, container)
    if container.runc_folder.exists():
        await runc.delete(container)
    await asyncio.to_thread(_end_holders, container.job_root)
    await asyncio.to_thread(_check_unused, container.job_root)
    await _end_users(roots.store(container.job_root).root, _ENGINE_PROGRAMS)
    await asyncio.to_thread(delete_tree, container.work_dir)
    container.work_dir.mkdir(parents=True, mode=0o700)


def _kill_cgroup(cgroup: str) -> Freezer:
    left = Freezer.of_cgroup(cgroup)
    stopped.clean(left)
    left.kill()
    return left


async def release(container: Container) -> None:
    """After the container's end: nothing of the engine keeps the job volume busy, and all is flushed to it.

    The overlay and CRIU's leftovers are unmounted, the output keeper has closed the logs. JobRootBusy if a process
    still lives on it. Idempotent.
    """
    await stdio.release(container.keeper_socket)
    await _end_users(container.work_dir)
    await asyncio.to_thread(_unmount_all, container)
    await asyncio.to_thread(_check_unused, container.job_root)
    await asyncio.to_thread(syncfs, container.job_root)


async def flush(container: Container) -> None:
    """Everything written to the job root is durable when this returns (way STAY_FROZEN)."""
    await urgently(syncfs, container.job_root)


async def end_frozen(container: Container) -> None:
    """SIGKILL everything in the container while it is frozen, thaw, and wait until it is gone (FreezerFailed).

    No process of the job runs another instruction of its own, so nothing is written after the checkpoint.
    """
    if container.freezer is not None:
        await urgently(container.freezer.kill)
        await urgently(container.freezer.wait_empty, _DEATH)


async def thaw(container: Container) -> None:
    """Let the container run. Idempotent."""
    if container.freezer is not None:
        await urgently(container.freezer.thaw)
        container.frozen_by_us.unlink(missing_ok=True)


def _unmount_all(container: Container) -> None:
    for folder in (container.work_dir, container.runc_folder):
        for mount in mounts_below(folder):
            unmount(mount.point)
    unmount_layer(container.job_root)


def _check_unused(job_root: Path) -> None:
    points = [mount.point for mount in [*mounts_below(job_root), *shown_from(job_root)]]
    points += [overlay.point for overlay in overlays_on(job_root)]
    if points:
        raise JobRootBusy(f"{points[0]} is still mounted on {job_root}")
    try:
        until(lambda: not _holders(job_root), _DEATH, _POLL)
    except TimeoutError as late:
        holder = next(iter(_holders(job_root)), "?")
        raise JobRootBusy(f"process {holder} of an earlier container still lives on {job_root}") from late


def _end_holders(job_root: Path) -> None:
    own = Freezer.of_process(os.getpid()).path
    for pid in _holders(job_root):
        with contextlib.suppress(ProcessLookupError, FreezerFailed):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
            freezer = Freezer.of_process(pid)
            if freezer.path != own:  # a frozen process does not die before it is thawed
                freezer.thaw()


def _holders(job_root: Path) -> list[int]:
    """Processes whose own `/` is an overlay that writes to this job root (they live in other mount namespaces)."""
    upper = str(job_root / TREES["layer"])
    namespaces: dict[str, bool] = {}
    found = []
    for pid in proc.everyone():
        with contextlib.suppress(OSError):  # it ended while we looked
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in namespaces and (table := read_mounts(pid)):
                tops = [mount for mount in table if mount.point == "/" and mount.kind == "overlay"]
                namespaces[namespace] = any(parse_overlay(mount).upper == upper for mount in tops)
            if namespaces.get(namespace):
                found.append(pid)
    return found


async def _end_users(folder: Path, commands: tuple[str, ...] = ("",)) -> None:
    """Kill what still works in a folder: programs of an operation that lost its agent, by how their names begin."""
    if await asyncio.to_thread(_kill_users, folder, commands):
        await _wait_until_unused(folder, limit_seconds=_DEATH)


def _kill_users(folder: Path, commands: tuple[str, ...]) -> bool:
    """Was there anybody?"""
    users = tasks.users_of(folder)
    for pid in users:
        if proc.command(pid).startswith(commands):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return bool(users)


def _at_a_checkpoint(*folders: Path) -> list[int]:
    """What brings a restored job's memory in works on: the job needs it."""
    return [pid for pid in tasks.users_of(*folders) if proc.command(pid) != LAZY]


async def _wait_until_unused(
    *folders: Path, limit_seconds: float, users: Callable[..., list[int]] = tasks.users_of
) -> None:
    end = time.monotonic() + limit_seconds
    while left := await asyncio.to_thread(users, *folders):
        if time.monotonic() > end:
            raise JobRootBusy(f"process {left[0]} ({proc.command(left[0])}) still works in {folders[-1]}")
        await asyncio.sleep(_POLL)
