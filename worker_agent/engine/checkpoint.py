"""Taking a checkpoint: the ordered list of steps, and the way out of every one of them.

    look → room → presync → pause → look again → names → dump → drain → clone → resume
         → sync → checksums → commit → prune

The steps from pause to clone see the job standing still; memory, files and output belong to one instant. Whatever goes
wrong (an error, the time limit, a cancelled caller), the torn checkpoint is deleted and the job runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest, StdioOffsets, droppable
from perdure.domain.errors import (
    CheckpointFailed,
    CommandFailed,
    FreezerFailed,
    NotCheckpointable,
    PerdureError,
)
from perdure.image import checksums, files
from perdure.image.disk import syncfs
from perdure.image.manifest import encode_name
from perdure.image.store import DirectoryStore
from worker_agent.engine import criu_log, criu_options, lost_names, machine, runc, stdio, tasks
from worker_agent.engine import job_root as roots
from worker_agent.engine.commands import complete, run
from worker_agent.engine.container import Container, Identity
from worker_agent.engine.descriptors import outside_addresses
from worker_agent.engine.freezer import Freezer
from worker_agent.engine.watches import watched_paths

StepCallback = Callable[[str], None]

log = structlog.get_logger()

_VFORK_PATIENCE = 2.0
"""Seconds in which a waiting vfork parent usually goes on by itself."""
_DUMP_GRACE = 60.0
"""Seconds that a dump gets to end by itself once it was given up. Killing CRIU is the last resort: it leaves TCP
sockets in repair mode, and the job dies of EPERM at its next read (tried)."""
_SLACK = 16 << 20
"""Bytes of a dump beyond the processes' memory: tables, small files, the cloned trees' own metadata."""
_NO_LIMIT = 3600.0
"""Seconds for programs that run inside the checkpoint's own, shorter limit."""


@dataclass
class _Checkpoint:
    """One checkpoint while it is taken: what the steps hand to each other."""

    container: Container
    freezer: Freezer
    identity: Identity
    kind: CheckpointKind
    keep: int
    reserve_bytes: int
    store: DirectoryStore
    folder: Path | None = None
    frozen_at: datetime | None = None
    frozen_since: float = 0.0
    processes: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    stdio: StdioOffsets = field(default_factory=StdioOffsets)
    inodes: dict[str, int] = field(default_factory=dict)
    images: list[ImageFile] = field(default_factory=list)
    files_digest: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    manifest: Manifest | None = None

    @property
    def path(self) -> Path:
        if self.folder is None:
            raise CheckpointFailed("the checkpoint has no folder yet", "room")
        return self.folder


async def _look(work: _Checkpoint) -> None:
    """Refuse, before anything is frozen, what is known not to come through a dump."""
    end = time.monotonic() + _VFORK_PATIENCE
    while reason := tasks.obstacle(work.freezer.pids()):
        if not tasks.waits_for_vfork(reason) or time.monotonic() > end:
            raise NotCheckpointable(f"the job cannot be frozen now: {reason}", "look")
        await asyncio.sleep(0.05)
    container = work.container
    pids = work.freezer.pids()
    work.watched = await asyncio.to_thread(watched_paths, pids, container.init_pid, container.job_root)


async def _room(work: _Checkpoint) -> None:
    """Make the folder, once the dump is sure to fit; older checkpoints go for it."""
    await asyncio.to_thread(work.store.sweep)
    needed = tasks.dump_bytes(work.freezer.pids(), work.container.init_pid) + _SLACK
    await asyncio.to_thread(roots.make_room, work.container.job_root, needed, work.reserve_bytes)
    work.folder = await asyncio.to_thread(work.store.begin)


async def _sync(work: _Checkpoint) -> None:
    await asyncio.to_thread(syncfs, work.container.job_root)


async def _pause(work: _Checkpoint) -> None:
    work.frozen_since = time.monotonic()
    work.frozen_at = datetime.now(UTC)
    await runc.pause(work.container)


