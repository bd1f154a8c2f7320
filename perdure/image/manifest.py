"""Manifests on disk: written last and durably, read as untrusted input.

`manifest.json` holds two lines of JSON: the manifest, and the BLAKE3 of the first line. Without a readable one the
checkpoint does not exist (promise 3).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from blake3 import blake3
from pydantic import ValidationError

from perdure.domain.checkpoints import MANIFEST_VERSION, Manifest, ManifestHead
from perdure.domain.errors import ImageInvalid
from perdure.image.disk import fsync_folder
from perdure.image.layout import IMAGES
from perdure.image.pages.index import INDEX

Read = TypeVar("Read", bound=ManifestHead)

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 256 << 20
"""Bytes; about two million cloned files."""
_READS = (1, MANIFEST_VERSION)
_HEX = re.compile(r"[0-9a-f]{64}")
_AS_IT_IS = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"
"""Printable ASCII but % and \\; letters and digits never change."""


def encode_name(path: str) -> str:
    """A file name that JSON can hold: bytes that are not plain ASCII as %xx (Linux names are bytes, not text)."""
    return quote_from_bytes(os.fsencode(path), safe=_AS_IT_IS)


def decode_name(name: str) -> str:
    """The inverse of `encode_name`."""
    return os.fsdecode(unquote_to_bytes(name))


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Commit the checkpoint: after this it exists, even if the power fails. Its other bytes must be durable already."""
    line = manifest.model_dump_json().encode()
    digest = blake3(line).hexdigest()
    fresh = checkpoint / (MANIFEST + ".new")
    with open(fresh, "wb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(line + b'\n{"blake3":"' + digest.encode() + b'"}\n')
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, checkpoint / MANIFEST)
    fsync_folder(checkpoint)
    fsync_folder(checkpoint.parent)


def read_manifest(checkpoint: Path) -> Manifest:
    """The committed manifest of a checkpoint folder, whose name is its number. ImageInvalid says what is wrong."""
    manifest = _parse(checkpoint, Manifest)
    for name, number in manifest.inodes.items():
        if not safe_path(name, {"layer", "data", "volumes"}) or not 0 < number < 1 << 64:
            problem = f"file {name[:100]!r} has an unsafe path or inode number"
            raise ImageInvalid(f"{checkpoint / MANIFEST} is not usable: {problem}")
    return manifest


def read_head(checkpoint: Path) -> ManifestHead:
    """As `read_manifest`, without the list of files."""
    return _parse(checkpoint, ManifestHead)


def _parse(checkpoint: Path, kind: type[Read]) -> Read:
    path = checkpoint / MANIFEST
    line, _, rest = _read(path).partition(b"\n")
    digest = blake3(line).hexdigest()
    if rest != b'{"blake3":"' + digest.encode() + b'"}\n':
        raise ImageInvalid(f"{path} is damaged: its checksum is wrong")
    try:
        manifest = kind.model_validate_json(line)
    except ValidationError as error:
        raise ImageInvalid(f"{path} is not a manifest: {error.errors()[0]['msg']}") from error
    problem = _problem(manifest, checkpoint.name)
    if problem:
        raise ImageInvalid(f"{path} is not usable: {problem}")
    return manifest


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_MANIFEST:
            raise ImageInvalid(f"{path} is not a file of at most {LARGEST_MANIFEST >> 20} MiB")
        return file.read()


def _problem(manifest: ManifestHead, folder: str) -> str:
    """What makes a well-formed manifest unusable; empty if nothing does."""
    if manifest.version not in _READS:
        return f"it has version {manifest.version}, this Perdure reads versions 1 to {MANIFEST_VERSION}"
    if str(manifest.number) != folder or manifest.number < 1:
        return f"it says number {manifest.number} but lies in folder {folder}"
    paths = [image.path for image in manifest.images]
    if not paths or len(set(paths)) != len(paths):
        return "it names no image, or one twice"
    for image in manifest.images:
        if not safe_path(image.path, {IMAGES}) or image.size < 0 or not _HEX.fullmatch(image.blake3):
            return f"image {image.path[:100]!r} has an unsafe path, size or checksum"
        if image.index and not safe_path(image.index, {INDEX}):
            return f"image {image.path[:100]!r} has a page index with an unsafe path"
    if manifest.stdio.stdout < 0 or manifest.stdio.stderr < 0:
        return "an offset of the job's output is negative"
    return ""


def safe_path(path: str, tops: set[str]) -> bool:
    """Is it a plain relative path below one of the folders `tops`? (ASCII as encoded; no `..`, empty part or NUL.)"""
    if not path.isascii() or "\0" in path:
        return False
    parts = [decode_name(part) if "%" in part else part for part in path.split("/")]
    if len(parts) < 2 or parts[0] not in tops:
        return False
    return all(part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in parts)
