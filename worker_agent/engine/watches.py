"""Watched files and folders (inotify) on the container's root: CRIU is told where to find them.

On an overlay a watch cannot be reopened by its handle, so CRIU looks the inode up by path, but only where it is told
to (`irmap-scan-path`; `/` itself fails). `tail -f` is the common case. On tmpfs and on the data folder nothing is
needed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.image.files import TREES, walk

_WATCH = re.compile(r"^inotify wd:\w+ ino:([0-9a-f]+) sdev:([0-9a-f]+) ", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9_./@:+,=~-]+")
"""Paths that CRIU's options file takes as they are; others stay unfound, and the dump says so."""


def watched_paths(pids: Iterable[int], init_pid: int, job_root: Path) -> list[str]:
    """Paths inside the container of what its processes watch on its root file system, as far as they can be found.

    Looked for in what the job wrote to its root layer, and where its processes work or have files open.
    """
    pids = list(pids)
    root = Path(f"/proc/{init_pid}/root")
    device = os.stat(root).st_dev
    wanted = {inode for pid in pids for inode in _inodes(pid, device)}
    found: dict[int, str] = {}
    if wanted:
        for path in _candidates(pids, job_root):
            with contextlib.suppress(OSError):  # deleted, or only an overlay's whiteout
                status = os.lstat(f"{root}/{path}")
                if status.st_ino in wanted and status.st_dev == device and _PLAIN.fullmatch(path):
                    found.setdefault(status.st_ino, path)
            if len(found) == len(wanted):
                break
    return sorted(found.values())


def _inodes(pid: int, device: int) -> Iterator[int]:
    for number in _numbers(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed while we looked
            if os.readlink(f"/proc/{pid}/fd/{number}") != "anon_inode:inotify":
                continue
            for inode, sdev in _WATCH.findall(Path(f"/proc/{pid}/fdinfo/{number}").read_text()):
                place = int(sdev, 16)  # the kernel's own encoding: 20 bits of minor number
                if os.makedev(place >> 20, place & 0xFFFFF) == device:
                    yield int(inode, 16)


def _candidates(pids: list[int], job_root: Path) -> Iterator[str]:
    told = set()
    for pid in pids:
        for kind in ("cwd", "fd"):
            for path in _links(pid, kind):
                for place in (path, os.path.dirname(path)):
                    if place not in told:
                        told.add(place)
                        yield place
    for entry in walk(job_root / TREES["layer"], changing=True):
        yield "/" + entry.path


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
