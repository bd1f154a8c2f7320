"""Bringing a container back, or starting it clean: the ordered list of steps up to what runc is to be called with.

clean → verify → roll back → cut logs → sync → overlay → addresses → options        then, by the runtime:
runc restore, left stopped → finish (closed connections say so) → continue at `start` (quiet_continue.py)
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from perdure.domain.checkpoints import Manifest
from perdure.domain.errors import CheckpointFailed, CommandFailed, DeviceNumberTaken, ImageInvalid, RestoreFailed
from perdure.domain.instance_types import missing_features
from perdure.image.disk import syncfs
from perdure.image.layout import IMAGES
from perdure.image.manifest import decode_name
from perdure.image.mounts import delete_tree
from perdure.image.rollback import roll_back
from worker_agent.engine import (
    addresses,
    criu_options,
    gpu,
    last_pid,
    leavings,
    lost_names,
    machine,
    oom_scores,
    page_images,
    quiet_parents,
    runc,
    signal_queues,
    tcp_queues,
    tcp_timers,
    thread_settings,
    timers,
)
from worker_agent.engine import job_root as roots
from worker_agent.engine.cgroup_view import own_folders
from worker_agent.engine.closed_sockets import reset
from worker_agent.engine.connections import FILES, Adapted, Binding, adapt, link_images
from worker_agent.engine.container import Container
from worker_agent.engine.in_network import in_network_of
from worker_agent.engine.lazy import daemon
from worker_agent.engine.lazy.images import NotLazy
from worker_agent.engine.outside_files import without_sizes
from worker_agent.engine.writable_layer import put_in_place
from worker_agent.freezer import Freezer

StepCallback = Callable[[str], None]
Claim = Callable[[Sequence[Binding]], Awaitable[None]]
"""Returns once this restore may have these ports; RestoreFailed if it may not."""


@dataclass(frozen=True)
class Prepared:
    """Ready for `runc restore`: `argv` follows that word (the caller adds --bundle, --pid-file, the id)."""

    manifest: Manifest
    argv: list[str]
    phases: dict[str, float]
    network: Adapted = field(default_factory=Adapted)
    pages_later: bool = False
    """The pages were not verified: `verify_pages` must find them sound before the restored job goes on."""
    lazily: bool = False
    """A program beside the job verifies the pages and brings most of them later: `lazy.is_sound` must be heard before
    the restored job goes on."""
    not_lazy: str = ""
    """Why not, although it was wished."""


@dataclass
class _Restore:
    container: Container
    number: int
    epoch: int
    job_id: str
    manifest: Manifest | None = None
    phases: dict[str, float] = field(default_factory=dict)
    claim: Claim = addresses.check_ports
    network: Adapted = field(default_factory=Adapted)
    predecessors: Sequence[str] = ()
    any_device: bool = True
    pages_later: bool = False

    @property
    def images(self) -> Path:
        """The checkpoint's images."""
        return roots.store(self.container.job_root).folder(self.number) / IMAGES

    @property
    def view(self) -> Path:
        """The same with other sockets, if that was needed."""
        return _view(self.container, self.number)

    @property
    def read(self) -> Manifest:
        assert self.manifest is not None
        return self.manifest


async def _clean(work: _Restore) -> None:
    # The lease first: with it, whatever still lives on the job root is an older epoch's and may be ended.
    await asyncio.to_thread(roots.claim_lease, work.container.job_root, work.epoch)
    await leavings.clean(work.container)


async def _verify(work: _Restore) -> None:
    """Every byte of the image, or all but its pages; and that this node can run it at all."""
    store = roots.store(work.container.job_root)
    manifest = await asyncio.to_thread(partial(store.verify, work.number, pages=not work.pages_later))
    if manifest.job_id not in {work.job_id, *work.predecessors}:
        raise ImageInvalid(f"checkpoint {work.number} belongs to another job: {manifest.job_id[:64]!r}", "verify")
    await asyncio.to_thread(page_images.check_length, work.images)
    missing = missing_features(manifest.cpu_features, machine.cpu_features())
    if missing:
        said = f"this node's CPU lacks {' '.join(missing)}, which the job may be using"
        raise RestoreFailed(said, "verify", node_fault=True)
    await gpu.map_devices(work.container.tools.gpu, manifest.gpus)
    work.manifest = manifest


async def _roll_back(work: _Restore) -> None:
    root = work.container.job_root
    await asyncio.to_thread(roll_back, root, roots.store(root).folder(work.number), work.read.inodes)


async def _cut_logs(work: _Restore) -> None:
    await asyncio.to_thread(roots.cut_logs, work.container.job_root, work.read.stdio)


async def _sync(work: _Restore) -> None:
    await asyncio.to_thread(syncfs, work.container.job_root)


