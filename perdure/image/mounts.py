"""The mount table of this mount namespace, and deletion that never reaches through a mount point.

A killed restore leaves every cgroup hierarchy of the machine mounted below its work directory, and a careless
recursive delete there removed all empty cgroups. Hence: everything that deletes folders goes through `delete_tree`.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import CommandFailed, JobRootBusy

Stop = Callable[[], bool]
"""Says whether work that can wait must make room now."""
_POLL = 0.01
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `options` are the file system's own (overlay's layers are among them); `device` is its
    number as `major:minor`, `root` the folder of it that is seen at `point`, and `number` the mount's own."""

    point: str
    kind: str
    source: str
    options: str
    device: str = ""
    root: str = "/"
    number: int = 0


def _plain(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal escapes (proc(5))."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a mountinfo table, in its order: a later one at the same point lies over an earlier one."""
    mounts = []
    for line in text.removesuffix("\n").split("\n") if text else ():  # no other character ends a line of the kernel's
        place, _, system = line.partition(" - ")
        fields, (kind, source, options) = place.split(" "), system.split(" ", 2)
        number, device, root, point = int(fields[0]), fields[2], _plain(fields[3]), _plain(fields[4])
        mounts.append(Mount(point, kind, _plain(source), options, device, root, number))
    return mounts


def read_mounts(pid: int = 0) -> list[Mount]:
    """The mounts that this process sees, or that another one does; none if that is gone."""
    try:
        table = Path(f"/proc/{pid or 'self'}/mountinfo").read_bytes()
    except OSError:
        if pid:
            return []
        raise
    return parse_mountinfo(table.decode("utf-8", "surrogateescape"))


def mounts_below(folder: Path, *, itself: bool = False) -> list[Mount]:
    """The mounts below `folder` (and at it, with `itself`), in the order in which they can be unmounted."""
    top = os.path.realpath(folder)
    inside = [
        mount
        for mount in read_mounts()
        if mount.point.startswith(top.rstrip("/") + "/") or (itself and mount.point == top)
    ]
    return inside[::-1]


def delete_tree(path: Path, *, limit_seconds: float = 600.0, stop: Stop | None = None) -> None:
    """Delete a file or a folder with all it holds; nothing happens if it is not there.

    JobRootBusy, with nothing deleted, if anything is mounted at or below it; CommandFailed if the rest fails. Once
    `stop` says True it ends within milliseconds with JobRootBusy, and a part is left.
    """
    if not os.path.lexists(path):
        return
    mounted = [] if path.is_symlink() else mounts_below(path, itself=True)
    if mounted:
        raise JobRootBusy(f"{path} was not deleted: {mounted[0].point} is still mounted; unmount it first")
    # rm copes with deep trees and long paths; its own check of the device is the second net below the one above.
    argv = ["rm", "-rf", "--one-file-system", "--preserve-root=all", "--", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            said = _end_of(process, time.monotonic() + limit_seconds, stop)
        except BaseException:
            process.kill()
            raise
    if said is None:
        raise JobRootBusy(f"{path} is deleted in part only: the job root is wanted for a checkpoint")
    if process.returncode != 0:
        raise CommandFailed(argv, process.returncode, said.decode("utf-8", "replace"))


def _end_of(process: subprocess.Popen[bytes], end: float, stop: Stop | None) -> bytes | None:
    """What it said in the end; None once it was stopped. TimeoutExpired at `end` (monotonic seconds)."""
    while True:
        left = end - time.monotonic()
        try:
            return process.communicate(timeout=left if stop is None else min(left, _POLL))[1]
        except subprocess.TimeoutExpired:
            if stop is None or time.monotonic() > end:
                raise
            if stop():
                process.kill()
                return None
