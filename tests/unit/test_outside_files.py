"""Sizes of open files: said to CRIU where a restore brings the same file back, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from perdure.domain.checkpoints import MountRule
from worker_agent.engine import criu_image
from worker_agent.engine.connections import FILES_MAGIC
from worker_agent.engine.criu_image import Message
from worker_agent.engine.outside_files import without_sizes

RULES = [
    MountRule(destination="/shared", rule="shared", source="/efs"),
    MountRule(destination="/shared/own", rule="captured", source="volumes/x"),
    MountRule(destination="/etc/hosts", rule="fresh", source="/var/lib/docker/containers/1/hosts"),
    MountRule(destination="/tmp", rule="fresh", source="tmpfs"),
    MountRule(destination="/ref", rule="readonly", source="/ref"),
]


def entry(name: str) -> bytes:
    regular: Message = criu_image.with_field(criu_image.with_field([], 6, b"/" + name.encode()), 8, 100)
    return criu_image.encode(criu_image.with_field([], 3, criu_image.encode(regular)))


def size(data: bytes) -> int:
    return criu_image.number(criu_image.part(criu_image.parse(data), 3) or [], 8)


def test_only_files_outside_lose_their_size() -> None:
    names = ["shared/log", "shared/own/file", "etc/hosts", "etc/hosts.allow", "tmp/x", "ref/genome", "sharedfile"]
    image = criu_image.image(FILES_MAGIC, [*map(entry, names), b"\x08\x02"])
    changed = without_sizes(image, RULES)
    assert changed is not None
    *found, other = criu_image.entries(changed, FILES_MAGIC)
    assert [name for name, data in zip(names, found, strict=True) if not size(data)] == ["shared/log", "etc/hosts"]
    assert other == b"\x08\x02"


def test_a_shared_file_that_became_smaller_keeps_its_size(tmp_path: Path) -> None:
    for name, length in (("grown", 200), ("same", 100), ("cut", 99)):
        (tmp_path / name).write_bytes(bytes(length))
    names = ["shared/grown", "shared/same", "shared/cut", "shared/gone"]
    rules = [MountRule(destination="/shared", rule="shared", source=str(tmp_path))]
    changed = without_sizes(criu_image.image(FILES_MAGIC, map(entry, names)), rules)
    assert changed is not None
    assert [size(data) for data in criu_image.entries(changed, FILES_MAGIC)] == [0, 0, 100, 0]


def test_an_image_without_such_files_stays_as_it_is() -> None:
    image = criu_image.image(FILES_MAGIC, [entry("ref/genome"), entry("etc/hosts.allow")])
    assert without_sizes(image, RULES) is None
    assert without_sizes(image, []) is None