async def _look_again(work: _Checkpoint) -> None:
    """What stopped or grew between the first look and the freeze; nothing changes any more."""
    pids = work.freezer.pids()
    reason = tasks.obstacle(pids)
    if reason:
        raise NotCheckpointable(f"the job cannot be frozen now: {reason}", "look again")
    needed = tasks.dump_bytes(pids, work.container.init_pid) + _SLACK
    await asyncio.to_thread(roots.make_room, work.container.job_root, needed, work.reserve_bytes)
    work.processes = tasks.names(pids)
    work.addresses = await asyncio.to_thread(outside_addresses, pids)


async def _names(work: _Checkpoint) -> None:
    """Only until the files are cloned."""
    work.names = await asyncio.to_thread(lost_names.lend, work.freezer.pids())


async def _dump(work: _Checkpoint) -> None:
    criu_options.write_options(work.container.criu_config, restore=False, watched=work.watched)
    try:
        await runc.checkpoint(
            work.container,
            work.path / checksums.IMAGES,
            limit_seconds=_NO_LIMIT,
            give_up=lambda: _give_up(work),
            grace_seconds=_DUMP_GRACE,
        )
    except CommandFailed as error:
        said = criu_log.errors(work.container.work_dir / "dump.log") or error.stderr.strip()[-300:]
        reason = criu_log.undumpable(said)
        if reason:
            raise NotCheckpointable(f"the job cannot be saved now: {reason} ({said})", "dump") from error
        raise CheckpointFailed(f"CRIU could not save the job: {said}", "dump") from error


def _give_up(work: _Checkpoint) -> None:
    """Make a dump end by itself, soon and cleanly.

    One that hangs on a stopped process goes on once the cgroup is thawed (tried). One that has much left to write
    finds the disk full but for the reserve; the file that fills it goes with the torn checkpoint.
    """
    work.freezer.thaw()
    size = roots.free_bytes(work.container.job_root) - work.reserve_bytes
    if size > 0:
        with open(work.path / "ballast", "wb") as file, contextlib.suppress(OSError):  # somebody else took the space
            os.posix_fallocate(file.fileno(), 0, size)


async def _drain(work: _Checkpoint) -> None:
    work.stdio = await stdio.drain(work.container.keeper_socket)


async def _clone(work: _Checkpoint) -> None:
    root = work.container.job_root
    for tree, live in files.TREES.items():
        await run(files.clone_command(root / live, work.path / files.FILES / tree), limit_seconds=_NO_LIMIT)
    work.inodes = await asyncio.to_thread(files.note_inodes, root)
    await _take_names(work)


async def _take_names(work: _Checkpoint) -> None:
    await asyncio.to_thread(lost_names.take_away, work.container.init_pid, work.names)


async def _resume(work: _Checkpoint) -> None:
    """Only a final checkpoint leaves the job standing."""
    if work.kind is not CheckpointKind.FINAL:
        await asyncio.to_thread(work.freezer.thaw)
        work.phases["frozen"] = time.monotonic() - work.frozen_since


async def _checksums(work: _Checkpoint) -> None:
    work.images = await asyncio.to_thread(checksums.digest_images, work.path)
    work.files_digest = await asyncio.to_thread(files.digest_clones, work.path)


async def _commit(work: _Checkpoint) -> None:
    """From here on the checkpoint exists. The lease is looked at last: an older epoch commits nothing."""
    await asyncio.to_thread(roots.check_lease, work.container.job_root, work.identity.epoch)
    if work.kind is CheckpointKind.FINAL:
        work.phases["frozen"] = time.monotonic() - work.frozen_since
    manifest = await _manifest(work)
    await asyncio.to_thread(work.store.put, manifest)
    work.manifest = manifest


async def _prune(work: _Checkpoint) -> None:
    """Keep the newest ones, as configured. The checkpoint is committed: what fails here is tried again by the next."""
    try:
        for number in droppable(work.store.numbers(), work.keep):
            await asyncio.to_thread(work.store.delete, number)
    except (PerdureError, OSError) as error:
        log.warning("an old checkpoint was not deleted", job_id=work.identity.job_id, error=str(error))


_Step = tuple[str, Callable[[_Checkpoint], Awaitable[None]]]

