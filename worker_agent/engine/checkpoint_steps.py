"""The steps of a checkpoint, one small function each, on what they hand to each other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from perdure.domain.checkpoints import (
    CheckpointKind,
    GpuDevice,
    ImageFile,
    Manifest,
    ManifestHead,
    StdioOffsets,
    droppable,
)
from perdure.domain.errors import CheckpointFailed, ImageInvalid, NotCheckpointable, PerdureError, TooLate
from perdure.image import chain, checksums, files
from perdure.image.disk import syncfs
from perdure.image.manifest import encode_name
from perdure.image.store import DirectoryStore
from worker_agent.engine import gpu, lost_names, machine, pace, runc, stdio, stopped, tasks
from worker_agent.engine import job_root as roots
from worker_agent.engine.commands import complete, run
from worker_agent.engine.connections import outside_addresses
from worker_agent.engine.container import Container, Identity
from worker_agent.engine.freezer import Freezer
from worker_agent.engine.looking import Descriptor, Look
from worker_agent.engine.looking import look as look_at
from worker_agent.engine.memory import Base
from worker_agent.engine.overlay import device_numbers_of
from worker_agent.engine.refusals import refused
from worker_agent.engine.threads import urgently
from worker_agent.engine.waiting_clients import Listening, listening
from worker_agent.engine.watches import watched_paths

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

_VFORK_PATIENCE = 5.0
"""Seconds in which a freeze is tried that meets no parent in a vfork. A job that does little else but start programs
was met in one about every second time (tried)."""
_VFORK_POLL = 0.01
_TELL_THE_PACE = 2
"""So many checkpoints, the newest, are looked at for how fast the volume is."""
SLACK = 16 << 20
"""Bytes of a dump beyond the processes' memory: tables, small files, the cloned trees' own metadata."""
NO_LIMIT = 3600.0
"""Seconds for programs that run inside the checkpoint's own, shorter limit."""


