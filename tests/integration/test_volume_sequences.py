"""Ten of the seeded sequences (volume_sequences.py); `make sequences` plays 200."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.stack.pool import free_disks, make_pool
from tests.integration.volume_sequences import play

pytestmark = pytest.mark.criu

FOLDER = Path("/var/lib/perdure-local") / f"test-seq-{os.getpid()}"


@pytest.fixture
def folder() -> Iterator[Path]:
    FOLDER.mkdir(parents=True)
    try:
        make_pool(FOLDER)
        yield FOLDER
    finally:
        free_disks(FOLDER)
        shutil.rmtree(FOLDER)


async def test_ten_lives_of_a_volume(folder: Path) -> None:
    total = await play(folder, range(1, 11), print)
    assert total["notice"] and total["power"] and total["to"] and total["crash"]
