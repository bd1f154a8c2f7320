"""Names that CRIU gave itself: which of them a restore would not find."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_agent.engine.criu_image import Message, encode, image, with_field
from worker_agent.engine.linked_remaps import lost_remaps

REMAPS, FILES, MOUNTS = 0x59133954, 0x56303138, 0x55563928
TMPFS, OVERLAY = 5, 17


def message(**fields: int | bytes) -> bytes:
    made: Message = []
    for name, value in fields.items():
        made = with_field(made, int(name[1:]), value)
    return encode(made)


def write(folder: Path, *, kind: int = TMPFS, external: bool = False, remap_type: int = 0) -> None:
    """File 7, on mount 3, was remapped to a name that CRIU gave it."""
    (folder / "remap-fpath.img").write_bytes(image(REMAPS, [message(_1=7, _2=9, _3=remap_type)]))
    files = [message(_1=1, _2=7, _3=message(_1=7, _6=b"shm/a", _7=3 << 1)), message(_1=2, _2=8)]
    (folder / "files.img").write_bytes(image(FILES, files))
    mount: dict[str, int | bytes] = {"_1": kind, "_2": 3, "_6": b"/", **({"_18": b"/shared"} if external else {})}
    (folder / "mountpoints-12.img").write_bytes(image(MOUNTS, [message(**mount)]))


def test_a_dump_without_such_names(tmp_path: Path) -> None:
    assert not lost_remaps(tmp_path)
    write(tmp_path, kind=OVERLAY, remap_type=1)  # a file without any name, whose bytes are in the image
    assert not lost_remaps(tmp_path)


def test_on_a_tmpfs_of_the_container_the_name_is_in_the_image(tmp_path: Path) -> None:
    write(tmp_path)
    assert not lost_remaps(tmp_path)


@pytest.mark.parametrize(("kind", "external"), [(OVERLAY, False), (TMPFS, True)])
def test_elsewhere_it_is_lost(tmp_path: Path, kind: int, external: bool) -> None:
    write(tmp_path, kind=kind, external=external)
    assert lost_remaps(tmp_path)