async def _overlay(work: _Restore) -> None:
    try:
        await asyncio.to_thread(put_in_place, work.container, numbers=work.read.devices)
    except DeviceNumberTaken:
        if not work.any_device:
            raise
        await asyncio.to_thread(put_in_place, work.container, numbers={})


async def _addresses(work: _Restore) -> None:
    """The sockets as this node can restore them. The ports they need on the node's network must be free."""
    shared = not (work.container.own_network or work.read.surroundings.address)
    kept = work.read.surroundings.address  # in any other namespace (Docker's bridge) the job gets a new one
    own = addresses.exchange(work.read.addresses) if shared else {kept: kept}
    changed, work.network = await asyncio.to_thread(changed_images, work.images, own, work.read)
    if shared:
        await work.claim(work.network.bindings)
    await asyncio.to_thread(delete_tree, work.view)
    if changed:
        await asyncio.to_thread(link_images, work.images, work.view, changed)


def changed_images(images: Path, own: Mapping[str, str], manifest: Manifest) -> tuple[dict[str, bytes], Adapted]:
    """The images (by name) to restore from instead of those of a checkpoint, mostly few, and what is different for its
    sockets. `own`: see `adapt`. ImageInvalid. Blocks."""
    files, network = adapt(images, own, manifest.broken)
    files = without_sizes(files or (images / FILES).read_bytes(), manifest.mounts) or files
    changed = {FILES: files} if files is not None else {}
    changed |= tcp_queues.hold_back(images, files)
    changed |= signal_queues.without_sigcont(images)
    changed |= quiet_parents.hushed(images, changed)
    return changed, network


async def _options(work: _Restore) -> None:
    unified = (await asyncio.to_thread(Freezer.of_process, os.getpid())).unified
    root = work.container.cgroup if unified else ""
    folders = {} if unified else await asyncio.to_thread(own_folders, work.container)
    criu_options.write_options(work.container.criu_config, restore=True, cgroup_root=root, cgroup_folders=folders)


def _view(container: Container, number: int) -> Path:
    return roots.store(container.job_root).folder(number) / "restoring"


_Step = tuple[str, Callable[[_Restore], Awaitable[None]]]

STEPS: tuple[_Step, ...] = (
    ("clean", _clean),
    ("verify", _verify),
    ("roll back", _roll_back),
    ("cut logs", _cut_logs),
    ("sync", _sync),
    ("overlay", _overlay),
    ("addresses", _addresses),
    ("options", _options),
)


_OF_THE_NODE = ("clean", "sync", "overlay", "options")
"""Steps that have nothing to do with what is in the checkpoint."""
_NODE_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENODEV)
"""Of the other steps: no checkpoint of this job fares better here."""


async def prepare_restore(
    container: Container,
    number: int,
    *,
    epoch: int,
    job_id: str,
    on_step: StepCallback | None = None,
    claim: Claim = addresses.check_ports,
    predecessors: Sequence[str] = (),
    any_device: bool = True,
    pages_later: bool = False,
    lazily: bool = False,
) -> Prepared:
    """Make the node and the job root ready to restore checkpoint `number`; for the next rung, call it again.
    `predecessors`: jobs that this one was resumed from; their checkpoints are its own.
    `any_device`: restore even where the job's device numbers are taken on this node, with others.
    `pages_later`: the caller verifies the pages while CRIU reads them, and lets nothing go on before they are sound.
    `lazily`, with it: the job is to go on before all of its memory is there, if the checkpoint is fit for that.

    Claims the lease for `epoch` (Fenced). ImageInvalid: the checkpoint is damaged. RestoreFailed: with `node_fault`,
    another node may do better; as DeviceNumberTaken, `any_device` helps too. JobRootBusy: something of an earlier try
    cannot be removed.
    """
    work = _Restore(
        container,
        number,
        epoch,
        job_id,
        claim=claim,
        predecessors=predecessors,
        any_device=any_device,
        pages_later=pages_later,
    )
    if not lazily:
        return await _take_steps(work, on_step)
    try:
        program = await daemon.Program.start(container)
    except OSError as error:
        return replace(await _take_steps(work, on_step), not_lazy=f"no program could be started: {error}")
    try:
        prepared = await _take_steps(work, on_step)
        return await _with_program(work, prepared, program)
    finally:
        await program.end()


async def _take_steps(work: _Restore, on_step: StepCallback | None) -> Prepared:
    async with roots.held(work.container.job_root):
        for step, function in STEPS:
            if on_step is not None:
                on_step(step)
            begun = time.monotonic()
            try:
                await function(work)
            except (OSError, CommandFailed) as error:
                fault = step in _OF_THE_NODE or getattr(error, "errno", None) in _NODE_ERRORS
                raise RestoreFailed(f"it could not be prepared at `{step}`: {error}", step, node_fault=fault) from error
            work.phases[step] = time.monotonic() - begun
    images = work.view if work.view.exists() else work.images
    later = work.pages_later and any(image.index for image in work.read.images)
    return Prepared(work.read, runc.restore_argv(work.container, images), work.phases, work.network, later)


