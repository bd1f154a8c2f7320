"""Checksums over memory images: made after a dump, compared before a restore.

A file is covered by its BLAKE3, or page by page by its index (pages/index.py), whose BLAKE3 the manifest has.

A flipped byte in an image restores without complaint and gives a wrong result (tried), so nothing is restored
unverified.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from perdure.domain.checkpoints import ImageFile
from perdure.domain.errors import ImageInvalid
from perdure.image.layout import IMAGES
from perdure.image.pages.index import verify_pages

_BLOCK = 8 << 20


def digest_file(path: Path) -> ImageFile:
    """Size in bytes and BLAKE3 of one regular file (all cores work on it); `path` of the result is its name.

    ImageInvalid if it is missing or not a regular file. It is read, not mapped: a failing disk then gives an error
    instead of a SIGBUS that ends the agent.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImageInvalid(f"{path} is not a regular file")
        digest, size = blake3(max_threads=blake3.AUTO), 0
        block = memoryview(bytearray(_BLOCK))
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return ImageFile(path=path.name, size=size, blake3=digest.hexdigest())


def digest_images(checkpoint: Path, known: Iterable[ImageFile] = ()) -> list[ImageFile]:
    """Every file of the checkpoint's memory images, paths relative to the checkpoint, in order of path. Those that are
    `known` are taken as they are."""
    indexed = {image.path: image for image in known}
    return [
        indexed.get(path) or digest_file(checkpoint / path).model_copy(update={"path": path})
        for path in sorted(_image_paths(checkpoint) | indexed.keys())
    ]


def verify_images(checkpoint: Path, images: list[ImageFile], *, pages: bool = True) -> None:
    """ImageInvalid, naming the file, unless the folder of images holds exactly these files with exactly these bytes.
    Every byte is read once; without `pages`, none of those that an index covers: only their sizes are compared."""
    found, wanted = _image_paths(checkpoint), {image.path for image in images}
    if found != wanted:
        odd = sorted(found ^ wanted)[0]
        raise ImageInvalid(f"{checkpoint}: {odd} is {'missing' if odd in wanted else 'not in the manifest'}")
    for image in images:
        size = os.lstat(checkpoint / image.path).st_size
        if size != image.size:
            raise ImageInvalid(f"{checkpoint / image.path} has {size} bytes instead of {image.size}")
    for image in images:
        if image.index:
            if pages:
                verify_pages(checkpoint, image)
        elif digest_file(checkpoint / image.path).blake3 != image.blake3:
            raise ImageInvalid(f"{checkpoint / image.path} has a wrong checksum: the image is damaged")


def _image_paths(checkpoint: Path) -> set[str]:
    paths = set()
    for folder, folders, names in os.walk(checkpoint / IMAGES):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        paths |= {str((Path(folder) / name).relative_to(checkpoint)) for name in [*names, *links]}
    return paths
