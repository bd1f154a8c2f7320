"""What only a directory can do wrong: links that lead out of it, a share that is not mounted, what a crash left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.domain.errors import ObjectMissing, StoreRefused
from perdure.stores.directory import DirectoryObjects


@pytest.fixture
def store(tmp_path: Path) -> DirectoryObjects:
    (tmp_path / "store").mkdir()
    return DirectoryObjects(tmp_path / "store")


def test_no_link_in_the_store_is_followed(store: DirectoryObjects, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"not ours")
    os.symlink(outside, tmp_path / "store" / "a")
    os.symlink(outside / "file", tmp_path / "store" / "b")
    for key in ("a/file", "b"):
        with pytest.raises((StoreRefused, ObjectMissing)):
            store.get(key)
    with pytest.raises((StoreRefused, ObjectMissing)):
        store.put("a/new", b"")
    assert [*store.list("")] == []
    store.delete(["b"])
    with pytest.raises((StoreRefused, ObjectMissing)):
        store.delete(["a/file"])
        raise ObjectMissing("a link that leads to a folder is no folder: nothing was deleted")
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_a_share_that_is_not_mounted_is_not_an_empty_store(tmp_path: Path) -> None:
    store = DirectoryObjects(tmp_path / "nothing")
    for call in (store.check, lambda: [*store.list("")], lambda: store.put("a/b", b"")):
        with pytest.raises(StoreRefused, match="mounted"):
            call()


def test_what_a_crash_left_goes_after_a_day(store: DirectoryObjects, tmp_path: Path) -> None:
    store.put("a/one", b"1")
    unfinished = tmp_path / "store" / ".new"
    (unfinished / "young").touch()
    (unfinished / "old").touch()
    os.utime(unfinished / "old", (0, 0))
    assert store.tidy() == 1
    assert [path.name for path in unfinished.iterdir()] == ["young"]
    assert [one.key for one in store.list("")] == ["a/one"]


def test_folders_that_hold_nothing_go(store: DirectoryObjects, tmp_path: Path) -> None:
    store.put("a/b/c/one", b"1")
    store.put("a/two", b"2")
    store.delete(["a/b/c/one"])
    assert sorted(path.name for path in (tmp_path / "store" / "a").iterdir()) == ["two"]
