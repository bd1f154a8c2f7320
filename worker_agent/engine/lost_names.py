"""Open files that were deleted under the name by which they were opened, but still exist under another name.

A job opens `a`, which is also linked as `b`, and deletes `a`. /proc then shows the open file as `a (deleted)`, and CRIU
looks for a file of just that name. Where there is none, CRIU makes a temporary one. It removes that again at the end of
the dump, before the files are cloned, so the clone lacks it and the restore fails (tried).

So the file gets the name `a (deleted)` from us while the job is frozen. The clone then holds it. Afterwards the name is
removed again, from the job's own files and from those of a restored job.

Where the file's folder is gone too, the folder is lent as well: its name in the list ends in a slash. A name of more
than 245 bytes cannot be lent: with ` (deleted)` it would be longer than a name may be.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.domain.errors import NotCheckpointable
from perdure.image.mounts import Mount, parse_mountinfo
from worker_agent.engine import criu_image
from worker_agent.engine.looking import Descriptor
from worker_agent.engine.tasks import command

_DELETED = " (deleted)"
_LONGEST = 255
"""Bytes of a name (NAME_MAX)."""
_REMAP_MAGIC, _REMAP_TYPE, _LINKED = 0x59133954, 3, 0
"""CRIU, criu/include/magic.h (REMAP_FPATH_MAGIC) and images/remap-file-path.proto."""
_NO_FILES = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}


def may_be_lost(descriptor: Descriptor) -> bool:
    """Is this the descriptor of a file without its name?"""
    return descriptor.link.startswith("/") and descriptor.link.endswith(_DELETED)


def in_the_way(descriptor: Descriptor, mounts: list[Mount]) -> str:
    """Why this file, which has another name left, could not be lent the one that it lost; empty if nothing is in the
    way. Asked before the freeze, so that it is refused there."""
    if not may_be_lost(descriptor):
        return ""
    pid, path, link = descriptor.pid, descriptor.link, f"/proc/{descriptor.pid}/fd/{descriptor.number}"
    with contextlib.suppress(OSError):  # closed since
        status = os.stat(link)
        if not _has_other_names(status) or not _is_of_a_mount(pid, path, status, mounts):
            return ""
        if len(os.fsencode(os.path.basename(path))) > _LONGEST:
            return "its old name is too long"
        with _folder(pid, path) as folder:
            other = os.stat(os.path.basename(path), dir_fd=folder, follow_symlinks=False)
            return "" if os.path.samestat(other, status) else "another file has that name"
    return ""


def _has_other_names(status: os.stat_result) -> bool:
    return status.st_nlink > 0 and not stat.S_ISDIR(status.st_mode)


def missed(images: Path) -> bool:
    """Has CRIU met such a file that was lent no name? Such an image could not be restored. Blocks."""
    path = images / "remap-fpath.img"
    if not path.exists():
        return False
    entries = criu_image.entries(path.read_bytes(), _REMAP_MAGIC)
    return any(criu_image.number(criu_image.parse(entry), _REMAP_TYPE) == _LINKED for entry in entries)


def lend(pids: Iterable[int], descriptors: Iterable[Descriptor]) -> list[str]:
    """Link every such file of these frozen processes, mapped or among these `descriptors` (seen before the freeze, so
    that it does not grow with them); the names, as paths inside the container.

    NotCheckpointable if another file has that name. On any error nothing is left behind.
    """
    given: dict[str, int] = {}
    try:
        for pid, link, path in _lost(pids, descriptors):
            if path not in given:
                _name(pid, link, path, given)
    except BaseException:
        for path, pid in reversed(given.items()):
            take_away(pid, [path])
        raise
    return list(given)[::-1]


def take_away(pid: int, names: Iterable[str], *, restored: bool = False) -> None:
    """Remove these names again from the container of `pid`; what is gone already is fine.

    A `restored` file goes by way of its old name where that is free, so that /proc shows what it showed before.
    """
    for path in names:
        name = os.path.basename(path.rstrip("/"))
        with contextlib.suppress(FileNotFoundError), _folder(pid, path.rstrip("/")) as folder:
            if path.endswith("/"):
                with contextlib.suppress(OSError):  # somebody else uses it by now
                    os.rmdir(name, dir_fd=folder)
                continue
            old = name.removesuffix(_DELETED)
            if restored and old != name and not _exists(old, folder):
                os.rename(name, old, src_dir_fd=folder, dst_dir_fd=folder)
                name = old
            os.unlink(name, dir_fd=folder)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _lost(pids: Iterable[int], descriptors: Iterable[Descriptor]) -> Iterator[tuple[int, str, str]]:
    """Links below /proc to open or mapped files without their name but with others: process, link, what it shows."""
    places = [(one.pid, f"/proc/{one.pid}/fd/{one.number}") for one in descriptors]
    for pid in pids:
        places += [(pid, f"/proc/{pid}/map_files/{name}") for name in os.listdir(f"/proc/{pid}/map_files")]
    mounts: dict[int, list[Mount]] = {}
    for pid, link in places:
        with contextlib.suppress(FileNotFoundError):  # closed since
            path = os.readlink(link)
            if not (path.startswith("/") and path.endswith(_DELETED)):
                continue
            status = os.stat(link)
            if _has_other_names(status):
                table = mounts[pid] if pid in mounts else mounts.setdefault(pid, _mounts(pid))
                if _is_of_a_mount(pid, path, status, table):
                    yield pid, link, path


def _mounts(pid: int) -> list[Mount]:
    return list(parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text("utf-8", "surrogateescape")))


def _is_of_a_mount(pid: int, path: str, status: os.stat_result, mounts: list[Mount]) -> bool:
    """Does the file lie on a file system that keeps files, in the container? The ring of a libaio context
    (`/[aio] (deleted)`) does not, nor does a file of /proc of a process that has ended, which CRIU saves otherwise."""
    over = [mount for mount in mounts if path.startswith(mount.point.rstrip("/") + "/")]
    mount = max(over, key=lambda mount: len(mount.point), default=None)
    if mount is None or mount.kind in _NO_FILES:
        return False
    if os.path.dirname(path) != "/":
        return True
    return status.st_dev == os.stat(f"/proc/{pid}/root").st_dev


def _name(pid: int, link: str, path: str, given: dict[str, int]) -> None:
    """Link the file, unless it has the name already (two descriptors of one file). What was made is in `given`."""
    name = os.path.basename(path)
    try:
        _lend_folders(pid, path, given)
        with _folder(pid, path) as folder:
            try:
                os.link(link, name, dst_dir_fd=folder, follow_symlinks=True)
                given[path] = pid
            except FileExistsError:
                other = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not os.path.samestat(other, os.stat(link)):
                    raise
    except OSError as error:
        said = f"process {pid} ({command(pid)}) has {path} open, which cannot be named again: {error.strerror}. "
        said += "Keep the name by which it was opened, or close it."
        raise NotCheckpointable(said, "names") from error


def _lend_folders(pid: int, path: str, given: dict[str, int]) -> None:
    parts = os.path.dirname(path).strip("/").split("/")
    for place in ("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1) if parts[0]):
        with _folder(pid, place) as folder:
            if not _exists(os.path.basename(place), folder):
                os.mkdir(os.path.basename(place), 0o700, dir_fd=folder)
                given[place + "/"] = pid


@contextlib.contextmanager
def _folder(pid: int, path: str) -> Iterator[int]:
    """The folder of a path inside the container, opened part by part: what the job made must lead us nowhere else."""
    folder = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in os.path.dirname(path).split("/"):
            if part:
                deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = deeper
        yield folder
    finally:
        os.close(folder)
