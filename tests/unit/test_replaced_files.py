"""What stands away while a file of the image gets its copy comes back, whenever the agent died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker_agent.engine.replaced_files import put_back


@pytest.mark.parametrize("copied", [False, True], ids=["before the copy", "after it"])
def test_an_agents_successor_puts_it_back(tmp_path: Path, copied: bool) -> None:
    layer, away = tmp_path / "upper", tmp_path / "work/away"
    place = os.fsdecode(b"usr/lib/caf\xe9")
    (layer / "usr/lib").mkdir(parents=True)
    away.mkdir(parents=True)
    (away / "place").write_bytes(os.fsencode(f"/{place}"))
    (away / "what").write_text("new")
    if copied:
        (layer / place).write_text("old")
    for _ in range(2):
        put_back(layer)
        assert (layer / place).read_text() == "new" and not away.exists()
        assert os.listdir(layer / "usr/lib") == [os.path.basename(place)]


def test_a_link_that_the_job_made_leads_nowhere(tmp_path: Path) -> None:
    layer, away = tmp_path / "upper", tmp_path / "work/away"
    layer.mkdir()
    away.mkdir(parents=True)
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts/file").write_text("the machine's")
    (layer / "folder").symlink_to(tmp_path / "hosts")
    (away / "place").write_text("/folder/file")
    (away / "what").write_text("new")
    with pytest.raises(OSError, match="Not a directory"):
        put_back(layer)
    assert (tmp_path / "hosts/file").read_text() == "the machine's"
