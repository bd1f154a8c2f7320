"""Watched files and folders (inotify) on the overlays of a job: CRIU is told where to find them.

On an overlay a watch cannot be reopened by its handle, so CRIU looks the inode up by path, but only where it is told
to (`irmap-scan-path`; `/` itself fails). `tail -f` is the common case. On tmpfs nothing is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.files import walk
from perdure.image.mounts import parse_mountinfo
from worker_agent.engine.overlay import parse_overlay

_WATCH = re.compile(r"^inotify wd:\w+ ino:([0-9a-f]+) sdev:([0-9a-f]+) ", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9_./@:+,=~-]+")
"""Paths that CRIU's options file takes as they are; others stay unfound, and the dump says so."""


def watched_paths(pids: Iterable[int], init_pid: int, job_root: Path) -> list[str]:
    """Paths inside the container of what its processes watch on the job's own files, as far as they can be found.

    Looked for in what the job wrote (root layer, data and volumes), and where its processes work or have files open.
    """
    pids = list(pids)
    root = Path(f"/proc/{init_pid}/root")
    trees = _trees(init_pid, job_root)
    devices = {device for device, _, _ in trees}
    wanted = {watch for pid in pids for watch in _watches(pid) if watch[0] in devices}
    found: dict[tuple[int, int], str] = {}
    if wanted:
        for path in _candidates(pids, trees):
            with contextlib.suppress(OSError):  # deleted, or only an overlay's whiteout
                status = os.lstat(f"{root}/{path}")
                watch = (status.st_dev, status.st_ino)
                if watch in wanted and _PLAIN.fullmatch(path):
                    found.setdefault(watch, path)
            if len(found) == len(wanted):
                break
    return sorted(found.values())


_Tree = tuple[int, str, Path]
"""Device number, where the job sees it, and the folder of the job root that it is."""


def _trees(init_pid: int, job_root: Path) -> list[_Tree]:
    table = Path(f"/proc/{init_pid}/mountinfo").read_text("utf-8", "surrogateescape")
    trees = []
    for mount in parse_mountinfo(table):
        if mount.kind == "overlay" and Path(upper := parse_overlay(mount).upper).is_relative_to(job_root):
            major, _, minor = mount.device.partition(":")
            folder = Path(os.path.normpath(f"{upper}/{mount.root}"))
            trees.append((os.makedev(int(major), int(minor)), mount.point.rstrip("/"), folder))
    return trees


def _watches(pid: int) -> Iterator[tuple[int, int]]:
    for number in _numbers(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed while we looked
            if os.readlink(f"/proc/{pid}/fd/{number}") != "anon_inode:inotify":
                continue
            for inode, sdev in _WATCH.findall(Path(f"/proc/{pid}/fdinfo/{number}").read_text()):
                place = int(sdev, 16)  # the kernel's own encoding: 20 bits of minor number
                yield os.makedev(place >> 20, place & 0xFFFFF), int(inode, 16)


def _candidates(pids: list[int], trees: list[_Tree]) -> Iterator[str]:
    told = set()
    for pid in pids:
        for kind in ("cwd", "fd"):
            for path in _links(pid, kind):
                for place in (path, os.path.dirname(path)):
                    if place not in told:
                        told.add(place)
                        yield place
    for _, point, folder in trees:
        if folder.is_dir():
            yield point or "/"
            for entry in walk(folder, changing=True):
                yield f"{point}/{entry.path}"


def _links(pid: int, kind: str) -> Iterator[str]:
    place = f"/proc/{pid}/{kind}"
    for link in [place] if kind == "cwd" else [f"{place}/{number}" for number in _numbers(place)]:
        with contextlib.suppress(OSError):
            path = os.readlink(link)
            if path.startswith("/"):
                yield path


def _numbers(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # the process ended while we looked
        return []
