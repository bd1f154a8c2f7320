"""The job root: one holder at a time, one epoch, logs cut to the byte, space for the reserve."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.domain.checkpoints import StdioOffsets
from perdure.domain.errors import Fenced, ImageInvalid, JobRootBusy, JobRootFull
from tests.unit.test_store import begin, commit
from worker_agent.engine.job_root import (
    check_lease,
    claim_lease,
    cut_logs,
    empty,
    ensure_layout,
    free_bytes,
    held,
    keep_reserve,
    lease_epoch,
    locked,
    make_room,
    offered,
    store,
    sweep,
    used_rootfs_bytes,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ensure_layout(tmp_path)
    return tmp_path


def test_the_layout_is_made_once(root: Path) -> None:
    assert stat.S_IMODE((root / "layer/upper").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "data").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "checkpoints").stat().st_mode) == 0o700
    (root / "data").chmod(0o700)
    (root / "log/stdout").write_bytes(b"kept")
    ensure_layout(root)
    assert stat.S_IMODE((root / "data").stat().st_mode) == 0o700
    assert (root / "log/stdout").read_bytes() == b"kept"


def test_a_clean_start_leaves_nothing_but_the_numbers(root: Path) -> None:
    commit(store(root))
    begin(store(root))
    for name in ("layer/upper/file", "data/file", "log/stdout"):
        (root / name).write_bytes(b"old")
    empty(root)
    assert offered(root) == [] and sweep(root) == []
    assert not (root / "layer/upper/file").exists() and not (root / "data/file").exists()
    assert (root / "log/stdout").read_bytes() == b""
    assert commit(store(root)) == 3


def test_the_lease_only_rises(root: Path) -> None:
    assert lease_epoch(root) == 0
    claim_lease(root, 2)
    claim_lease(root, 2)
    check_lease(root, 2)
    with pytest.raises(Fenced, match="belongs to epoch 2"):
        claim_lease(root, 1)
    claim_lease(root, 3)
    with pytest.raises(Fenced):
        check_lease(root, 2)
    (root / "lease.json").write_text('{"epoch": "many"}')
    with pytest.raises(ImageInvalid, match="damaged"):
        lease_epoch(root)


def test_the_lock_dies_with_its_holder(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from worker_agent.engine.job_root import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(JobRootBusy, match="at work"), locked(root):
            pass
        holder.kill()
        holder.wait()
    with locked(root):
        pass


def test_without_a_volume_there_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(JobRootBusy, match="is the job volume mounted"), locked(tmp_path / "absent"):
        pass


def test_logs_are_cut_to_the_byte(root: Path) -> None:
    (root / "log/stdout").write_bytes(b"one\ntwo\nthree")
    cut_logs(root, StdioOffsets(stdout=8, stderr=0))
    assert (root / "log/stdout").read_bytes() == b"one\ntwo\n"
    with pytest.raises(ImageInvalid, match="output is missing"):
        cut_logs(root, StdioOffsets(stdout=9, stderr=0))
    assert (root / "log/stdout").read_bytes() == b"one\ntwo\n"


def test_the_newest_checkpoint_is_never_dropped_for_space(root: Path) -> None:
    for _ in range(3):
        commit(store(root))
    assert keep_reserve(root, 0) == []
    assert offered(root) == [3, 2, 1]
    with pytest.raises(JobRootFull, match="use a larger job volume"):
        make_room(root, 1 << 60, 1 << 20)
    assert offered(root) == [3]
    assert make_room(root, 1, free_bytes(root) // 2) == []


def test_the_root_layer_is_measured_as_it_lies_on_disk(root: Path) -> None:
    with open(root / "layer/upper/sparse", "wb") as file:
        file.truncate(1 << 30)
    (root / "layer/upper/full").write_bytes(os.urandom(1 << 20))
    assert 1 << 20 <= used_rootfs_bytes(root) < 2 << 20


async def test_the_reserve_keeper_gives_way_to_a_checkpoint(root: Path) -> None:
    """Fault: on a nearly full volume it held the lock for seconds, and a notice got JobRootBusy."""
    for _ in range(5):
        commit(store(root))
    keeping = asyncio.create_task(asyncio.to_thread(keep_reserve, root, 1 << 60))  # never to be had: all go
    while 1 in store(root).numbers():
        await asyncio.sleep(0.01)
    async with held(root):
        left = store(root).numbers()
        assert len(left) > 1, "the checkpoint had to wait until the keeper was done"
        assert busy(root)
    await asyncio.gather(keeping, return_exceptions=True)
    assert store(root).numbers() == left


async def test_a_deletion_that_gives_way_leaves_a_torn_checkpoint_at_most(root: Path) -> None:
    for _ in range(2):
        commit(store(root))
    files = root / "checkpoints/1/files/data"
    for number in range(20_000):
        (files / str(number)).touch()
    looks = iter([False])
    with pytest.raises(JobRootBusy, match="in part only"):
        store(root).delete(1, lambda: next(looks, True))
    assert store(root).numbers() == [2]
    assert sweep(root) == [1]


async def test_the_lock_is_free_after_a_wait_for_it_was_cancelled(root: Path) -> None:
    async def hold() -> None:
        async with held(root):
            await asyncio.Event().wait()

    for _ in range(20):
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    while busy(root):
        await asyncio.sleep(0.01)


def busy(root: Path) -> bool:
    try:
        with locked(root):
            return False
    except JobRootBusy:
        return True
