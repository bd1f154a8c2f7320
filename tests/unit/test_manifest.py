"""Manifests on disk: what is written is read back, and nothing damaged or malicious is taken for one."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest, StdioOffsets
from perdure.domain.errors import ImageInvalid
from perdure.image.manifest import MANIFEST, decode_name, encode_name, read_manifest, safe_path, write_manifest

WHEN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DIGEST = "ab" * 32
on_disk = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)

names = st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name).map(os.fsdecode)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


def manifest(**changes: object) -> Manifest:
    plain = Manifest(
        job_id="job",
        number=7,
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        attempt=1,
        instance_id="i-0",
        frozen_at=WHEN,
        committed_at=WHEN,
        container_id="c" * 64,
        images=[ImageFile(path="images/core-1.img", size=3, blake3=DIGEST)],
    )
    return plain.model_copy(update=changes)


def folder(top: Path, number: int = 7) -> Path:
    made = top / str(number)
    made.mkdir(exist_ok=True)
    return made


@on_disk
@given(inodes=st.dictionaries(paths, st.integers(1, 2**64 - 1)), offset=st.integers(0, 2**60), epoch=st.integers(0, 99))
def test_what_is_written_is_read_back(tmp_path: Path, inodes: dict[str, int], offset: int, epoch: int) -> None:
    encoded = {f"layer/{encode_name(path)}": number for path, number in inodes.items()}
    written = manifest(inodes=encoded, stdio=StdioOffsets(stdout=offset), epoch=epoch)
    write_manifest(folder(tmp_path), written)
    assert read_manifest(folder(tmp_path)) == written


@given(name=paths)
def test_any_file_name_survives_its_encoding(name: str) -> None:
    assert decode_name(encode_name(name)) == name
    encode_name(name).encode("ascii")


@on_disk
@given(place=st.integers(0), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path, place: int, flip: int) -> None:
    write_manifest(folder(tmp_path), manifest())
    path = folder(tmp_path) / MANIFEST
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= flip
    path.write_bytes(content)
    with pytest.raises(ImageInvalid):
        read_manifest(folder(tmp_path))


@on_disk
@given(content=st.binary(max_size=300))
def test_rubbish_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (folder(tmp_path) / MANIFEST).write_bytes(
        content + b'\n{"blake3":"' + blake3(content).hexdigest().encode() + b'"}\n'
    )
    with pytest.raises(ImageInvalid):
        read_manifest(folder(tmp_path))


def image(path: str, size: int = 3, digest: str = DIGEST) -> list[ImageFile]:
    return [ImageFile(path=path, size=size, blake3=digest)]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"number": 8},
        {"images": []},
        {"images": image("images/a") * 2},
        {"images": image("images/../../etc/passwd")},
        {"images": image("/etc/passwd")},
        {"images": image("files/a")},
        {"images": image("images//a")},
        {"images": image("images/a\0b")},
        {"images": image("images/%2e%2e/a")},
        {"images": image("images/a", size=-1)},
        {"images": [image("images/a")[0].model_copy(update={"index": "images/a"})]},
        {"images": [image("images/a")[0].model_copy(update={"index": "index/../a"})]},
        {"images": image("images/a", digest="AB" * 32)},
        {"inodes": {"layer/../x": 5}},
        {"inodes": {"log/x": 5}},
        {"inodes": {"data": 5}},
        {"inodes": {"data/a%2fb": 5}},
        {"inodes": {"data/a": 0}},
        {"stdio": StdioOffsets(stdout=-1)},
    ],
)
def test_an_unsafe_manifest_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write_manifest(folder(tmp_path), manifest(**changes))
    with pytest.raises(ImageInvalid, match="not usable"):
        read_manifest(folder(tmp_path))


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    write_manifest(folder(tmp_path), manifest())
    place = folder(tmp_path) / MANIFEST
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(ImageInvalid, match="cannot be read"):
        read_manifest(folder(tmp_path))
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageInvalid, match="cannot be read"):
        read_manifest(folder(tmp_path))
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(ImageInvalid, match="not a file"):
        read_manifest(folder(tmp_path))


def test_a_newer_senders_fields_are_ignored(tmp_path: Path) -> None:
    line = json.dumps({**manifest().model_dump(mode="json"), "later": 1}).encode()
    (folder(tmp_path) / MANIFEST).write_bytes(line + b'\n{"blake3":"' + blake3(line).hexdigest().encode() + b'"}\n')
    assert read_manifest(folder(tmp_path)) == manifest()


@given(path=paths)
def test_safe_paths_stay_below_their_top(path: str) -> None:
    top = Path("/checkpoint")
    for spelled in (path, encode_name(path)):
        if safe_path(f"images/{spelled}", {"images"}):
            assert Path(os.path.normpath(top / "images" / decode_name(spelled))).is_relative_to(top / "images")