@dataclass
class Work:
    """One checkpoint while it is taken: what the steps hand to each other."""

    container: Container
    freezer: Freezer
    identity: Identity
    kind: CheckpointKind
    keep: int
    reserve_bytes: int
    store: DirectoryStore
    longest_chain: int = 1
    predump: bool = False
    commit_by: float | None = None
    """Monotonic seconds; the instance goes soon after."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set by a notice: what is not needed for a checkpoint makes room."""
    predumping: asyncio.Future[None] | None = None
    known: list[ManifestHead] = field(default_factory=list)
    """The newest checkpoints on the job root, where the time may not suffice: they tell its pace."""
    tracks: bool = False
    """The kernel notes which memory changes after this dump."""
    base: Base | None = None
    """What this dump builds on."""
    folder: Path | None = None
    frozen_at: datetime | None = None
    frozen_since: float = 0.0
    users_pause: bool = False
    """It stood frozen before we came (`docker pause`)."""
    processes: list[str] = field(default_factory=list)
    stopped: dict[int, list[int]] = field(default_factory=dict)
    listening: Listening = field(default_factory=dict)
    """Sockets at which a client may wait, as the look before the freeze saw them."""
    nameless: list[Descriptor] = field(default_factory=list)
    """Those whose files had lost their names then."""
    addresses: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    stdio: StdioOffsets = field(default_factory=StdioOffsets)
    gpus: list[GpuDevice] = field(default_factory=list)
    gpu_users: list[int] = field(default_factory=list)
    """Processes whose GPU was taken and not given back yet."""
    inodes: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    images: list[ImageFile] = field(default_factory=list)
    files_digest: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    manifest: Manifest | None = None

    async def in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Blocking work of a step. The last checkpoint does not wait behind what other jobs do."""
        way = urgently if self.kind is CheckpointKind.FINAL else asyncio.to_thread
        return await way(work, *arguments, **named)

    @property
    def path(self) -> Path:
        if self.folder is None:
            raise CheckpointFailed("the checkpoint has no folder yet", "room")
        return self.folder


async def look(work: Work) -> None:
    """Refuse, before anything is frozen, what is known not to come through a dump."""
    await machine.describe(work.container.tools)
    container = work.container
    pids = await work.in_thread(work.freezer.pids)
    seen = await work.in_thread(_judge, container, pids)
    gpu.refuse_unless_enabled(container.tools.gpu, await work.in_thread(gpu.seen_users, seen))
    work.watched = await work.in_thread(watched_paths, seen, container.job_root)
    work.listening = await work.in_thread(listening, seen)
    work.nameless = [one for one in seen.descriptors if lost_names.may_be_lost(one)]


def _judge(container: Container, pids: list[int]) -> Look:
    """NotCheckpointable for what the table names. Blocks, longer for hundreds of thousands of descriptors."""
    seen = look_at(pids, container.init_pid)
    found = refused(seen)
    if found:
        raise NotCheckpointable(f"the job cannot be saved now: {found[0].sentence}", "look")
    return seen


def _obstacle(work: Work) -> str:
    """What stands in the way but will go away by itself; empty if nothing does. NotCheckpointable for what stays."""
    reason = tasks.obstacle(work.freezer.pids(), work.listening)
    if reason and not tasks.goes_away(reason):
        raise NotCheckpointable(f"the job cannot be frozen now: {reason}", "look")
    return reason


async def room(work: Work) -> None:
    """Make the folder, once the dump is sure to fit; older checkpoints go for it."""
    needed = await work.in_thread(bytes_needed, work)
    if work.commit_by is not None:
        work.known = await work.in_thread(_newest, work)
        _refuse_if_late(work, needed, builds=work.longest_chain > 1 and work.container.memory.base is not None)
    await work.in_thread(_make_room, work, needed)
    await complete(_begin(work))


def _newest(work: Work) -> list[ManifestHead]:
    found = []
    for number in work.store.numbers()[-_TELL_THE_PACE:]:
        with contextlib.suppress(ImageInvalid):  # a damaged one tells nothing
            found.append(work.store.head(number))
    return found


def _refuse_if_late(work: Work, needed: int, *, builds: bool) -> None:
    """TooLate if a dump could not be committed in time even at this volume's best pace. One that `builds` on another
    holds only what changed, of which nothing is known before."""
    if work.commit_by is None or builds:
        return
    left, seconds = work.commit_by - time.monotonic(), pace.seconds_needed(needed, work.known)
    if seconds > left:
        raise TooLate(
            f"no checkpoint was begun: {needed >> 20} MiB take at least {seconds:.0f} s on this volume, by the"
            f" checkpoints before, and {max(left, 0):.0f} s are left",
            "room",
        )


def _make_room(work: Work, needed: int) -> None:
    """Torn checkpoints first. Before a last one there may be no time for what is not needed."""
    root = work.container.job_root
    if work.kind is not CheckpointKind.FINAL or roots.free_bytes(root) < needed + work.reserve_bytes:
        work.store.sweep()
    roots.make_room(root, needed, work.reserve_bytes)


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
    needed = await urgently(bytes_needed, work)
    _refuse_if_late(work, needed, builds=work.base is not None)
    await urgently(roots.make_room, work.container.job_root, needed, work.reserve_bytes)
    await urgently(_describe, work)


def _describe(work: Work) -> None:
    pids = work.freezer.pids()
    work.processes = tasks.names(pids)
    work.stopped = stopped.stopped_tasks(pids)


async def lend_names(work: Work) -> None:
    """Only until the files are cloned."""
    await complete(_lend(work))


async def _lend(work: Work) -> None:
    work.names = await urgently(lambda: lost_names.lend(work.freezer.pids(), work.nameless))


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


async def examine_images(work: Work) -> None:
    """What the freeze has no time for: whose the job's sockets were, and whether a file lost its name since the look
    (CheckpointFailed; the next try sees it)."""
    images = work.path / chain.IMAGES
    work.addresses = await work.in_thread(outside_addresses, images)
    if await work.in_thread(lost_names.missed, images):
        raise CheckpointFailed("a file that the job has open lost its name in the moment of the checkpoint", "images")


async def digest(work: Work) -> None:
    work.images = await work.in_thread(checksums.digest_images, work.path)
    work.files_digest = await work.in_thread(files.digest_clones, work.path)


async def commit(work: Work) -> None:
    """From here on the checkpoint exists. The lease is looked at last: an older epoch commits nothing."""
    await urgently(roots.check_lease, work.container.job_root, work.identity.epoch)
    if work.kind is CheckpointKind.FINAL:
        work.phases["frozen"] = time.monotonic() - work.frozen_since
    manifest = await _manifest(work)
    await complete(_put(work, manifest))


async def _put(work: Work, manifest: Manifest) -> None:
    digest = await urgently(work.store.put, manifest)
    work.manifest = manifest
    if work.tracks:
        work.container.memory.committed(manifest, digest, work.base)


async def prune(work: Work) -> None:
    """Keep the newest ones, as configured. The checkpoint is committed: what fails here is tried again by the next."""
    try:
        for number in droppable(await work.in_thread(work.store.numbers), work.keep):
            await work.in_thread(work.store.delete, number, work.hurry.is_set)
    except (PerdureError, OSError) as error:
        log.warning("an old checkpoint was not deleted", job_id=work.identity.job_id, error=str(error))


async def _manifest(work: Work) -> Manifest:
    container, identity = work.container, work.identity
    here = await machine.describe(container.tools)
    stood_stopped = await urgently(stopped.inner_pids, work.stopped, container.init_pid)
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
        parent=work.base.link if work.base else None,
        parent_bytes=work.base.chain_bytes if work.base else 0,
        files_digest=work.files_digest,
        inodes=work.inodes,
        stdio=work.stdio,
        mounts=list(container.mounts),
        lower_layers=list(container.lower_layers),
        image=container.image,
        processes=work.processes,
        gpus=work.gpus,
        stopped=stood_stopped,
        phases=work.phases,
        addresses=work.addresses,
        surroundings=container.surroundings,
        devices=work.devices,
        lent_names=[encode_name(name) for name in work.names],
    )
