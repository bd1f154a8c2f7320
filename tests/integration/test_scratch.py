"""Job roots on an instance's own disk: made, found again, given back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities.records import Records
from perdure.domain.configuration import (
    CheckpointConfiguration,
    JobConfiguration,
    JobVolumeConfiguration,
    StoreConfiguration,
    SystemConfiguration,
)
from perdure.domain.errors import VolumeFailed
from perdure.image.mounts import read_mounts
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.records.settings import configuration
from tests.patience import PATIENCE
from worker_agent.engine.commands import run
from worker_agent.node.scratch import drop_scratch, mount_scratch, sweep_scratch
from worker_agent.node.volumes import grow_file_system, unmount_volume

MIB = 1 << 20


@pytest.fixture
async def point(tmp_path: Path) -> AsyncIterator[Path]:
    """Where a job root is mounted; unmounted afterwards, whatever happens."""
    yield tmp_path / "jobs" / "one"
    await unmount_volume(tmp_path / "jobs" / "one")


async def test_a_job_root_is_made_once_and_given_back(tmp_path: Path, point: Path) -> None:
    image = tmp_path / "scratch" / "one.xfs"
    await mount_scratch(image, point, most_bytes=600 * MIB)
    (point / "file").write_text("content")
    assert await mount_scratch(image, point, most_bytes=600 * MIB) == {"mounted": 0.0}
    assert (point / "file").read_text() == "content"
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize < 600 * MIB
    assert image.stat().st_blocks * 512 < 100 * MIB
    assert sweep_scratch(image.parent) == [], "what is mounted is somebody's"
    await unmount_volume(point)
    assert sweep_scratch(image.parent, [image]) == []
    assert sweep_scratch(image.parent) == ["one.xfs"]
    drop_scratch(image)


async def test_a_file_system_gets_the_rest_of_a_device_that_has_grown(tmp_path: Path, point: Path) -> None:
    """As a job volume's does, once EC2 has made it larger: mounted and in use meanwhile."""
    image = tmp_path / "scratch" / "one.xfs"
    await mount_scratch(image, point, most_bytes=600 * MIB)
    (point / "file").write_text("content")
    assert not await grow_file_system(point), "its own log and headers are nothing that is left"
    os.truncate(image, 2048 * MIB)
    device = next(mount.source for mount in read_mounts() if mount.point == str(point))
    await run(["losetup", "--set-capacity", device], limit_seconds=PATIENCE)
    assert await grow_file_system(point)
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize > 1900 * MIB
    assert not await grow_file_system(point) and (point / "file").read_text() == "content"


async def test_what_an_ended_container_left_is_not_found_again(tmp_path: Path, point: Path) -> None:
    image = tmp_path / "scratch" / "one.xfs"
    await mount_scratch(image, point, most_bytes=600 * MIB)
    (point / "file").write_text("content")
    await unmount_volume(point)
    await mount_scratch(image, point, most_bytes=600 * MIB)
    assert os.listdir(point) == []


async def test_another_mount_in_its_place_is_left_alone(tmp_path: Path, point: Path) -> None:
    await mount_scratch(tmp_path / "scratch" / "one.xfs", point, most_bytes=600 * MIB)
    with pytest.raises(VolumeFailed, match="belongs"):
        await mount_scratch(tmp_path / "scratch" / "two.xfs", point, most_bytes=600 * MIB)


async def test_too_little_space_is_said(tmp_path: Path, point: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=200M", "none", str(disk))
    assert await mounting.wait() == 0
    try:
        with pytest.raises(VolumeFailed, match="too little"):
            await mount_scratch(disk / "scratch" / "one.xfs", point, most_bytes=600 * MIB)
    finally:
        assert await (await asyncio.create_subprocess_exec("umount", str(disk))).wait() == 0


def test_workflows_get_every_section_for_jobs(tmp_path: Path) -> None:
    """The store among them: without it, jobs without a volume would run unprotected."""
    engine = open_engine(f"sqlite:///{tmp_path / 'records.db'}")
    migrate(engine)
    store = StoreConfiguration(kind="s3", bucket="checkpoints")
    volume = JobVolumeConfiguration(enabled=False)
    wanted = SystemConfiguration(checkpoint=CheckpointConfiguration(keep=7), job_volume=volume, store=store)
    with writing(engine) as session:
        configuration.save_configuration(session, wanted, at=datetime.now(UTC), by="test")
    got = asyncio.run(ActivityEnvironment().run(Records(engine).load_configuration))
    assert type(got) is JobConfiguration
    assert (got.checkpoint.keep, got.job_volume, got.store) == (7, volume, store)
    engine.dispose()
