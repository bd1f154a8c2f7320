"""Files in use that were deleted under the name by which they were opened, but still exist under another name.

A job opens `a`, which is also linked as `b`, and deletes `a`. /proc then shows the open file as `a (deleted)`, and CRIU
looks for a file of just that name. Where there is none, CRIU makes a temporary one. It removes that again at the end of
the dump, before the files are cloned, so the clone lacks it and the restore fails (tried). A file that is only mapped
into memory is the same. On a tmpfs of the container CRIU's own name does: CRIU packs it into its image before.

So the file gets the name `a (deleted)` from us while the job is frozen. The clone then holds it. Afterwards the name is
removed again, from the job's own files and from those of a restored job.

A file of the image has no other name in our layer, although the kernel counts one: replaced_files.py sees to those.
Where the file's folder is gone too, the folder is lent as well: its name in the list ends in a slash. What cannot be
lent is refused before the freeze, by one rule (`in_the_way`): preflight, the look and the lending itself ask it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import NotCheckpointable
from perdure.image.mounts import Mount, read_mounts
from worker_agent import proc
from worker_agent.engine import replaced_files
from worker_agent.engine.inside import folder_of, nearest
from worker_agent.engine.looking import Descriptor, Mapping, mappings, one_of_each
from worker_agent.proc import command, printable

_DELETED = " (deleted)"
_LONGEST = 255
"""Bytes of a name (NAME_MAX)."""
_NO_FILES = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}
_CRIUS = {"tmpfs"}
"""Of these CRIU has the files in its own image, with the names that it gives."""


@dataclass(frozen=True)
class Nameless:
    """A file without its name, in use by a process: the link below /proc that leads to it, and what that shows."""

    pid: int
    link: str
    path: str

    @property
    def held(self) -> str:
        """For people."""
        kind, _, number = self.link.removeprefix(f"/proc/{self.pid}/").partition("/")
        return f"{'descriptor' if kind == 'fd' else 'mapping'} {number}, {self.path}"


@dataclass(frozen=True)
class Places:
    """The mounts of a container, by their numbers: a process that sees it, and what it is; `shared` are the places of
    those that are not the job's alone."""

    init_pid: int
    mounts: dict[int, tuple[int, Mount]]
    shared: frozenset[str] = frozenset()


def places(init_pid: int, pids: Iterable[int], shared: Iterable[str] = ()) -> Places:
    """The mounts of all mount namespaces that these processes are in."""
    found: dict[int, tuple[int, Mount]] = {}
    for pid in one_of_each((init_pid, *pids), "mnt"):
        for mount in read_mounts(pid):
            found.setdefault(mount.number, (pid, mount))
    return Places(init_pid, found, frozenset(shared))


def opened(descriptors: Iterable[Descriptor]) -> list[Nameless]:
    """Those of these descriptors whose files have lost their names."""
    return [
        Nameless(one.pid, f"/proc/{one.pid}/fd/{one.number}", one.link)
        for one in descriptors
        if one.link.startswith("/") and one.link.endswith(_DELETED)
    ]


def mapped(files: Iterable[Mapping]) -> Iterator[Nameless]:
    """Those of these files in memory that have lost their names."""
    for one in files:
        if one.path.endswith(_DELETED):
            link = f"/proc/{one.pid}/map_files/{int(one.start, 16):x}-{int(one.end, 16):x}"
            with contextlib.suppress(OSError):  # unmapped while we looked, or the process ended
                yield Nameless(one.pid, link, os.readlink(link))


@dataclass(frozen=True)
class _Lost:
    """A file that must be lent its old name: in the root folder of `pid`, on the mount of that number."""

    file: Nameless
    pid: int
    mount: int
    status: os.stat_result


