"""The container's writable layer: on the job root, and yet where the container engine looks for it.

Docker reads a container's files in two places (tried with 20.10, 26 and 28): at the merged root (`docker cp`, `exec`)
and in its own upper folder (`docker diff`, `ps -s`, `commit`). So our overlay is mounted *in place of* Docker's, and
our upper folder is bound over Docker's. That second mount is read-only: with the containerd image store `docker rm`
deletes whatever it finds in that folder, and would delete the job's layer.

The same goes for volumes that were redirected to the job root: they are shown where the engine keeps the volume, for
`docker cp`. At the container's end all of this is unmounted, and what the job left in its layer is copied to Docker's
own folder, so that `docker cp`, `diff` and `commit` are right after the exit too.

Everything is found in the mount table, so it can be undone by an agent that knows nothing of an earlier one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from perdure.domain.errors import CommandFailed, CommandTimeout, JobRootBusy, RestoreFailed
from perdure.image.files import TREES, clone_command, walk
from perdure.image.mounts import Mount, delete_tree, read_mounts
from worker_agent.engine.container import Container
from worker_agent.engine.overlay import find_overlay, mount_again, mount_overlays, overlays_on, seen, unmount

COPY_LIMIT = 1 << 30
"""Bytes of a layer that are copied to the container engine's folder after the container's end. A larger one is left
out: nobody on the node may need it, and it could fill the disk of the containers that still run."""
_COPY_SECONDS = 300.0
_OF_FREE = 0.25
"""Part of the free space on the engine's file system that such a copy may take."""
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 0x1, 0x20, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


def put_in_place(
    container: Container, *, fresh: bool = False, numbers: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Mount the overlays of data and volumes, and the flat overlay at the container's root, in place of the container
    engine's own; show our upper folder where the engine's is. Where that is not known, ours is mounted over what is
    there. `numbers` are the device numbers that they must have, by tree; returns those that they have.

    `fresh`: files that somebody put into the new container before its start (`docker cp`) are taken along.
    RestoreFailed (the node's fault) if the kernel refuses or a number is taken (DeviceNumberTaken), JobRootBusy if
    something is still mounted.
    """
    engines, job_root, rootfs = container.engines_overlay, container.job_root, container.rootfs
    if engines is None:
        return mount_overlays(container.lower_layers, job_root, rootfs, numbers)
    upper = job_root / TREES["layer"]
    if fresh:
        _copy(Path(engines.upper), upper)
    found = find_overlay(rootfs)
    if found is not None and found.upper == engines.upper:
        unmount(found.point)
    got = mount_overlays(container.lower_layers, job_root, rootfs, numbers)
    show(upper, Path(engines.upper), read_only=True)
    return got


def show_volumes(container: Container) -> None:
    """Show each captured volume where the container engine keeps it. RestoreFailed (the node's fault) if refused."""
    for rule in container.mounts:
        if rule.engines and os.path.isdir(rule.replaces):
            show(seen(container.job_root, rule.source), Path(rule.replaces))


def show(folder: Path, at: Path, *, read_only: bool = False) -> None:
    """Bind a folder of the job root over one of the container engine. RestoreFailed (the node's fault) if refused."""
    for flags in (_MS_BIND, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)[: 2 if read_only else 1]:
        if _libc.mount(os.fsencode(folder), os.fsencode(at), None, ctypes.c_ulong(flags), None) != 0:
            said = f"{folder} was not shown at {at}: {os.strerror(ctypes.get_errno())}"
            raise RestoreFailed(said, "overlay", node_fault=True)


def is_in_place(container: Container) -> bool:
    """Is our overlay mounted at the container's root? (The engine may have unmounted it.)"""
    found = find_overlay(container.rootfs)
    return found is not None and found.upper == os.path.realpath(container.job_root / TREES["layer"])


def give_back(container: Container) -> None:
    """The container engine's own overlay is at the root again, as it was before `put_in_place`. Idempotent.

    JobRootBusy if something of ours is still mounted there.
    """
    engines = container.engines_overlay
    if engines is None:
        return
    found = find_overlay(container.rootfs)
    if found is None:
        mount_again(engines)
    elif found.upper != engines.upper:
        raise JobRootBusy(f"{found.upper} is still mounted at {found.point}")


def unmount_layer(job_root: Path) -> None:
    """Unmount every overlay that writes to the job root, and every folder of it that is shown elsewhere.

    JobRootBusy, naming it, if one is in use.
    """
    for overlay in overlays_on(job_root):
        unmount(overlay.point)
    for mount in shown_from(job_root):
        unmount(mount.point)


def shown_from(job_root: Path) -> list[Mount]:
    """The mounts elsewhere that show a folder of the job root, newest first."""
    table = read_mounts()
    top = os.path.realpath(job_root)
    around = [mount for mount in table if top == mount.point or top.startswith(mount.point.rstrip("/") + "/")]
    home = max(around, key=lambda mount: len(mount.point))
    inside = os.path.normpath(f"{home.root}/{os.path.relpath(top, home.point)}")
    below = inside.rstrip("/") + "/"
    return [
        mount
        for mount in table[::-1]
        if mount.device == home.device
        and mount.root.startswith(below)
        and mount.root != below
        and not mount.point.startswith(top + "/")
    ]


def leave_files(container: Container) -> bool:
    """Copy what the ended job left in its layer and volumes to the container engine's own folders, unless it is too
    large or the engine has removed them meanwhile. Nothing of ours may be mounted any more (JobRootBusy). Did it copy?
    """
    job_root = container.job_root
    pairs = [(job_root / rule.source, Path(rule.replaces)) for rule in container.mounts if rule.engines]
    if container.engines_overlay is not None:
        pairs.append((job_root / TREES["layer"], Path(container.engines_overlay.upper)))
    pairs = [(ours, engines) for ours, engines in pairs if ours.is_dir() and engines.is_dir()]
    if shown_from(job_root):
        raise JobRootBusy(f"{shown_from(job_root)[0].point} still shows a folder of {job_root}")
    size = sum(entry.status.st_blocks * 512 for ours, _ in pairs for entry in walk(ours, changing=True))
    disks = [shutil.disk_usage(engines) for _, engines in pairs]
    if size > COPY_LIMIT or any(size > disk.free * _OF_FREE for disk in disks):
        return False
    for ours, engines in pairs:
        for name in os.listdir(engines):
            delete_tree(engines / name)
        _copy(ours, engines)
    return bool(pairs)


def _copy(source: Path, target: Path) -> None:
    """All that is in a folder, overlay's own marks included. CommandFailed says what could not be copied."""
    if os.listdir(source):
        argv = clone_command(source, target)
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COPY_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CommandTimeout(argv, _COPY_SECONDS, "") from error
        if done.returncode != 0:
            raise CommandFailed(argv, done.returncode, done.stderr.decode("utf-8", "replace"))
