"""Checkpoints to keep in a store: job roots as an engine leaves them, and how to tell that one came back as it was."""

from __future__ import annotations

import functools
import os
import random
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest, StdioOffsets
from perdure.image.checksums import digest_images
from perdure.image.files import FILES, TREES, digest_clones, walk
from perdure.image.pages.index import INDEX, PageIndex
from perdure.image.pages.prints import PAGE, print_of
from perdure.image.store import DirectoryStore

WHEN = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
JOB = "5a0c1b9e-0f3d-4f3a-9d8b-2f1f6f1a7c11"
OUTPUT = b"a line of the job's output\n" * 100


def text_pages(seed: int, count: int) -> bytearray:
    """Pages of words, each page another one."""
    return bytearray(_text(seed, count))


@functools.cache
def _text(seed: int, count: int) -> bytes:
    chance = random.Random(seed)
    words = [b"ACGT"[chance.randrange(4) : chance.randrange(5, 9)] * 4 + b" gene " for _ in range(64)]
    return b"".join(b"".join(chance.choices(words, k=600))[:4096].ljust(4096, b".") for _ in range(count))


class JobRoot:
    """A job root on which checkpoints are taken."""

    def __init__(
        self, root: Path, job_id: str = JOB, seed: int = 1, memory_pages: int = 600, sparse_mib: int = 20
    ) -> None:
        self.root, self.job_id, self._sparse_mib = root, job_id, sparse_mib
        (root / "checkpoints").mkdir(parents=True)
        (root / "log").mkdir()
        (root / "log" / "stdout").write_bytes(OUTPUT)
        (root / "log" / "stderr").write_bytes(b"")
        self.memory = text_pages(seed, memory_pages)
        self.store = DirectoryStore(root / "checkpoints")

    def take(
        self,
        *,
        epoch: int = 1,
        number: int | None = None,
        kind: CheckpointKind = CheckpointKind.PERIODIC,
        seed: int | None = None,
    ) -> Manifest:
        """A checkpoint of what the memory and the files are now, committed on the job root. With a `seed` its memory
        has a page index."""
        if number is not None:
            (self.root / "checkpoints" / "last").write_text(str(number - 1))
        folder = self.store.begin()
        (folder / "images" / "pages-1.img").write_bytes(self.memory)
        with (folder / "images" / "pages-2.img").open("wb") as sparse:
            sparse.write(b"x" * 5000)
            sparse.seek(self._sparse_mib << 19)
            sparse.write(b"end")
            sparse.truncate(self._sparse_mib << 20)
        for name, content in {"inventory.img": b"inventory", "core-1.img": b"core" * 300, "empty.img": b""}.items():
            (folder / "images" / name).write_bytes(content)
        for tree in TREES:
            _fill(folder / FILES / tree)
        manifest = Manifest(
            job_id=self.job_id,
            number=int(folder.name),
            kind=kind,
            epoch=epoch,
            attempt=1,
            instance_id="i-1",
            frozen_at=WHEN,
            committed_at=WHEN,
            container_id="c",
            images=digest_images(folder, [] if seed is None else [self._index(folder, seed)]),
            files_digest=digest_clones(folder),
            stdio=StdioOffsets(stdout=len(OUTPUT) - 27, stderr=0),
            inodes={"layer/etc": 17},
        )
        self.store.put(manifest)
        return manifest

    def _index(self, folder: Path, seed: int) -> ImageFile:
        (folder / INDEX).mkdir()
        prints = [print_of(bytes(self.memory[at : at + PAGE]), seed) for at in range(0, len(self.memory), PAGE)]
        name = f"{INDEX}/pages-1.img.index"
        digest = PageIndex(seed, b"".join(prints), bytes(8 * len(prints))).write(folder / name)
        return ImageFile(path="images/pages-1.img", size=len(self.memory), blake3=digest, index=name)

    def folder(self, number: int) -> Path:
        return self.store.folder(number)


def _fill(folder: Path) -> None:
    """One of each kind of thing that a job leaves in a file system."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "file").write_bytes(b"content\n" * 700)
    (folder / "etc" / "file").chmod(0o4755)
    os.chown(folder / "etc" / "file", 1000, 1001)
    os.chmod(folder / "etc" / "file", 0o4755)
    (folder / b"n\xffm\xe9 with %".decode("utf-8", "surrogateescape")).write_bytes(b"named by bytes")
    (folder / "name\nwith a line").write_bytes(b"")
    os.link(folder / "etc" / "file", folder / "another name")
    os.symlink("../../outside", folder / "etc" / "link")
    os.mknod(folder / "whiteout", stat.S_IFCHR, 0)
    os.mkfifo(folder / "fifo")
    with (folder / "hole").open("wb") as file:
        file.truncate(1 << 20)
    os.setxattr(folder / "etc", "trusted.overlay.opaque", b"y")
    os.setxattr(folder / "etc" / "file", "user.colour", b"\0blue")
    for path in (folder / "etc" / "file", folder / "etc"):
        os.utime(path, ns=(1_600_000_000_123_456_789, 1_600_000_001_987_654_321))


def look(root: Path) -> dict[str, Any]:
    """All that can be told of a tree, holes and times included."""
    found: dict[str, Any] = {}
    names: dict[int, str] = {}
    for entry in walk(root):
        path, status = root / entry.path, entry.status
        content = path.read_bytes() if entry.kind == stat.S_IFREG else os.readlink(path) if path.is_symlink() else ""
        extended = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        first = names.setdefault(status.st_ino, entry.path)
        facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, first)
        found[entry.path] = (*facts, content, extended)
    return found


def new_root(root: Path) -> Path:
    """The job root of another node: empty."""
    (root / "checkpoints").mkdir(parents=True)
    (root / "log").mkdir()
    return root


__all__ = ["JOB", "OUTPUT", "JobRoot", "look", "new_root", "text_pages"]
