"""What is read before a restore: of the checkpoint's memory, in pieces, what nobody reads in parallel later."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest
from perdure.image.manifest import write_manifest
from worker_agent.engine import cold_blocks

PIECE = cold_blocks._PIECE
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def checkpoint(root: Path, number: int, size: int) -> Path:
    folder = root / "checkpoints" / str(number)
    for part in ("images", "files", "index"):
        (folder / part).mkdir(parents=True)
    for path in ("images/pages-1.img", "images/mm-1.img", "index/pages-1.index", "files/big"):
        (folder / path).write_bytes(b"x" * size)
    return folder


def commit(folder: Path, number: int) -> None:
    images = [
        ImageFile(path="images/pages-1.img", size=1, blake3="0" * 64, index="index/pages-1.index"),
        ImageFile(path="images/mm-1.img", size=1, blake3="0" * 64),
    ]
    write_manifest(
        folder,
        Manifest(
            job_id="job",
            number=number,
            kind=CheckpointKind.PERIODIC,
            epoch=1,
            attempt=1,
            instance_id="i-1",
            frozen_at=NOW,
            committed_at=NOW,
            container_id="c",
            images=images,
            files=[],
        ),
    )


def read_of(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    read: list[tuple[str, int]] = []
    top = root / "checkpoints" / str(number)
    monkeypatch.setattr(cold_blocks, "_read", lambda path, offset: read.append((str(path.relative_to(top)), offset)))
    assert cold_blocks.fetch(root, number) >= 0
    return sorted(read)


def test_pages_with_an_index_and_files_of_the_job_are_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path, 1, 3)
    commit(checkpoint(tmp_path, 2, PIECE + 1), 2)
    checkpoint(tmp_path, 3, 5)
    assert read_of(tmp_path, 2, monkeypatch) == [
        ("images/mm-1.img", 0),
        ("images/mm-1.img", PIECE),
        ("index/pages-1.index", 0),
        ("index/pages-1.index", PIECE),
        ("manifest.json", 0),
    ]


def test_without_a_sound_manifest_all_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint(tmp_path, 1, 3) / "manifest.json").write_text("{}")
    paths = [path for path, _ in read_of(tmp_path, 1, monkeypatch)]
    assert paths == ["images/mm-1.img", "images/pages-1.img", "index/pages-1.index", "manifest.json"]


def test_what_cannot_be_read_is_left_to_the_restore(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, 3)
    (folder / "images" / "odd").symlink_to("/nowhere")
    assert cold_blocks.fetch(tmp_path, 1) >= 0
