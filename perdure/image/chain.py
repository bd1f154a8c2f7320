"""Chains of memory images: where a checkpoint leaves out pages that an earlier one holds, and how that is made sure of.

CRIU finds those pages through a link named `parent` in the folder of images. A wrong parent restores without complaint
and with wrong pages (180 to 250 of them in a trial). So the manifest names the parent by its number and by the checksum
of its manifest, which in turn covers every byte of its images; and the links must lead exactly there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from perdure.domain.checkpoints import ManifestHead
from perdure.domain.errors import ImageInvalid

IMAGES = "images"
"""Folder of a checkpoint that holds what CRIU and runc wrote in the freeze."""
PREDUMP = "predump"
"""Folder that holds what was copied just before the freeze, if anything was."""
LINK = "parent"
"""CRIU's name of the link to the folder that has the pages which this one leaves out."""
_TO_CHECKPOINT = re.compile(rf"\.\./\.\./([1-9][0-9]{{0,8}})/{IMAGES}")


def link_to(number: int) -> str:
    """How the first folder of a checkpoint names the images of an earlier one. Relative: the volume is mounted
    elsewhere on the next node."""
    return f"../../{number}/{IMAGES}"


def linked_parent(checkpoint: Path) -> int | None:
    """The checkpoint that this one's images lead to, by CRIU's links alone; None if they are complete."""
    for folder in (PREDUMP, IMAGES):
        try:
            found = _TO_CHECKPOINT.fullmatch(os.readlink(checkpoint / folder / LINK))
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def verify_links(checkpoint: Path, manifest: ManifestHead) -> None:
    """ImageInvalid unless CRIU's links lead where the manifest says, and nowhere else."""
    target = link_to(manifest.parent.number) if manifest.parent else ""
    folders = [PREDUMP] if any(image.path.startswith(f"{PREDUMP}/") for image in manifest.images) else []
    for folder in [*folders, IMAGES]:
        link = checkpoint / folder / LINK
        found = os.readlink(link) if link.is_symlink() else ""
        if found != target:
            raise ImageInvalid(f"{link} leads to {found[:100] or 'nothing'!r} instead of {target or 'nothing'!r}")
        target = f"../{folder}"
