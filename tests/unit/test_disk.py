"""Which parts of a file hold something: what could not be looked at is no hole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.image.disk import data_parts

BLOCK = 1 << 20


def test_parts_cover_what_was_written_and_no_hole_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.seek(4 * BLOCK)
        file.write(b"y" * 4096)
        file.truncate(8 * BLOCK)
    with path.open("rb") as file:
        parts = list(data_parts(file.fileno(), 8 * BLOCK))
        assert parts[0][0] == 0 and parts == sorted(parts)
        assert any(begin <= 4 * BLOCK < end for begin, end in parts)
        assert all(begin < end <= 8 * BLOCK for begin, end in parts)
        assert list(data_parts(file.fileno(), 100)) == [(0, 100)]


def test_a_file_that_cannot_be_asked_is_not_taken_for_a_hole() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            list(data_parts(reader, BLOCK))
    finally:
        os.close(reader)
        os.close(writer)
