"""Memory images that are shorter than their lists say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.domain.errors import ImageInvalid
from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Field
from worker_agent.engine.page_images import check_length

PAGE = os.sysconf("SC_PAGESIZE")
OF_PARENT, PRESENT, LAZY = 1, 4, 2


def listed(folder: Path, *entries: list[Field]) -> None:
    head = criu_image.encode([Field(1, 0, 7)])
    messages = [head, *(criu_image.encode([Field(1, 0, 0x1000), *entry]) for entry in entries)]
    (folder / "pagemap-12.img").write_bytes(criu_image.image(0x56084025, messages))


def test_what_is_in_a_parent_or_not_present_is_not_counted(tmp_path: Path) -> None:
    listed(
        tmp_path,
        [Field(2, 0, 3), Field(4, 0, PRESENT), Field(5, 0, 3)],
        [Field(2, 0, 90), Field(4, 0, OF_PARENT), Field(5, 0, 90)],
        [Field(2, 0, 90), Field(3, 0, 1)],
        [Field(2, 0, 90), Field(4, 0, LAZY), Field(5, 0, 90)],
        [Field(2, 0, 2)],
    )
    (tmp_path / "pages-7.img").write_bytes(bytes(5 * PAGE))
    check_length(tmp_path)
    (tmp_path / "pages-7.img").write_bytes(bytes(5 * PAGE - 1))
    with pytest.raises(ImageInvalid, match=f"pages-7.img ends at {5 * PAGE - 1} of {5 * PAGE} bytes"):
        check_length(tmp_path)
    (tmp_path / "pages-7.img").unlink()
    with pytest.raises(ImageInvalid, match="ends at 0 of"):
        check_length(tmp_path)


def test_a_process_without_pages_needs_no_file(tmp_path: Path) -> None:
    listed(tmp_path)
    check_length(tmp_path)
