"""Watched files and folders (inotify, fanotify) on the overlays of a job: CRIU is told where to find them.

On an overlay a watch cannot be reopened by its handle, so CRIU looks the inode up by path, but only where it is told
to (`irmap-scan-path`; `/` itself fails). `tail -f` is the common case. On tmpfs nothing is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from perdure.domain.errors import NotCheckpointable
from perdure.image.files import walk
from worker_agent import proc
from worker_agent.engine.looking import Descriptor, Look
from worker_agent.engine.overlay import parse_overlay

_WATCH = re.compile(r"^(?:inotify wd:\w+|fanotify) ino:([0-9a-f]+) sdev:([0-9a-f]+) ", re.MULTILINE)
_WATCHES = ("anon_inode:inotify", "anon_inode:[fanotify]")
_PLAIN = re.compile(r"[A-Za-z0-9_./@:+,=~-]+")
"""Paths that CRIU's options file takes as they are; others stay unfound, and the dump says so."""

_LINK = (
    "it watches the symbolic link {} itself (IN_DONT_FOLLOW), which could not be restored. Watch what it leads to, or "
    "its folder."
)


def watched_paths(look: Look, job_root: Path) -> list[str]:
    """Paths inside the container of what its processes watch on the job's own files, as far as they can be found.

    Looked for in what the job wrote (root layer, data and volumes), and where its processes work or have files open.
    NotCheckpointable for a watch on a symbolic link itself (IN_DONT_FOLLOW): CRIU saves it and cannot restore it.
    """
    root = Path(f"/proc/{look.init_pid}/root")
    trees = _trees(look, job_root)
    devices = {device for device, _, _ in trees}
    watches = [one for one in look.descriptors if one.link in _WATCHES]
    wanted = {place for one in watches for place in _places(one) if place[0] in devices}
    found: dict[tuple[int, int], str] = {}
    if wanted:
        for path in _candidates(look, trees):
            with contextlib.suppress(OSError):  # deleted, or only an overlay's whiteout
                status = os.lstat(f"{root}/{path}")
                place = (status.st_dev, status.st_ino)
                if place in wanted and stat.S_ISLNK(status.st_mode):
                    said = _LINK.format(proc.printable(path[:200]))
                    raise NotCheckpointable(f"the job cannot be saved now: {said}", "look")
                if place in wanted and _PLAIN.fullmatch(path):
                    found.setdefault(place, path)
            if len(found) == len(wanted):
                break
    return sorted(found.values())


_Tree = tuple[int, str, Path]
"""Device number, where the job sees it, and the folder of the job root that it is."""


def _trees(look: Look, job_root: Path) -> list[_Tree]:
    trees = []
    for mount in look.mounts:
        if mount.kind == "overlay" and Path(upper := parse_overlay(mount).upper).is_relative_to(job_root):
            major, _, minor = mount.device.partition(":")
            folder = Path(os.path.normpath(f"{upper}/{mount.root}"))
            trees.append((os.makedev(int(major), int(minor)), mount.point.rstrip("/"), folder))
    return trees


def _places(watch: Descriptor) -> Iterator[tuple[int, int]]:
    """Device and inode number of all that it watches."""
    with contextlib.suppress(OSError):  # closed while we looked
        for inode, sdev in _WATCH.findall(proc.read(f"/proc/{watch.pid}/fdinfo/{watch.number}")):
            device = int(sdev, 16)  # the kernel's own encoding: 20 bits of minor number
            yield os.makedev(device >> 20, device & 0xFFFFF), int(inode, 16)


def _candidates(look: Look, trees: list[_Tree]) -> Iterator[str]:
    links = [one.link for one in look.descriptors if one.link.startswith("/")]
    for pid in look.processes:
        with contextlib.suppress(OSError):  # it ended
            links.append(os.readlink(f"/proc/{pid}/cwd"))
    yield from {place for link in links for place in (link, os.path.dirname(link))}
    for _, point, folder in trees:
        if folder.is_dir():
            yield point or "/"
            for entry in walk(folder, changing=True):
                yield f"{point}/{entry.path}"
