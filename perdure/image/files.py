"""The file half of a checkpoint: the job's writable layer and its data folder, cloned while the job stands still.

A job root's live trees and their clones below `<checkpoint>/files/` are paired by the names in TREES; the same names
begin the keys of a manifest's `inodes`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from perdure.domain.errors import ImageInvalid, JobRootBusy
from perdure.image.manifest import encode_name

FILES = "files"
TREES = {"layer": "layer/upper", "data": "data", "volumes": "volumes"}
"""Name of a tree → where it lives on the job root."""
LONGEST_PATH = 3800
"""Bytes of a path below a tree. Linux takes 4,096 in one word, and a clone's begins with that of its checkpoint."""
_LONGEST_NAME = 255
LATER_TREES = {"volumes"}
"""Trees that the first checkpoints did not have: one that is missing was empty."""


@dataclass(frozen=True)
class Entry:
    """One file or folder of a tree: its path relative to the tree's root, and its own (not its target's) status."""

    path: str
    status: os.stat_result

    @property
    def kind(self) -> int:
        """The S_IFMT part of the mode."""
        return stat.S_IFMT(self.status.st_mode)


def walk(root: Path, *, changing: bool = False) -> Iterator[Entry]:
    """Everything below `root`, each folder before what it holds, in a stable order; symbolic links are not followed.

    With `changing`, the tree is in use and what vanishes meanwhile is left out. JobRootBusy when it would enter another
    file system: nothing of ours is ever mounted inside a tree.
    """
    device = os.lstat(root).st_dev
    vanishing = (FileNotFoundError, NotADirectoryError) if changing else ()
    folders = [""]
    while folders:
        folder = folders.pop()
        names: list[os.DirEntry[str]] = []
        with contextlib.suppress(*vanishing), os.scandir(root / folder) as listing:
            names = sorted(listing, key=lambda item: item.name)
        for item in names:
            try:
                status = item.stat(follow_symlinks=False)
            except vanishing:
                continue
            path = f"{folder}/{item.name}" if folder else item.name
            if status.st_dev != device:
                raise JobRootBusy(f"{root / path} lies on another file system: something is mounted there")
            yield Entry(path, status)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)


def long_paths(root: Path, most: int = LONGEST_PATH) -> Iterator[str]:
    """The paths below `root` of more than `most` bytes, one of each folder at most and not what lies below them. The
    tree may be in use.

    A folder without folders in it is not read: where that is known (a link count of 2), and its files' names fit.
    """
    folders = [("", 0)]
    while folders:
        folder, size = folders.pop()
        with contextlib.suppress(OSError):  # it is gone
            links = os.lstat(root / folder).st_nlink
            if links == 2 and size + 1 + _LONGEST_NAME <= most:
                continue
            with os.scandir(root / folder) as listing:
                for item in listing:
                    path = f"{folder}/{item.name}" if folder else item.name
                    if len(os.fsencode(path)) > most:
                        yield path
                        break
                    if item.is_dir(follow_symlinks=False):
                        folders.append((path, len(os.fsencode(path))))


def clone_command(source: Path, target: Path) -> list[str]:
    """The program that clones a tree to the new folder `target`: contents by reflink where the file system can,
    with owners, modes, times, hard links and extended attributes (overlay's own among them).

    A program and not a function: it is fast with many small files, and the caller's time limit can end it.
    """
    keep = "--preserve=mode,ownership,timestamps,links,xattr"
    how = ["--recursive", "--no-dereference", "--reflink=auto", "--sparse=auto", "--one-file-system"]
    return ["cp", *how, keep, "--no-target-directory", "--", str(source), str(target)]


def note_inodes(job_root: Path) -> dict[str, int]:
    """The inode number of each live file and folder, by `<tree>/<path>` as manifests spell it."""
    return {
        f"{tree}/{encode_name(entry.path)}": entry.status.st_ino
        for tree, live in TREES.items()
        for entry in walk(job_root / live)
    }


def digest_clones(checkpoint: Path) -> str:
    """BLAKE3 over the inventory of the cloned trees: names, types, modes, owners, sizes, link targets, times.

    ImageInvalid if a tree is missing. Contents are not read: they are the file system's own until they leave it.
    """
    digest = blake3()
    for tree in TREES:
        clone = checkpoint / FILES / tree
        if tree in LATER_TREES and not clone.exists():
            continue  # had it held anything, the digest would be another
        if not clone.is_dir():
            raise ImageInvalid(f"{clone} is missing: the checkpoint's files are gone")
        for entry in walk(clone):
            status = entry.status
            size = status.st_size if entry.kind in (stat.S_IFREG, stat.S_IFLNK) else 0
            target = encode_name(os.readlink(clone / entry.path)) if entry.kind == stat.S_IFLNK else ""
            fields = (tree, encode_name(entry.path), oct(status.st_mode), status.st_uid, status.st_gid, size)
            digest.update(repr((*fields, status.st_mtime_ns, status.st_rdev, target)).encode())
    return digest.hexdigest()


def verify_clones(checkpoint: Path, wanted: str) -> None:
    """ImageInvalid unless the cloned trees are those that were committed."""
    if digest_clones(checkpoint) != wanted:
        raise ImageInvalid(f"{checkpoint / FILES} has changed since it was committed: files are missing or altered")
