"""What is read before a restore: the checkpoint's memory, in pieces, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_agent.engine import cold_blocks


def checkpoint(root: Path, number: int, size: int) -> Path:
    folder = root / "checkpoints" / str(number)
    (folder / "images").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "images" / "pages-1.img").write_bytes(b"x" * size)
    (folder / "files" / "big").write_bytes(b"y" * size)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_all_its_memory_is_read_and_no_file_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path, 1, 3)
    checkpoint(tmp_path, 2, cold_blocks._PIECE + 1)
    checkpoint(tmp_path, 3, 5)
    read: list[tuple[str, int]] = []
    monkeypatch.setattr(
        cold_blocks,
        "_read",
        lambda path, offset: read.append((str(path.relative_to(tmp_path / "checkpoints")), offset)),
    )
    assert cold_blocks.fetch(tmp_path, 2) >= 0
    assert sorted(read) == [
        ("2/images/pages-1.img", 0),
        ("2/images/pages-1.img", cold_blocks._PIECE),
        ("2/manifest.json", 0),
    ]


def test_what_cannot_be_read_is_left_to_the_restore(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, 3)
    (folder / "images" / "odd").symlink_to("/nowhere")
    assert cold_blocks.fetch(tmp_path, 1) >= 0
