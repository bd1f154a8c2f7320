"""Rolling the live trees of a job root back to a checkpoint's clones, **in place**: each file keeps its inode number.

SQLite and others compare inode numbers, and a tree that was copied back kills such jobs. So every live file and
folder is first moved aside under its inode number, then the tree is built again from the clone: where the manifest
noted a number that still exists, that very inode gets the clone's content back; the rest is made anew. A file that
was deleted since the checkpoint therefore gets a new number: the one gap.

It can be repeated after it was cut short at any moment, with the same or another checkpoint: what was moved aside
is found again by its number.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from perdure.domain.errors import JobRootBusy
from perdure.image.disk import copy_content
from perdure.image.files import FILES, LATER_TREES, TREES, Entry, walk
from perdure.image.manifest import encode_name
from perdure.image.mounts import delete_tree, mounts_below

ASIDE = "rollback"
"""Folder of a job root that holds inodes while they have no place in a tree."""


def roll_back(job_root: Path, checkpoint: Path, inodes: dict[str, int]) -> None:
    """Make the live trees equal to the checkpoint's clones. No process of the job may run.

    JobRootBusy if something is mounted inside a tree; OSError as the file system gives it.
    """
    for tree, place in TREES.items():
        live, aside = job_root / place, job_root / ASIDE / tree
        if mounts_below(live):
            raise JobRootBusy(f"something is still mounted below {live}; it was not rolled back")
        live.mkdir(parents=True, exist_ok=True)
        aside.mkdir(parents=True, exist_ok=True)
        _set_aside(live, aside)
        if tree not in LATER_TREES or (checkpoint / FILES / tree).exists():
            _build(checkpoint / FILES / tree, live, aside, inodes, tree)
    delete_tree(job_root / ASIDE)


def _set_aside(live: Path, aside: Path) -> None:
    """Move every inode out of the tree to `aside/<number>`, folders last and deepest first."""
    folders = []
    for entry in list(walk(live)):
        if entry.kind == stat.S_IFDIR:
            folders.append(entry)
        else:
            _move(live / entry.path, aside / str(entry.status.st_ino))
    for entry in reversed(folders):
        os.rename(live / entry.path, aside / str(entry.status.st_ino))


def _move(path: Path, kept: Path) -> None:
    if os.path.lexists(kept):  # another name of the same file: hard links are made again from the clone
        os.unlink(path)
    else:
        os.rename(path, kept)


def _build(clone: Path, live: Path, aside: Path, inodes: dict[str, int], tree: str) -> None:
    folders = [Entry("", os.lstat(clone))]
    first_names: dict[int, Path] = {}
    for entry in walk(clone):
        source, target = clone / entry.path, live / entry.path
        first = first_names.get(entry.status.st_ino)
        if first is not None:
            os.link(first, target, follow_symlinks=False)
            continue
        if entry.kind == stat.S_IFDIR:
            folders.append(entry)
        elif entry.status.st_nlink > 1:
            first_names[entry.status.st_ino] = target
        noted = inodes.get(f"{tree}/{encode_name(entry.path)}", 0)
        _place(entry, source, target, aside / str(noted))
        if entry.kind != stat.S_IFDIR:
            _copy_attributes(source, target, entry.status)
    # A folder's times change while it is filled.
    for entry in reversed(folders):
        _copy_attributes(clone / entry.path, live / entry.path, entry.status)


def _place(entry: Entry, source: Path, target: Path, kept: Path) -> None:
    """Put the noted inode back at `target` if it still exists and can carry the entry, else make a new one."""
    if _reusable(entry, source, kept):
        os.rename(kept, target)
    elif entry.kind == stat.S_IFDIR:
        os.mkdir(target, 0o700)
    elif entry.kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    elif entry.kind != stat.S_IFREG:
        os.mknod(target, entry.kind | 0o600, entry.status.st_rdev)
    if entry.kind == stat.S_IFREG:
        _fill(source, target)


def _reusable(entry: Entry, source: Path, kept: Path) -> bool:
    try:
        status = os.lstat(kept)
    except FileNotFoundError:
        return False
    if stat.S_IFMT(status.st_mode) != entry.kind or status.st_rdev != entry.status.st_rdev:
        return False
    return entry.kind != stat.S_IFLNK or os.readlink(kept) == os.readlink(source)


def _fill(source: Path, target: Path) -> None:
    # Truncated first: sharing extents with a longer file is refused (EINVAL).
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = os.open(target, flags, 0o600)
        try:
            copy_content(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_attributes(source: Path, target: Path, status: os.stat_result) -> None:
    # In this order: a change of owner clears suid bits and capabilities, a change of mode rewrites the ACL.
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    wanted = _attributes(source)
    for name in _attributes(target).keys() - wanted.keys():
        os.removexattr(target, name, follow_symlinks=False)
    for name, value in wanted.items():
        os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
