"""A job volume's XFS as its last instance left it: real file systems on loop devices, with logs that are dirty."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.aws.ebs import cut_power
from perdure.domain.errors import VolumeDamaged
from tests.patience import PATIENCE
from worker_agent.node import file_systems
from worker_agent.node.file_systems import Log, log_state, mount_xfs
from worker_agent.node.volumes import _mount

pytestmark = pytest.mark.criu

VOLUME = "vol-0123456789abcdef0"


def tool(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "volume.img"
    tool("truncate", "-s", "400M", image)
    tool("mkfs.xfs", "-q", "-m", "reflink=1", image)
    loop = tool("losetup", "--find", "--show", image)
    yield Path(loop)
    tool("losetup", "--detach", loop)


@pytest.fixture
def point(tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is mounted, by whomever; a check may take as long as it likes."""
    monkeypatch.setattr(file_systems, "_CHECK", PATIENCE)
    place = tmp_path / "mounted"
    place.mkdir()
    yield place
    if place.is_mount():
        tool("umount", place)


def use(device: Path, point: Path, *, power_cut: bool) -> None:
    """An earlier instance: what it flushed is to be there again."""
    tool("mount", "-t", "xfs", device, point)
    for number in range(50):
        (point / f"file-{number}").write_text("kept")
    tool("sync", "-f", point)
    if power_cut:
        cut_power([str(device)])
    tool("umount", point)


async def test_what_was_unmounted_is_mounted_without_a_word(device: Path, point: Path) -> None:
    use(device, point, power_cut=False)
    assert await log_state(device) is Log.CLEAN
    found = await mount_xfs(VOLUME, device, point, forced=False, cold=False)
    assert (found.remark, found.checked) == ("", 0.0)
    assert (point / "file-49").read_text() == "kept"


async def test_after_a_power_cut_the_log_is_replayed_and_the_file_system_checked(device: Path, point: Path) -> None:
    use(device, point, power_cut=True)
    assert await log_state(device) is Log.DIRTY
    found = await mount_xfs(VOLUME, device, point, forced=False, cold=False)
    assert "was not unmounted by its last instance: its log was replayed" in found.remark
    assert "xfs_repair found it sound" in found.remark and found.checked > 0
    assert (point / "file-49").read_text() == "kept"


async def test_where_a_check_would_not_pay_it_is_said(device: Path, point: Path) -> None:
    use(device, point, power_cut=True)
    found = await mount_xfs(VOLUME, device, point, forced=False, cold=True)
    assert (
        "its log was replayed" in found.remark
        and "it was not checked: it was just made from a snapshot" in found.remark
    )
    assert (point / "file-49").read_text() == "kept"


async def test_what_was_taken_by_force_is_checked_with_a_clean_log_too(
    device: Path, point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(device, point, power_cut=False)
    found = await mount_xfs(VOLUME, device, point, forced=True, cold=True)
    assert "was taken from its last instance by force: its log is clean, and xfs_repair found it sound" in found.remark
    tool("umount", point)
    monkeypatch.setattr(file_systems, "_LARGEST_CHECKED", 1)
    assert (
        "it was not checked: it has 0.0 TiB" in (await mount_xfs(VOLUME, device, point, forced=True, cold=False)).remark
    )


def damage(device: Path, what: str) -> None:
    """Overwrite inodes: the root folder's, which no mount survives, or those that only a check reads."""
    block = tool("xfs_db", "-r", "-c", f"convert ino {what} daddr", device).split()[0]
    with device.open("r+b") as disk:
        disk.seek(int(block, 0) * 512)
        disk.write(b"\xa5" * 4096)
        disk.flush()
        os.fsync(disk)  # a close writes nothing while somebody else has the device open, who only looks at all devices


@pytest.mark.parametrize("forced", [True, False])
async def test_a_damaged_file_system_is_not_mounted_and_what_to_do_is_named(
    device: Path, point: Path, *, forced: bool
) -> None:
    use(device, point, power_cut=False)
    damage(device, "152" if forced else "128")
    with pytest.raises(VolumeDamaged, match=r"is damaged: .*run `xfs_repair` on it") as raised:
        await mount_xfs(VOLUME, device, point, forced=forced, cold=False)
    assert ("xfs_repair says" in str(raised.value)) is forced, "a mount reads few inodes, a check all"
    assert not point.is_mount()


async def test_a_clean_start_gets_a_new_file_system_in_place_of_a_damaged_one(device: Path, point: Path) -> None:
    """Nothing on it is needed: the job is protected again."""
    use(device, point, power_cut=False)
    damage(device, "128")
    found = await _mount(VOLUME, device, point, may_format=True, forced=False, cold=False)
    assert "so its volume got a new file system" in found.remark and "is damaged" in found.remark
    assert point.is_mount() and list(point.iterdir()) == []
