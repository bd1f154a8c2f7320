"""Names that CRIU itself gave to files which had lost theirs, as a checkpoint's image tells of them.

CRIU removes such a name at the end of the dump, before the files are cloned. So an image with one could not be
restored, unless the file lies on a tmpfs: that CRIU has packed into the image while the name was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from worker_agent.engine.criu_image import Message, entries, number, parse, part

_REMAPS, _FILES, _MOUNTS = 0x59133954, 0x56303138, 0x55563928
"""CRIU, criu/include/magic.h: REMAP_FPATH_MAGIC, FILES_MAGIC, MNTS_MAGIC."""
_ORIGINAL, _TYPE, _LINKED = 1, 3, 0
"""images/remap-file-path.proto."""
_FILE_ID, _REGULAR, _ITS_MOUNT = 2, 3, 7
"""images/fdinfo.proto, images/regfile.proto."""
_KIND, _TMPFS, _MOUNT_ID, _EXTERNAL, _EXTERNAL_KEY = 1, 5, 2, 13, 18
"""images/mnt.proto."""


def lost_remaps(images: Path) -> bool:
    """Has CRIU named a file that will not have that name at a restore? ImageInvalid if the image cannot be read.
    Blocks."""
    linked = {
        number(remap, _ORIGINAL)
        for remap in _messages(images.glob("remap-fpath.img"), _REMAPS)
        if number(remap, _TYPE) == _LINKED
    }
    if not linked:
        return False
    packed = {
        number(mount, _MOUNT_ID)
        for mount in _messages(images.glob("mountpoints-*.img"), _MOUNTS)
        if number(mount, _KIND) == _TMPFS
        and not any(field.number in (_EXTERNAL, _EXTERNAL_KEY) and field.value for field in mount)
    }
    for file in _messages(images.glob("files.img"), _FILES):
        regular = part(file, _REGULAR) if number(file, _FILE_ID) in linked else None
        if regular is not None and _signed(number(regular, _ITS_MOUNT)) in packed:
            linked.discard(number(file, _FILE_ID))
    return bool(linked)


def _messages(images: Iterable[Path], magic: int) -> Iterator[Message]:
    for path in images:
        yield from map(parse, entries(path.read_bytes(), magic))


def _signed(value: int) -> int:
    """protobuf's sint32."""
    return value >> 1 ^ -(value & 1)
