"""What unit tests of several modules need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.image.mounts import delete_tree


@pytest.fixture
def mount_place() -> Iterator[Path]:
    """A folder to mount things in: not below pytest's own, which other runs of pytest tidy up without a look at mounts.
    It is left where something is still mounted."""
    place = Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp"))
    yield place
    delete_tree(place)
