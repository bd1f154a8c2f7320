"""Roll-back in place: any tree becomes the clone again, with the inode numbers it had, cut short or not."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.domain.errors import ImageInvalid, JobRootBusy
from perdure.image import rollback
from perdure.image.files import (
    FILES,
    TREES,
    clone_command,
    digest_clones,
    long_paths,
    note_inodes,
    verify_clones,
    walk,
)
from perdure.image.rollback import roll_back

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")


def job_root(top: Path) -> Path:
    """A job root with empty trees and the folder of one checkpoint."""
    for place in TREES.values():
        (top / place).mkdir(parents=True)
    (top / "checkpoints/1" / FILES).mkdir(parents=True)
    return top


def clone(root: Path) -> dict[str, int]:
    for tree, live in TREES.items():
        subprocess.run(clone_command(root / live, root / "checkpoints/1" / FILES / tree), check=True)
    return note_inodes(root)


def inventory(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a program could see of a tree, times of access and change aside."""
    seen: dict[str, tuple[object, ...]] = {}
    for entry in walk(root):
        path, status = root / entry.path, entry.status
        content: object = None
        if entry.kind == stat.S_IFREG:
            content = path.read_bytes()
        elif entry.kind == stat.S_IFLNK:
            content = os.readlink(path)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attribute_names(path)}
        links = status.st_nlink if entry.kind != stat.S_IFDIR else 0
        fields = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, links)
        seen[entry.path] = (*fields, content, attributes)
    return seen


