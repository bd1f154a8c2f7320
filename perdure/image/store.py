"""Where checkpoints live: one small interface with its contract, and the directory store on the job root."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from pathlib import Path

from perdure.domain.checkpoints import Manifest, ManifestHead
from perdure.domain.errors import ImageInvalid, JobRootBusy
from perdure.image.checksums import verify_images
from perdure.image.disk import fsync_folder
from perdure.image.files import FILES, verify_clones
from perdure.image.layout import IMAGES
from perdure.image.manifest import MANIFEST, read_head, read_manifest, write_manifest
from perdure.image.mounts import Stop, delete_tree
from perdure.image.pages.index import verify_pages

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
    def put(self, manifest: Manifest) -> None:
        """Commit what lies in the folder that `begin` gave for `manifest.number`.

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
    def open(self, number: int) -> Manifest:
        """The manifest of one committed checkpoint. ImageInvalid if there is none or it is damaged."""

    @abstractmethod
    def head(self, number: int) -> ManifestHead:
        """Like `open`, without the list of files."""

    @abstractmethod
    def verify(self, number: int, *, pages: bool = True) -> Manifest:
        """Like `open`, after comparing every image byte and the inventory of the files with the manifest; without
        `pages`, but for what `verify_pages` compares.

        ImageInvalid names the first thing that is wrong. Read-only.
        """

    @abstractmethod
    def verify_pages(self, number: int, stop: Stop | None = None, *, ahead: int = 0) -> None:
        """Compare the pages that page indexes cover, which is nearly all of an image. ImageInvalid, as `verify`. Once
        `stop` says True, it ends early and says nothing. `ahead`: bytes that a disk is asked for before they are read,
        where it is slow for each block."""

    @abstractmethod
    def delete(self, number: int, stop: Stop | None = None) -> None:
        """Remove one checkpoint, whole or torn; nothing happens if there is none. Cut short, it leaves a torn one; once
        `stop` says True, it cuts itself short with JobRootBusy.
        Other checkpoints lose nothing: what they share with it stays theirs.
        """

    @abstractmethod
    def sweep(self) -> list[int]:
        """Delete what was never committed (a dump that was cut short); the numbers deleted."""


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
        self.count_from(number)
        return folder

    def count_from(self, number: int) -> None:
        """No number up to this one is given any more."""
        if number > self._last_number():
            fresh = self.root / "last.new"
            fresh.write_text(str(number))
            fresh.rename(self.root / "last")

    def put(self, manifest: Manifest) -> None:
        write_manifest(self.folder(manifest.number), manifest)

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

    def open(self, number: int) -> Manifest:
        return read_manifest(self.folder(number))

    def head(self, number: int) -> ManifestHead:
        return read_head(self.folder(number))

    def verify(self, number: int, *, pages: bool = True) -> Manifest:
        manifest = self.open(number)
        verify_images(self.folder(number), manifest.images, pages=pages)
        verify_clones(self.folder(number), manifest.files_digest)
        return manifest

    def verify_pages(self, number: int, stop: Stop | None = None, *, ahead: int = 0) -> None:
        for image in self.head(number).images:
            if image.index:
                verify_pages(self.folder(number), image, stop, ahead=ahead)

    def delete(self, number: int, stop: Stop | None = None) -> None:
        folder = self.folder(number)
        if not folder.is_dir():
            return
        # The manifest first, so that a half-deleted checkpoint is never offered.
        (folder / MANIFEST).unlink(missing_ok=True)
        fsync_folder(folder)
        delete_tree(folder, stop=stop)

    def sweep(self) -> list[int]:
        committed = set(self.numbers())
        torn = [number for number in self._folders() if number not in committed]
        for number in torn:
            self.delete(number)
        return torn

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