BEFORE: tuple[_Step, ...] = (("look", _look), ("room", _room), ("presync", _sync))
FROZEN: tuple[_Step, ...] = (
    ("pause", _pause),
    ("look again", _look_again),
    ("names", _names),
    ("dump", _dump),
    ("drain", _drain),
    ("clone", _clone),
    ("resume", _resume),
)
AFTER: tuple[_Step, ...] = (("sync", _sync), ("checksums", _checksums), ("commit", _commit))


async def take_checkpoint(
    container: Container,
    identity: Identity,
    *,
    kind: CheckpointKind,
    limit_seconds: float,
    keep: int,
    reserve_bytes: int,
    on_step: StepCallback | None = None,
) -> Manifest:
    """Freeze, dump, clone, commit; returns the committed manifest. Only a FINAL one leaves the container frozen.

    `limit_seconds` bounds the time in which the job stands still for dump and clone; `keep` committed checkpoints
    stay, and `reserve_bytes` of the job root are never used. `on_step` is told each step's name as it begins.
    The manifest's phases are seconds by step, and `frozen` from the pause to the resume (FINAL: to the commit).

    Raises NotCheckpointable (naming process and command), JobRootFull, Fenced, JobRootBusy, or CheckpointFailed with
    the step; the job then runs on and nothing of the checkpoint is left. Cancelling does the same.
    """
    if container.freezer is None:
        raise CheckpointFailed("the container has no processes yet", "look")
    with roots.locked(container.job_root):
        await asyncio.to_thread(roots.check_lease, container.job_root, identity.epoch)
        store = roots.store(container.job_root)
        work = _Checkpoint(container, container.freezer, identity, kind, keep, reserve_bytes, store)
        return await _take(work, limit_seconds, on_step or (lambda step: None))


async def _take(work: _Checkpoint, limit_seconds: float, on_step: StepCallback) -> Manifest:
    step = ""

    async def go(steps: tuple[_Step, ...]) -> None:
        nonlocal step
        for step, function in steps:
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
        if work.manifest is None:
            await complete(_abandon(work))
            failure = _failure(error, step, limit_seconds)
            if failure is not None:
                raise failure from error
        raise
    on_step("prune")
    await _prune(work)
    assert work.manifest is not None
    return work.manifest


def _failure(error: BaseException, step: str, limit_seconds: float) -> CheckpointFailed | None:
    """CheckpointFailed with the step, for foreign errors; None for ours and cancellations, which stay as they are."""
    if isinstance(error, TimeoutError):
        return CheckpointFailed(f"the job stood frozen for {limit_seconds:g} s at `{step}`; it was thawed", step)
    if isinstance(error, (CommandFailed, FreezerFailed, OSError)):
        return CheckpointFailed(f"no checkpoint at `{step}`: {error}", step)
    return None


async def _abandon(work: _Checkpoint) -> None:
    """Delete what was begun, *then* let the job run on: on a full volume it would die at its next write."""
    try:
        if work.folder is not None:
            await asyncio.to_thread(work.store.delete, int(work.folder.name))
        if work.names:
            await _take_names(work)
    finally:
        await asyncio.to_thread(work.freezer.thaw)


async def _manifest(work: _Checkpoint) -> Manifest:
    container, identity = work.container, work.identity
    here = await machine.describe(container.tools)
    assert work.frozen_at is not None
    return Manifest(
        job_id=identity.job_id,
        number=int(work.path.name),
        kind=work.kind,
        epoch=identity.epoch,
        attempt=identity.attempt,
        instance_id=identity.instance_id,
        zone=identity.zone,
        frozen_at=work.frozen_at,
        committed_at=datetime.now(UTC),
        container_id=container.id,
        criu_version=here.criu,
        runc_version=here.runc,
        kernel=here.kernel,
        cpu_features=here.cpu_features,
        images=work.images,
        files_digest=work.files_digest,
        inodes=work.inodes,
        stdio=work.stdio,
        mounts=list(container.mounts),
        lower_layers=list(container.lower_layers),
        processes=work.processes,
        phases=work.phases,
        addresses=work.addresses,
        lent_names=[encode_name(name) for name in work.names],
    )
