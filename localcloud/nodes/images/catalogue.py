"""Which images there are: names for unpacked file systems in a cache folder of the machine. Read by the nodes, too.

    <cache>/roots/<key>/rootfs        the unpacked image: one layer
    <cache>/roots/<key>/image.json    what it is made of (BuiltImage)
    <cache>/names/<quoted name>       the key that the name stands for

A key says what is in it (suite, architecture, packages), so two names of the same packages share one file system. An
image is complete from the moment its folder has its name; it is never changed afterwards.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from perdure.domain.errors import ConfigurationInvalid

CACHE = Path("/var/cache/perdure/images")
MACHINE = "localhost/machine"
"""The reserved name: not an image of ours but the machine's own root file system, masked
(localcloud/nodes/inside/machine.py). It is what jobs get that name no image."""
_NAME = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?")


class BuiltImage(BaseModel):
    """One unpacked image. `digest`: sha256 of its files as one tar, so of exactly this build."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    suite: str
    architecture: str
    packages: list[str]
    digest: str
    size_bytes: int


class Catalogue:
    """The images in one cache folder."""

    def __init__(self, folder: Path = CACHE) -> None:
        self.folder = folder

    def rootfs(self, image: BuiltImage) -> Path:
        """The image's file system; not to be written to."""
        return self.folder / "roots" / image.key / "rootfs"

    def find(self, name: str) -> BuiltImage | None:
        """The image of that name, None when there is none (the reserved name has none either)."""
        try:
            key = (self.folder / "names" / quote(canonical(name), safe="")).read_text().strip()
        except (FileNotFoundError, ConfigurationInvalid):
            return None
        return self.by_key(key)

    def by_key(self, key: str) -> BuiltImage | None:
        """A complete image by its key."""
        try:
            return BuiltImage.model_validate_json((self.folder / "roots" / key / "image.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def names(self) -> list[str]:
        """All names, in order."""
        folder = self.folder / "names"
        return sorted(unquote(entry.name) for entry in folder.iterdir()) if folder.is_dir() else []

    def give_name(self, name: str, key: str) -> None:
        """Let `name` stand for the image `key` from now on. Raises ConfigurationInvalid for a name that is no name."""
        file = self.folder / "names" / quote(canonical(name), safe="")
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{file.name}.new"
        draft.write_text(key)
        draft.replace(file)

    def take_name(self, name: str) -> BuiltImage | None:
        """`name` stands for nothing any more. Returns its image when that has no other name left.

        Raises ConfigurationInvalid when there is no image of that name.
        """
        image = self.find(name)
        file = self.folder / "names" / quote(canonical(name), safe="")
        try:
            file.unlink()
        except FileNotFoundError:
            raise ConfigurationInvalid(
                f"there is no image {name[:60]!r}; `perdure local image list` lists them"
            ) from None
        return image if image and not any(self.find(other) == image for other in self.names()) else None


def canonical(name: str) -> str:
    """The name with its tag, as Docker writes it (`bio` is `bio:latest`). Raises ConfigurationInvalid."""
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise ConfigurationInvalid(
            f"image name {name[:60]!r} is not usable; use lower-case letters, digits, '.', '_', '-' and '/', "
            "and a tag after ':' if you like"
        )
    return name if ":" in name else f"{name}:latest"


def is_machine(name: str | None) -> bool:
    """Whether an image's name means the machine's own root: none at all, or the reserved one with whatever tag."""
    return not name or name.partition(":")[0] == MACHINE
