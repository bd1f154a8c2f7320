"""The directory store keeps its contract: committed or torn, verified or refused, numbers never given twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import ImageInvalid, JobRootBusy
from perdure.image.checksums import digest_images
from perdure.image.files import FILES, TREES, digest_clones
from perdure.image.layout import IMAGES
from perdure.image.manifest import MANIFEST
from perdure.image.store import DirectoryStore
from tests.unit.test_manifest import WHEN


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "checkpoints").mkdir()
    return DirectoryStore(tmp_path / "checkpoints")


def begin(store: DirectoryStore) -> Path:
    """A checkpoint that was dumped but not committed."""
    folder = store.begin()
    (folder / IMAGES / "pages-1.img").write_bytes(b"pages" * 1000)
    (folder / IMAGES / "core-1.img").write_bytes(b"core")
    for tree in TREES:
        (folder / FILES / tree / "below").mkdir(parents=True)
        (folder / FILES / tree / "below" / "file").write_bytes(b"content")
    return folder


def commit(store: DirectoryStore) -> int:
    made = _manifest(begin(store))
    store.put(made)
    return made.number


def _manifest(folder: Path) -> Manifest:
    return Manifest(
        job_id="job",
        number=int(folder.name),
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        attempt=1,
        instance_id="i-0",
        frozen_at=WHEN,
        committed_at=WHEN,
        container_id="c" * 64,
        images=digest_images(folder),
        files_digest=digest_clones(folder),
    )


def test_a_checkpoint_exists_once_it_is_committed(store: DirectoryStore) -> None:
    assert [commit(store), commit(store)] == [1, 2]
    begin(store)
    assert store.numbers() == [1, 2]
    assert [manifest.number for manifest in store.committed()] == [1, 2]
    assert store.verify(2).image_bytes == 5004
    assert store.sweep() == [3]
    assert not store.folder(3).exists()
    with pytest.raises(ImageInvalid):
        store.open(3)


def test_no_number_is_given_twice(store: DirectoryStore) -> None:
    for _ in range(3):
        commit(store)
    begin(store)
    for number in (1, 2, 3):
        store.delete(number)
    store.sweep()
    assert commit(store) == 5
    (store.root / "last").write_text("rubbish")
    assert commit(store) == 6


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_kind_of_damage_is_found(store: DirectoryStore) -> None:
    places: dict[str, Callable[[Path], object]] = {
        "wrong checksum": lambda folder: flip(folder / IMAGES / "pages-1.img"),
        "has 0 bytes instead of 4": lambda folder: (folder / IMAGES / "core-1.img").write_bytes(b""),
        "is missing": lambda folder: (folder / IMAGES / "core-1.img").unlink(),
        "not in the manifest": lambda folder: (folder / IMAGES / "extra.img").touch(),
        "have altered|has changed": lambda folder: (folder / FILES / "layer" / "below" / "file").unlink(),
        "files are gone": lambda folder: (folder / FILES / "data").rename(folder / "away"),
        "cannot be read": lambda folder: _replace_by_link(folder / IMAGES / "core-1.img"),
    }
    for words, damage in places.items():
        number = commit(store)
        damage(store.folder(number))
        with pytest.raises(ImageInvalid, match=words):
            store.verify(number)


def _replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "t")
    path.symlink_to("../t")


def test_a_damaged_manifest_is_a_rung_that_fails(store: DirectoryStore) -> None:
    commit(store)
    flip(store.folder(commit(store)) / "manifest.json")
    assert store.numbers() == [1, 2]
    assert [manifest.number for manifest in store.committed()] == [1]


def test_strange_names_are_not_checkpoints(store: DirectoryStore) -> None:
    for name in ("0", "007", "-1", "1e3", "٣", "9" * 30):
        (store.root / name).mkdir()
    (store.root / "4").symlink_to("/")
    assert store.sweep() == []
    assert commit(store) == 1


def test_without_its_folder_the_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobRootBusy, match="is the job volume mounted"):
        DirectoryStore(tmp_path / "absent").numbers()


def test_a_deletion_that_was_cut_short_leaves_a_torn_one(store: DirectoryStore) -> None:
    number = commit(store)
    os.unlink(store.folder(number) / "manifest.json")
    assert store.numbers() == []
    assert store.sweep() == [number]
    store.delete(number)


_opened: list[str] = []
sys.addaudithook(lambda event, said: _opened.append(str(said[0])) if event == "open" else None)


def test_one_checkpoint_is_found_without_reading_the_others(store: DirectoryStore) -> None:
    """Fault: all manifests, each with up to a million inode numbers, were parsed to find one."""
    commit(store), commit(store), commit(store)
    _opened.clear()
    assert store.head(2).number == 2
    assert [Path(path).parent.name for path in _opened if path.endswith(MANIFEST)] == ["2"]


def test_to_look_at_checkpoints_no_list_of_files_is_made(store: DirectoryStore) -> None:
    folder = begin(store)
    store.put(_manifest(folder).model_copy(update={"inodes": {"layer/below": 1234}}))
    (head,) = store.committed()
    assert not hasattr(head, "inodes")
    assert store.open(head.number).inodes == {"layer/below": 1234}
