"""BLAKE3 over memory images: made after a dump, compared before a restore.

A flipped byte in an image restores without complaint and gives a wrong result (tried), so nothing is restored
unverified.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blake3 import blake3

from perdure.domain.checkpoints import ImageFile
from perdure.domain.errors import ImageInvalid
from perdure.image.chain import IMAGES, LINK, PREDUMP

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


def digest_images(checkpoint: Path) -> list[ImageFile]:
    """Every file of the checkpoint's memory images, paths relative to the checkpoint, in order of path."""
    return [
        digest_file(checkpoint / path).model_copy(update={"path": path}) for path in sorted(_image_paths(checkpoint))
    ]


def verify_images(checkpoint: Path, images: list[ImageFile]) -> None:
    """ImageInvalid, naming the file, unless the folders of images hold exactly these files with exactly these bytes."""
    found, wanted = _image_paths(checkpoint), {image.path for image in images}
    if found != wanted:
        odd = sorted(found ^ wanted)[0]
        raise ImageInvalid(f"{checkpoint}: {odd} is {'missing' if odd in wanted else 'not in the manifest'}")
    for image in images:
        size = os.lstat(checkpoint / image.path).st_size
        if size != image.size:
            raise ImageInvalid(f"{checkpoint / image.path} has {size} bytes instead of {image.size}")
    for image in images:
        if digest_file(checkpoint / image.path).blake3 != image.blake3:
            raise ImageInvalid(f"{checkpoint / image.path} has a wrong checksum: the image is damaged")


def _image_paths(checkpoint: Path) -> set[str]:
    paths = set()
    for top in (IMAGES, PREDUMP):
        for folder, folders, names in os.walk(checkpoint / top):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            paths |= {str((Path(folder) / name).relative_to(checkpoint)) for name in [*names, *links]}
    return paths - {f"{IMAGES}/{LINK}", f"{PREDUMP}/{LINK}"}  # `verify_links` looks at these
