"""Log files: rotated by size, resized while they are written, within the space that they may take."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.configuration import LogConfiguration
from perdure.logs import MB, RotatedFile, apply_log_settings, file_limits

LINE = "x" * 99


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def written(handler: RotatedFile, lines: int) -> None:
    for _ in range(lines):
        handler.emit(logging.makeLogRecord({"msg": LINE}))


def sizes(file: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(file.parent.iterdir())}


def test_a_file_is_rotated_and_resized_while_it_is_written(tmp_path: Path) -> None:
    handler = RotatedFile(tmp_path / "a.log", maxBytes=1000, backupCount=5)
    written(handler, 45)
    assert set(sizes(tmp_path / "a.log")) == {"a.log", "a.log.1", "a.log.2", "a.log.3", "a.log.4"}
    (tmp_path / "a.log.old").write_text("not ours")
    handler.resize(2000, 2)
    assert set(sizes(tmp_path / "a.log")) == {"a.log", "a.log.1", "a.log.2", "a.log.old"}
    written(handler, 60)
    assert set(sizes(tmp_path / "a.log")) == {"a.log", "a.log.1", "a.log.2", "a.log.old"}
    assert 1000 < sizes(tmp_path / "a.log")["a.log.1"] <= 2000
    handler.close()


def test_without_old_files_a_full_one_begins_anew(tmp_path: Path) -> None:
    handler = RotatedFile(tmp_path / "a.log", maxBytes=1000, backupCount=0)
    written(handler, 47)
    assert set(sizes(tmp_path / "a.log")) == {"a.log"} and 0 < sizes(tmp_path / "a.log")["a.log"] <= 1000
    handler.close()


def test_settings_take_effect_on_what_is_open(tmp_path: Path, root: logging.Logger) -> None:
    handler = RotatedFile(tmp_path / "a.log", maxBytes=10 * MB, backupCount=10)
    root.handlers[:] = [handler]
    section = LogConfiguration(level="error", max_size_mb=1, max_backups=3)
    apply_log_settings(section, 1, level_fixed=False)
    assert (root.level, handler.maxBytes, handler.backupCount) == (logging.ERROR, MB, 3)
    apply_log_settings(section.model_copy(update={"level": "debug"}), 2, level_fixed=True)
    assert root.level == logging.ERROR, "the environment's level wins"
    handler.close()


def test_debug_never_asks_libraries_that_would_write_credentials(root: logging.Logger) -> None:
    apply_log_settings(LogConfiguration(level="debug"), 1, level_fixed=False)
    assert root.isEnabledFor(logging.DEBUG)
    for name in ("botocore.auth", "botocore.endpoint", "urllib3.connectionpool", "httpcore.http11", "httpx"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO), name


@given(st.integers(1, 10_240), st.integers(1, 102_400), st.integers(0, 1000))
def test_an_agents_files_stay_within_their_total(each: int, total: int, backups: int) -> None:
    section = LogConfiguration(node_max_size_mb=each, node_total_mb=total, max_backups=backups)
    size, kept = file_limits(section, on_node=True)
    assert size * (kept + 1) <= total * MB and 0 <= kept <= backups and size > 0