def _lost(one: Nameless, around: Places) -> _Lost | None:
    """None where nothing is to be lent: it was closed since, has no other name, or lies where CRIU sees to it (or to
    nothing: the ring of a libaio context, a file of /proc of an ended process)."""
    with contextlib.suppress(OSError):
        file = os.open(one.link, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.readlink(one.link).endswith(_DELETED):
                return None
            status, number = os.fstat(file), proc.mount_of(file)
        finally:
            os.close(file)
        if status.st_nlink == 0 or stat.S_ISDIR(status.st_mode) or number not in around.mounts:
            return None
        pid, mount = around.mounts[number]
        return None if mount.kind in _NO_FILES | _CRIUS else _Lost(one, pid, number, status)
    return None


def in_the_way(one: Nameless, around: Places) -> str:
    """Why this file could not be lent the name that it lost; empty if nothing is in the way, or nothing is to be lent.
    Asked before the freeze, so that it is refused there."""
    lost = _lost(one, around)
    try:
        return _why_not(lost, around) if lost else ""
    except (FileNotFoundError, ProcessLookupError):  # the process ended
        return ""
    except OSError as error:
        return error.strerror or str(error)


def _why_not(lost: _Lost, around: Places) -> str:
    path = lost.file.path
    if around.mounts[lost.mount][1].point in around.shared:
        return "it lies on a shared mount, where no name of ours may stay"
    if in_its_way := _of_the_image(lost, around):
        return "" if in_its_way == errno.EEXIST else "it is a file of the image, and its folder is gone too"
    if len(os.fsencode(os.path.basename(path))) > _LONGEST:
        return "its old name is too long"
    with nearest(_root(lost.pid), path) as (folder, missing), nearest(_root(around.init_pid), path) as (same, _):
        if proc.mount_of(folder) != lost.mount or not os.path.sameopenfile(folder, same):
            return "it lies on a mount that is hidden, or in a mount namespace of its own"
        if missing:
            return ""
        with contextlib.suppress(FileNotFoundError):
            other = os.stat(os.path.basename(path), dir_fd=folder, follow_symlinks=False)
            return "" if os.path.samestat(other, lost.status) else "another file has that name"
    return ""


def _of_the_image(lost: _Lost, around: Places) -> int:
    return replaced_files.in_its_way(lost.file.link) if around.mounts[lost.mount][1].kind == "overlay" else 0


def lend(
    init_pid: int, pids: Iterable[int], files: Iterable[Nameless], layer: Path, shared: Iterable[str] = ()
) -> list[str]:
    """Link every such file of these frozen processes: what they have mapped, and these `files` (seen before the freeze,
    so that it does not grow with descriptors); the names, as paths inside the container. A file of the image gets a
    copy in the container's upper `layer` instead.

    NotCheckpointable if one cannot be linked. On any error nothing is left behind.
    """
    frozen = list(pids)
    given: list[str] = []
    around: Places | None = None
    try:
        for one in (*files, *mapped(one for pid in frozen for one in mappings(pid))):
            around = around or places(init_pid, frozen, shared)
            lost = _lost(one, around)
            if lost is not None and one.path not in given:
                _name(lost, around, layer, given)
    except BaseException:
        take_away(init_pid, reversed(given))
        raise
    return given[::-1]


def take_away(pid: int, names: Iterable[str], *, restored: bool = False) -> None:
    """Remove these names again from the container of `pid`; what is gone already is fine.

    A `restored` file goes by way of its old name where that is free, so that /proc shows what it showed before.
    """
    for path in names:
        name = os.path.basename(path.rstrip("/"))
        with contextlib.suppress(FileNotFoundError), folder_of(_root(pid), path.rstrip("/")) as folder:
            if path.endswith("/"):
                with contextlib.suppress(OSError):  # somebody else uses it by now
                    os.rmdir(name, dir_fd=folder)
                continue
            old = name.removesuffix(_DELETED)
            if restored and old != name and not _exists(old, folder):
                os.rename(name, old, src_dir_fd=folder, dst_dir_fd=folder)
                name = old
            os.unlink(name, dir_fd=folder)


def _root(pid: int) -> str:
    return f"/proc/{pid}/root"


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _name(lost: _Lost, around: Places, layer: Path, given: list[str]) -> None:
    """Link the file, unless it has the name already (two descriptors of one file). What was made is in `given`."""
    one = lost.file
    try:
        why = _why_not(lost, around)
        if not why and _of_the_image(lost, around):
            mount = around.mounts[lost.mount][1]
            replaced_files.give_a_copy(one.link, one.path.removesuffix(_DELETED), mount, layer)
        elif not why:
            _lend_folders(lost.pid, one.path, given)
            with folder_of(_root(lost.pid), one.path) as folder, contextlib.suppress(FileExistsError):
                # What exists is the same file.
                os.link(one.link, os.path.basename(one.path), dst_dir_fd=folder, follow_symlinks=True)
                given.append(one.path)
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        said = f"process {one.pid} ({command(one.pid)}) has {one.path} in use, which cannot be named again: {why}. "
        raise NotCheckpointable(printable(said) + "Keep the name by which it was opened, or close it.", "names")


def _lend_folders(pid: int, path: str, given: list[str]) -> None:
    parts = os.path.dirname(path).strip("/").split("/")
    for place in ("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1) if parts[0]):
        with folder_of(_root(pid), place) as folder:
            if not _exists(os.path.basename(place), folder):
                os.mkdir(os.path.basename(place), 0o700, dir_fd=folder)
                given.append(place + "/")
