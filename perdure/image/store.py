"""Where checkpoints live: one small interface with its contract, and the directory store on the job root."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from perdure.domain.checkpoints import Manifest, ManifestHead, ParentLink
from perdure.domain.errors import ImageInvalid, JobRootBusy
from perdure.image.chain import IMAGES, linked_parent, verify_links
from perdure.image.checksums import verify_images
from perdure.image.disk import fsync_folder
from perdure.image.files import FILES, verify_clones
from perdure.image.manifest import BASE, MANIFEST, read_head, read_manifest, write_manifest
from perdure.image.mounts import Stop, delete_tree

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
"""A folder's name as `begin` writes it; anything else in the store is not ours."""


class CheckpointStore(ABC):
    """The checkpoints of one job, by number. Calls block; the caller holds the job root's lock."""

    @abstractmethod
    def begin(self) -> Path:
        """A new, empty folder for the next checkpoint, named by its number, with `images/` and `files/` in it.

        A number is never given twice, whatever was deleted since. Until `put`, the folder is torn: not a checkpoint.
        """

    @abstractmethod
    def put(self, manifest: Manifest) -> str:
        """Commit what lies in the folder that `begin` gave for `manifest.number`; the manifest's BLAKE3 (hex), by which
        a later checkpoint may name it as its parent.

        When it returns the checkpoint survives a power loss; when it raises, or the power fails before, either the
        whole checkpoint exists or none. The folder's own bytes must be durable before.
        """

    @abstractmethod
    def committed(self) -> list[ManifestHead]:
        """The committed checkpoints with a readable manifest, oldest first. Their bytes are not verified.

        Every manifest is read: who wants one checkpoint asks for it by `head` or `open`."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """The numbers of all committed checkpoints, oldest first, those with a damaged manifest included."""

    @abstractmethod
    def ancestors(self, number: int) -> list[int]:
        """The checkpoints whose memory images this one builds on, nearest first, as its images name them."""

    @abstractmethod
    def open(self, number: int) -> Manifest:
        """The manifest of one committed checkpoint. ImageInvalid if there is none or it is damaged."""

    @abstractmethod
    def head(self, number: int) -> ManifestHead:
        """Like `open`, without the list of files."""

    @abstractmethod
    def verify(self, number: int) -> Manifest:
        """Like `open`, after comparing every image byte and the inventory of the files with the manifest, and the
        images of its parent, of the parent's parent, and so on.

        ImageInvalid names the first thing that is wrong. Read-only.
        """

    @abstractmethod
    def check_parent(self, link: ParentLink) -> None:
        """ImageInvalid unless the checkpoint of that name (or what is left of it for others) is still there, with its
        own parents. Manifests are read, images are not."""

    @abstractmethod
    def delete(self, number: int, stop: Stop | None = None) -> None:
        """Remove one checkpoint, whole or torn; nothing happens if there is none. Cut short, it leaves a torn one; once
        `stop` says True, it cuts itself short with JobRootBusy.

        Memory images that other committed checkpoints lead to stay, as a *base*, until the last of these goes.
        """

    @abstractmethod
    def sweep(self) -> list[int]:
        """Delete what was never committed (a dump that was cut short); the numbers deleted. Bases that nobody needs any
        more go too."""


class DirectoryStore(CheckpointStore):
    """Checkpoints as folders `<root>/<number>/` on the file system on which the job itself writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        """Where the checkpoint lies."""
        return self.root / str(number)

    def begin(self) -> Path:
        number = max([*self._folders(), self._last_number(), 0]) + 1
        folder = self.folder(number)
        folder.mkdir(mode=0o700)
        for part in (IMAGES, FILES):
            (folder / part).mkdir(mode=0o700)
        fresh = self.root / "last.new"
        fresh.write_text(str(number))
        fresh.rename(self.root / "last")
        return folder

    def put(self, manifest: Manifest) -> str:
        return write_manifest(self.folder(manifest.number), manifest)

    def committed(self) -> list[ManifestHead]:
        manifests = []
        for number in self.numbers():
            try:
                manifests.append(self.head(number))
            except ImageInvalid:  # the contract: `numbers` shows it, `verify` says what is wrong with it
                continue
        return manifests

    def numbers(self) -> list[int]:
        return [number for number in self._folders() if os.path.lexists(self.folder(number) / MANIFEST)]

    def ancestors(self, number: int) -> list[int]:
        found: list[int] = []
        ancestor = linked_parent(self.folder(number))
        while ancestor is not None and ancestor not in found:
            found.append(ancestor)
            ancestor = linked_parent(self.folder(ancestor))
        return found

    def open(self, number: int) -> Manifest:
        return read_manifest(self.folder(number))

    def head(self, number: int) -> ManifestHead:
        return read_head(self.folder(number))

    def verify(self, number: int) -> Manifest:
        manifest = self.open(number)
        self._verify_memory(manifest)
        verify_clones(self.folder(number), manifest.files_digest)
        for parent in self._parents(manifest.parent):
            self._verify_memory(parent)
        return manifest

    def check_parent(self, link: ParentLink) -> None:
        for parent in self._parents(link):
            verify_links(self.folder(parent.number), parent)

    def _parents(self, link: ParentLink | None) -> Iterator[ManifestHead]:
        while link is not None:  # ends: a parent's number is always smaller
            name = MANIFEST if (self.folder(link.number) / MANIFEST).exists() else BASE
            parent = read_head(self.folder(link.number), name, link.manifest_blake3)
            yield parent
            link = parent.parent

    def _verify_memory(self, manifest: ManifestHead) -> None:
        verify_links(self.folder(manifest.number), manifest)
        verify_images(self.folder(manifest.number), manifest.images)

    def delete(self, number: int, stop: Stop | None = None) -> None:
        if number in self._needed(without=number):
            self._retire(number, stop)
        else:
            self._remove(number, stop)
        self._collect(stop)

    def sweep(self) -> list[int]:
        committed = set(self.numbers())
        bases = set(self._bases())
        torn = [number for number in self._folders() if number not in committed | bases]
        for number in torn:
            self._remove(number)
        self._collect()
        return torn

    def _needed(self, without: int = 0) -> set[int]:
        """The numbers that committed checkpoints, but for `without`, lead to."""
        return {ancestor for number in self.numbers() if number != without for ancestor in self.ancestors(number)}

    def _retire(self, number: int, stop: Stop | None) -> None:
        """No checkpoint any more, but its images stay."""
        folder = self.folder(number)
        if (folder / MANIFEST).exists():
            os.rename(folder / MANIFEST, folder / BASE)
            fsync_folder(folder)
        delete_tree(folder / FILES, stop=stop)

    def _remove(self, number: int, stop: Stop | None = None) -> None:
        folder = self.folder(number)
        if not folder.is_dir():
            return
        # The manifest first, so that a half-deleted checkpoint is never offered.
        for name in (MANIFEST, BASE):
            (folder / name).unlink(missing_ok=True)
        fsync_folder(folder)
        delete_tree(folder, stop=stop)

    def _bases(self) -> list[int]:
        folders = [(number, self.folder(number)) for number in self._folders()]
        return [number for number, folder in folders if (folder / BASE).exists() and not (folder / MANIFEST).exists()]

    def _collect(self, stop: Stop | None = None) -> None:
        needed = self._needed()
        for number in self._bases():
            if number not in needed:
                self._remove(number, stop)
            else:
                delete_tree(self.folder(number) / FILES, stop=stop)  # a retirement may have been cut short

    def _folders(self) -> list[int]:
        if not self.root.is_dir():
            raise JobRootBusy(f"{self.root} is not there: is the job volume mounted?")
        with os.scandir(self.root) as listing:
            names = [item.name for item in listing if item.is_dir(follow_symlinks=False)]
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def _last_number(self) -> int:
        """The highest number ever given, which outlives the folders (a clean start deletes them all)."""
        try:
            return int((self.root / "last").read_text())
        except (FileNotFoundError, ValueError):
            return 0
