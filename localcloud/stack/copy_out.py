"""Copies what a job wrote out of a folder of its making. The job chose every name and link in there."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from perdure.domain.errors import StackError


def copy_out(base: Path, path: str, destination: Path) -> list[str]:
    """Copy the file or folder `path` (normalised, relative to `base`) to `destination`; links are copied as links.

    No symbolic link is followed, in the source or where an earlier copy put one; an overlay's whiteouts stand for files
    that the job deleted. Returns a remark for each thing that is neither file, folder nor link. Raises StackError when
    there is no such file.
    """
    remarks: list[str] = []
    with _opened(base, path) as (folder, name):
        kind = _kind(folder, name)
        if kind is None or _is_whiteout(kind):
            raise StackError(f"the job left no file {path.strip('/') or '.'!r}")
        _copy(folder, name, kind, destination, remarks)
    return remarks


@contextlib.contextmanager
def _opened(base: Path, path: str) -> Iterator[tuple[int, str]]:
    """The folder that holds the last name of `path`, as a descriptor, and that name."""
    *folders, name = [part for part in path.split("/") if part] or ["."]
    with contextlib.ExitStack() as held:
        current = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        held.callback(os.close, current)
        for part in folders:
            try:
                current = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            except OSError:
                raise StackError(
                    f"the job left no file {path.strip('/')!r} (symbolic links are not followed)"
                ) from None
            held.callback(os.close, current)
        yield current, name


def _copy(folder: int, name: str, kind: os.stat_result, destination: Path, remarks: list[str]) -> None:
    if destination.is_symlink():
        destination.unlink()  # never write through a link that an earlier copy may have brought
    if stat.S_ISDIR(kind.st_mode):
        _copy_folder(folder, name, destination, remarks)
    elif stat.S_ISREG(kind.st_mode):
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        with open(source, "rb") as reader, destination.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
        destination.chmod(stat.S_IMODE(kind.st_mode) & 0o777)
    elif stat.S_ISLNK(kind.st_mode):
        destination.symlink_to(os.readlink(name, dir_fd=folder))
    elif not _is_whiteout(kind):
        remarks.append(f"{name} is neither a file, a folder nor a link and was left out")


def _copy_folder(folder: int, name: str, destination: Path, remarks: list[str]) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    current = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for entry in sorted(os.listdir(current)):
            kind = _kind(current, entry)
            if kind is not None:  # a running job may have deleted it just now
                _copy(current, entry, kind, destination / entry, remarks)
    finally:
        os.close(current)


def _kind(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(kind: os.stat_result) -> bool:
    return stat.S_ISCHR(kind.st_mode) and kind.st_rdev == 0
