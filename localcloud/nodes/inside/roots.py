"""The read-only layers below a container: the machine's own root, masked, or an image that was built.

Both engines use the very same folders: nothing is copied to a node, so an image is there at once, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localcloud.nodes.images.catalogue import MACHINE, Catalogue, canonical, is_machine
from localcloud.nodes.inside.machine import LAYERS


@dataclass(frozen=True)
class Layer:
    """One layer. `digest` says what is in it: sha256, or words where that cannot be said (the machine's own files)."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Root:
    """Layers from top to bottom. `name` has its tag; `users` is the passwd file that names users."""

    name: str
    layers: tuple[Layer, ...]
    users: Path


def find_root(image: str | None, catalogue: Catalogue) -> Root | None:
    """The layers that an image's name stands for; None for a name that nobody built."""
    if is_machine(image):
        mask, machine = LAYERS
        return Root(
            canonical(MACHINE),
            (Layer(mask, "localcloud's masks"), Layer(machine, "this machine's root file system")),
            Path("/etc/passwd"),
        )
    assert image is not None
    built = catalogue.find(image)
    if built is None:
        return None
    rootfs = catalogue.rootfs(built)
    return Root(canonical(image), (Layer(rootfs, built.digest),), rootfs / "etc" / "passwd")
