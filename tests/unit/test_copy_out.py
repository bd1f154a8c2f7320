"""What a job wrote is copied out; no name or link of its choosing leads anywhere else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from localcloud.stack.copy_out import copy_out
from perdure.domain.errors import StackError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A layer as a mean job would leave it, and a secret beside it."""
    base = tmp_path / "upper"
    (base / "out" / "deep").mkdir(parents=True)
    (base / "out" / "deep" / "result").write_bytes(b"42")
    (base / "out" / "run").write_text("#!/bin/sh")
    (base / "out" / "run").chmod(0o4755)
    (tmp_path / "secret").write_text("secret")
    (base / "out" / "link").symlink_to(tmp_path / "secret")
    (base / "folder-link").symlink_to(tmp_path)
    return base


def test_a_folder_comes_with_all_in_it_and_links_stay_links(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert copy_out(base, "/out", target) == []
    assert (target / "deep" / "result").read_bytes() == b"42"
    assert (target / "run").stat().st_mode & 0o7777 == 0o755  # without set-user-id
    assert os.readlink(target / "link") == str(tmp_path / "secret")


def test_one_file(base: Path, tmp_path: Path) -> None:
    copy_out(base, "/out/deep/result", tmp_path / "result")
    assert (tmp_path / "result").read_bytes() == b"42"


@pytest.mark.parametrize("path", ["/folder-link/secret", "/out/link/x", "/none", "/out/none/x", "/out/deep/result/x"])
def test_links_are_not_followed_and_what_is_not_there_says_so(base: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(StackError, match="left no file"):
        copy_out(base, path, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_link_of_an_earlier_copy_is_replaced_not_written_through(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    copy_out(base, "/out", target)
    (base / "out" / "link").unlink()
    (base / "out" / "link").write_text("overwritten")
    copy_out(base, "/out", target)
    assert (target / "link").read_text() == "overwritten"
    assert (tmp_path / "secret").read_text() == "secret"


def test_what_is_no_file_is_named_and_left_out(base: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(base / "out" / "socket"))
        assert copy_out(base, "/out", tmp_path / "target") == [
            "socket is neither a file, a folder nor a link and was left out"
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
def test_a_deleted_file_is_not_there(base: Path, tmp_path: Path) -> None:
    os.mknod(base / "out" / "gone", 0o020000, 0)
    assert copy_out(base, "/out", tmp_path / "target") == []
    assert not (tmp_path / "target" / "gone").exists()
    with pytest.raises(StackError, match="left no file"):
        copy_out(base, "/out/gone", tmp_path / "gone")
