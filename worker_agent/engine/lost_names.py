"""Open files that were deleted under the name by which they were opened, but still exist under another name.

A job opens `a`, which is also linked as `b`, and deletes `a`. /proc then shows the open file as `a (deleted)`, and CRIU
looks for a file of just that name. Where there is none, CRIU makes a temporary one. It removes that again at the end of
the dump, before the files are cloned, so the clone lacks it and the restore fails (tried).

So the file gets the name `a (deleted)` from us while the job is frozen. The clone then holds it. Afterwards the name is
removed again, from the job's own files and from those of a restored job.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from perdure.domain.errors import NotCheckpointable
from worker_agent.engine.tasks import command

_DELETED = " (deleted)"


def lend(pids: Iterable[int]) -> list[str]:
    """Link every such file of these frozen processes; the names, as paths inside the container.

    NotCheckpointable if another file has that name. On any error nothing is left behind.
    """
    given: dict[str, int] = {}
    try:
        for pid in pids:
            for link, path in _lost(pid):
                if path not in given and _name(pid, link, path):
                    given[path] = pid
    except BaseException:
        for path, pid in given.items():
            take_away(pid, [path])
        raise
    return list(given)


def take_away(pid: int, names: Iterable[str], *, restored: bool = False) -> None:
    """Remove these names again from the container of `pid`; what is gone already is fine.

    A `restored` file goes by way of its old name where that is free, so that /proc shows what it showed before.
    """
    for path in names:
        name = os.path.basename(path)
        with contextlib.suppress(FileNotFoundError), _folder(pid, path) as folder:
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


def _lost(pid: int) -> Iterator[tuple[str, str]]:
    """Links below /proc to open or mapped files of `pid` without their name but with others, and what they show."""
    for kind in ("fd", "map_files"):
        for number in os.listdir(f"/proc/{pid}/{kind}"):
            link = f"/proc/{pid}/{kind}/{number}"
            path = os.readlink(link)
            if path.startswith("/") and path.endswith(_DELETED) and os.stat(link).st_nlink > 0:
                yield link, path


def _name(pid: int, link: str, path: str) -> bool:
    """Link the file. False if it has the name already (two descriptors of one file)."""
    name = os.path.basename(path)
    try:
        with _folder(pid, path) as folder:
            try:
                os.link(link, name, dst_dir_fd=folder, follow_symlinks=True)
            except FileExistsError:
                other = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if os.path.samestat(other, os.stat(link)):
                    return False
                raise
    except OSError as error:
        said = f"process {pid} ({command(pid)}) has {path} open, which cannot be named again: {error.strerror}"
        raise NotCheckpointable(said, "names") from error
    return True


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