async def _with_program(work: _Restore, prepared: Prepared, program: daemon.Program) -> Prepared:
    """The same to be restored lazily, if this checkpoint is fit for it."""
    begun = time.monotonic()
    try:
        await program.begin(work.container, work.read)
    except NotLazy as why:
        return replace(prepared, not_lazy=str(why))
    finally:
        work.phases["lazy"] = time.monotonic() - begun
    return replace(prepared, argv=[*prepared.argv, daemon.FLAG], pages_later=False, lazily=True)


async def prepare_fresh(container: Container, *, epoch: int) -> dict[str, float]:
    """Make the job root empty and mount the overlay, for a clean start. Seconds by step. Fenced, JobRootBusy,
    RestoreFailed (the node's fault)."""
    root = container.job_root
    begun = time.monotonic()
    async with roots.held(root):
        await asyncio.to_thread(roots.claim_lease, root, epoch)
        await leavings.clean(container)
        await asyncio.to_thread(roots.empty, root)
        await asyncio.to_thread(put_in_place, container, fresh=True)
        criu_options.write_options(container.criu_config, restore=False)
    return {"clean": time.monotonic() - begun}


async def name_taken_port(container: Container, number: int, problem: RestoreFailed) -> RestoreFailed:
    """The same failure, with the port and the process that has it where that was the reason: somebody may have taken it
    since `prepare_restore` looked."""
    if "Address already in use" not in str(problem) or not problem.node_fault:
        return problem
    images = roots.store(container.job_root).folder(number) / IMAGES
    try:
        manifest = await asyncio.to_thread(roots.read_head, container.job_root, number)
        _, network = await asyncio.to_thread(adapt, images, addresses.exchange(manifest.addresses))
    except (ImageInvalid, OSError):
        return problem
    who = await addresses.taken(network.bindings)
    return RestoreFailed(f"{who or 'a port was taken'} ({problem})", "addresses", node_fault=True)


async def finish_restore(container: Container, manifest: Manifest) -> None:
    """After the restore, before the processes go on (`container` knows its first process).

    Connections that came back closed say so, so that the job connects anew. Names that were lent to open files are
    taken away, repeating timers that CRIU left switched off run again, connections have what they had to send, and
    threads and processes the settings that CRIU does not keep; new processes get the next numbers. RestoreFailed if
    that fails.
    """
    await asyncio.to_thread(_check_cgroup, container, manifest.number)
    names = [decode_name(name) for name in manifest.lent_names]
    try:
        pids = await runc.pids(container)  # all of them stand still: they stay the same
        await in_network_of(container.init_pid, reset, pids)
        view = _view(container, manifest.number)
        await asyncio.to_thread(tcp_queues.send_held, view.with_name(IMAGES), view, pids)
        await asyncio.to_thread(delete_tree, view)
        await asyncio.to_thread(timers.restart, pids)
        await asyncio.to_thread(tcp_timers.hurry, pids)
        if manifest.threads:
            await asyncio.to_thread(thread_settings.set_again, pids, container.init_pid, manifest.threads)
        await last_pid.set_again(container.init_pid, manifest.last_pid)
        await asyncio.to_thread(lost_names.take_away, container.init_pid, names, restored=True)
        await asyncio.to_thread(oom_scores.set_again, pids, view.with_name(IMAGES))
    except (ImageInvalid, OSError, CommandFailed) as error:
        said = f"checkpoint {manifest.number} was restored but could not be finished: {error}"
        raise RestoreFailed(said, "finish", node_fault=True) from error


def _check_cgroup(container: Container, number: int) -> None:
    """On version 2 a restore may say ok with the job in its old cgroup, which has no limits and is not watched."""
    freezer = container.freezer
    if freezer is not None and freezer.unified and container.cgroup:
        wanted = Freezer.of_cgroup(container.cgroup).path
        if freezer.path != wanted:
            said = f"checkpoint {number} came back in the cgroup {freezer.path} instead of {wanted}"
            raise RestoreFailed(said, "finish", node_fault=True)


async def return_gpus(container: Container, manifest: Manifest) -> None:
    """Once the restored processes run again: their device memory goes to cards of this node. Nothing happens for a
    job without a GPU. RestoreFailed if one does not get its card; it must then be ended, for it would wait for ever
    (cuda-checkpoint #18, #42)."""
    if not manifest.gpus:
        return
    tools, pids = container.tools.gpu, await runc.pids(container)
    mapping = await gpu.map_devices(tools, manifest.gpus)
    try:
        await gpu.resume(tools, pids, manifest.gpus, mapping)
    except (CheckpointFailed, CommandFailed) as error:
        raise RestoreFailed(f"checkpoint {manifest.number}: {error}", "gpu", node_fault=True) from error