def _attribute_names(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def same_files(root: Path) -> list[set[str]]:
    """Which names are one file."""
    groups: dict[int, set[str]] = {}
    for entry in walk(root):
        groups.setdefault(entry.status.st_ino, set()).add(entry.path)
    return sorted((group for group in groups.values() if len(group) > 1), key=sorted)


def torture(live: Path) -> None:
    """One of everything that a job's layer may hold."""
    for name in ("kept/deep", "opaque", "emptied", "moved"):
        (live / name).mkdir(parents=True)
    for name in ("rewritten", "appended", "truncated", "deleted", "replaced", "kept/deep/file", "moved/file"):
        (live / name).write_bytes(name.encode() * 5000)
    (live / "empty").touch()
    (live / "suid").write_bytes(b"#!")
    os.chown(live / "suid", 1000, 1000)
    os.chmod(live / "suid", 0o6755)
    os.link(live / "rewritten", live / "kept/second name")
    os.link(live / "rewritten", live / "kept/third name")
    with open(live / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"middle")
    os.symlink("/nowhere/at all", live / "link")
    os.symlink("rewritten", live / "retargeted")
    os.lchown(live / "link", 1000, 1000)
    os.mknod(live / "whiteout", stat.S_IFCHR | 0o000, os.makedev(0, 0))
    os.mknod(live / "device", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mkfifo(live / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(live, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    os.setxattr(live / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(live / "kept/deep/file", "user.note", b"\x00\xff")
    os.setxattr(live / "empty", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
    (live / os.fsdecode(b"bytes \xff\n%41")).write_bytes(b"x")
    os.utime(live / "kept", ns=(1, 1_000_000_001))


def wreck(live: Path) -> None:
    """What the job did to it after the checkpoint."""
    (live / "rewritten").write_bytes(b"other")
    with open(live / "appended", "ab") as file:
        file.write(b"more")
    os.truncate(live / "truncated", 3)
    (live / "deleted").unlink()
    (live / "replaced").unlink()
    (live / "replaced").mkdir()
    (live / "replaced/inside").touch()
    (live / "kept/second name").unlink()
    os.rename(live / "moved", live / "kept/moved away")
    os.rename(live / "emptied", live / "renamed")
    (live / "retargeted").unlink()
    os.symlink("elsewhere", live / "retargeted")
    (live / "whiteout").unlink()
    (live / "whiteout").mkdir()
    (live / "fifo").unlink()
    (live / "fifo").write_bytes(b"not a pipe")
    (live / "link").unlink()
    os.symlink("/etc", live / "link")
    os.removexattr(live / "opaque", "trusted.overlay.opaque")
    os.setxattr(live / "kept/deep/file", "user.later", b"1")
    os.chmod(live / "kept/deep/file", 0o600)
    (live / "new/tree/of").mkdir(parents=True)
    (live / "new/tree/of/files").write_bytes(b"z" * 9999)


@pytest.fixture(params=["plain", pytest.param("xfs", marks=pytest.mark.criu)])
def root(request: pytest.FixtureRequest, mount_place: Path) -> Iterator[Path]:
    """A job root, on whatever file system the tests run on, and on XFS, where clones share extents."""
    if request.param == "plain":
        yield job_root(mount_place)
        return
    with xfs(mount_place) as top:
        yield job_root(top)


@contextlib.contextmanager
def xfs(place: Path) -> Iterator[Path]:
    image, top = place / "xfs.img", place / "mounted"
    top.mkdir()
    subprocess.run(["truncate", "-s", "400M", image], check=True)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, top], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)


@as_root
def test_a_torture_tree_comes_back_equal_and_in_place(root: Path) -> None:
    for tree in TREES.values():
        torture(root / tree)
    inodes = clone(root)
    before = {tree: (inventory(root / live), same_files(root / live)) for tree, live in TREES.items()}
    digest = digest_clones(root / "checkpoints/1")
    assert {tree: inventory(root / "checkpoints/1" / FILES / tree) for tree in TREES} == {
        tree: seen for tree, (seen, _) in before.items()
    }
    for tree in TREES.values():
        wreck(root / tree)
    roll_back(root, root / "checkpoints/1", inodes)
    assert {tree: (inventory(root / live), same_files(root / live)) for tree, live in TREES.items()} == before
    kept = {name: number for name, number in note_inodes(root).items() if inodes[name] == number}
    for name in ("rewritten", "appended", "truncated", "kept/third name", "moved/file", "moved", "emptied", "sparse"):
        assert f"layer/{name}" in kept and f"data/{name}" in kept
    assert not (root / rollback.ASIDE).exists()
    verify_clones(root / "checkpoints/1", digest)
    assert (root / "layer/upper/sparse").stat().st_blocks * 512 < 1 << 20


@as_root
def test_an_interrupted_roll_back_can_be_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = root / "layer/upper"
    torture(live)
    inodes = clone(root)
    before = inventory(live)
    wreck(live)
    for calls in (1, 4, 9, 20, 40):
        remaining = iter(range(calls))
        real = os.rename

        def rename(*arguments: object, left: Iterator[int] = remaining, real: object = real) -> None:
            if next(left, None) is None:
                raise InterruptedError
            assert callable(real)
            real(*arguments)

        monkeypatch.setattr(os, "rename", rename)
        with contextlib.suppress(InterruptedError):
            roll_back(root, root / "checkpoints/1", inodes)
        monkeypatch.undo()
    roll_back(root, root / "checkpoints/1", inodes)
    assert inventory(live) == before
    assert note_inodes(root)["layer/appended"] == inodes["layer/appended"]


names = st.sampled_from("abcd")
contents = st.binary(max_size=2000)
trees = st.recursive(contents, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12).filter(
    lambda tree: isinstance(tree, dict)
)


def build(folder: Path, tree: dict[str, object]) -> None:
    for name, what in tree.items():
        if isinstance(what, bytes):
            (folder / name).write_bytes(what)
        else:
            assert isinstance(what, dict)
            (folder / name).mkdir()
            build(folder / name, what)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
@given(before=trees, after=trees)
def test_any_tree_becomes_any_other(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, object], after: dict[str, object]
) -> None:
    """Even if every inode number that was noted belongs to something else by now."""
    root = job_root(tmp_path_factory.mktemp("root"))
    build(root / "data", before)
    noted = clone(root)
    seen = inventory(root / "data")
    for entry in reversed(list(walk(root / "data"))):
        path = root / "data" / entry.path
        path.rmdir() if path.is_dir() else path.unlink()
    build(root / "data", after)
    numbers = list(note_inodes(root).values())
    shuffled = {name: numbers[place % len(numbers)] if numbers else 1 for place, name in enumerate(noted)}
    roll_back(root, root / "checkpoints/1", shuffled)
    assert inventory(root / "data") == seen


@pytest.mark.criu
def test_nothing_is_rolled_back_across_a_mount(mount_place: Path) -> None:
    root = job_root(mount_place)
    inside = root / "data" / "inside"
    inside.mkdir()
    inodes = clone(root)
    subprocess.run(["mount", "-t", "tmpfs", "none", inside], check=True)
    try:
        (inside / "precious").touch()
        with pytest.raises(JobRootBusy, match="still mounted"):
            roll_back(root, root / "checkpoints/1", inodes)
        with pytest.raises(JobRootBusy, match="another file system"):
            note_inodes(root)
        assert (inside / "precious").exists()
    finally:
        subprocess.run(["umount", inside], check=True)


def test_a_lost_or_altered_clone_is_noticed(tmp_path: Path) -> None:
    root = job_root(tmp_path)
    (root / "data/file").write_bytes(b"1234")
    clone(root)
    checkpoint = root / "checkpoints/1"
    digest = digest_clones(checkpoint)
    verify_clones(checkpoint, digest)
    os.truncate(checkpoint / FILES / "data/file", 3)
    with pytest.raises(ImageInvalid, match="changed since it was committed"):
        verify_clones(checkpoint, digest)


def test_long_paths_are_found_one_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "short/deep").mkdir(parents=True)
    assert list(long_paths(tmp_path, 300)) == []
    for name in ("a", "b"):
        (tmp_path / "short/deep" / (name * 250)).write_text("")
    assert list(long_paths(tmp_path, 300)) == []
    (found,) = long_paths(tmp_path, 260)
    assert found.startswith("short/deep/") and len(found) == 261
    (tmp_path / "link").symlink_to("short")
    (tmp_path / "short/deep" / ("c" * 250)).mkdir()
    assert [path.count("/") for path in long_paths(tmp_path, 5)] == [1]
