"""The files of a checkpoint as entries, and entries as files again.

Taken along: all of the checkpoint's folder but its manifest, which travels in the stored one, and what the job had
written to its output by then. Names, owners, modes, times, links, devices and extended attributes (the overlay's own
marks among them) come back as they were: the inventory's digest in the manifest says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.files import walk
from perdure.image.manifest import MANIFEST, decode_name, encode_name
from perdure.stores.stored_manifest import CHECKPOINT, LOG, Entry

_NOT_TAKEN = {MANIFEST, f"{MANIFEST}.new", "restoring"}
_READ_FIRST = ("inventory", "pstree", "seccomp", "ids-", "files", "core-", "mm-", "pagemap-", "fs-", "pages-")
"""Images in the order in which CRIU opens them at a restore (criu/cr-restore.c, criu/pagemap.c of 4.1)."""


def scan(job_root: Path, folder: Path, output: dict[str, int]) -> Iterator[tuple[Entry, Path, int]]:
    """The entries of a checkpoint that lies in `folder`, without content yet; with each the file that has it, and how
    many of its bytes count. `output`: bytes of `stdout` and `stderr` that belong to the checkpoint."""
    for name, size in output.items():
        path = job_root / "log" / name
        status = os.lstat(path)
        if status.st_size < size:
            raise ImageInvalid(f"{path} has {status.st_size} bytes, the checkpoint was taken at {size}")
        yield _entry(f"{LOG}/{name}", status, path, size), path, size
    links: dict[int, int] = {}
    count = len(output)
    for found in walk(folder):
        if found.path.partition("/")[0] in _NOT_TAKEN:
            continue
        path, status = folder / found.path, found.status
        encoded = f"{CHECKPOINT}/{encode_name(found.path)}"
        known = links.get(status.st_ino)
        if known is not None:
            yield Entry(encoded, status.st_mode, link=known), path, 0
        else:
            if status.st_nlink > 1 and found.kind != stat.S_IFDIR:
                links[status.st_ino] = count
            yield _entry(encoded, status, path, status.st_size), path, status.st_size
        count += 1


def _entry(encoded: str, status: os.stat_result, path: Path, size: int) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    return Entry(
        path=encoded,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        atime=status.st_atime_ns,
        mtime=status.st_mtime_ns,
        size=size if kind == stat.S_IFREG else 0,
        device=status.st_rdev,
        target=encode_name(os.readlink(path)) if kind == stat.S_IFLNK else "",
        extended={name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names},
    )


def reading_order(entry: Entry) -> tuple[int, str]:
    """A key by which memory images come first, as CRIU reads them."""
    top, _, name = entry.path.removeprefix(f"{CHECKPOINT}/").partition("/")
    if not entry.path.startswith(f"{CHECKPOINT}/images/"):
        return len(_READ_FIRST) + (2 if top == "files" else 1), entry.path
    first = (place for place, begin in enumerate(_READ_FIRST) if name.startswith(begin))
    return next(first, len(_READ_FIRST)), entry.path


class Laying:
    """Entries as files below `job_root`, the checkpoint in `folder`. What was there is not touched: both must be ours
    alone, and nothing of the checkpoint may be there yet."""

    def __init__(self, job_root: Path, folder: Path) -> None:
        self._tops = {CHECKPOINT: folder, LOG: job_root / "log"}

    def path(self, entry: Entry) -> Path:
        """Where the entry belongs. Its path was found safe when the manifest was read."""
        top, _, rest = entry.path.partition("/")
        return self._tops[top] / decode_name(rest)

    def make(self, entries: list[Entry]) -> None:
        """Everything but contents; files have their size, all of it a hole."""
        for entry in entries:
            path = self.path(entry)
            if entry.link is not None:
                os.link(self.path(entries[entry.link]), path, follow_symlinks=False)
            elif entry.kind == stat.S_IFDIR:
                os.makedirs(path, 0o700, exist_ok=entry.path.count("/") == 1)
            elif entry.kind == stat.S_IFLNK:
                os.symlink(decode_name(entry.target), path)
            elif entry.kind == stat.S_IFREG:
                again = os.O_TRUNC if entry.path.startswith(f"{LOG}/") else os.O_EXCL
                flags = os.O_WRONLY | os.O_CREAT | again | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o600)
                try:
                    os.truncate(descriptor, entry.size)
                finally:
                    os.close(descriptor)
            else:
                os.mknod(path, entry.kind | 0o600, entry.device)

    def finish(self, entries: list[Entry]) -> None:
        """Owners, modes, attributes, times, once all content is there; folders last and deepest first."""
        for entry in entries[::-1]:
            if entry.link is None and entry.kind != stat.S_IFDIR:
                self._attributes(entry)
        for entry in entries[::-1]:
            if entry.kind == stat.S_IFDIR:
                self._attributes(entry)

    def _attributes(self, entry: Entry) -> None:
        # In this order: a change of owner clears suid bits and capabilities, a change of mode rewrites the ACL.
        path = self.path(entry)
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != stat.S_IFLNK:
            os.chmod(path, stat.S_IMODE(entry.mode))
        for name, value in entry.extended.items():
            os.setxattr(path, name, bytes.fromhex(value), follow_symlinks=False)
        os.utime(path, ns=(entry.atime, entry.mtime), follow_symlinks=False)
