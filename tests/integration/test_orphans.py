"""Orphans: found by tag, told, deleted after their grace and never before, on both databases; EC2 played by moto in
this process. What is owned, attached, or not provably ours stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws
from sqlalchemy import Engine

from activities.batch import BatchLookups
from activities.orphans import Orphans
from activities.volumes import Volumes
from perdure.contracts.control import CreateSnapshot, CreateVolume
from perdure.contracts.orphans import FindOrphans, OrphansFound
from perdure.contracts.reconciling import Reconcile
from perdure.domain.configuration import ServerConfiguration, SystemConfiguration
from perdure.domain.orphans import KnownOrphan, OrphanSums
from perdure.records.costs.prices import save_storage
from perdure.records.jobs.orphans import forget_before, installation_name, list_orphans, sum_orphans
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import save_configuration
from tests.integration.test_kept_volumes import DAY, NOW, ZONE, Bed, run

HOUR = timedelta(hours=1)


class OrphanBed(Bed):
    """The same account, and the look for orphans."""

    def __init__(self, engine: Engine, ec2: Any) -> None:
        super().__init__(engine, ec2)
        with writing(engine) as session:
            self.installation = installation_name(session)
            save_storage(session, "us-east-1", {"gp3": 80_000, "snapshot": 50_000}, at=NOW - 60 * DAY)
        self._volumes = Volumes(0.01, ec2, installation=self.installation)
        self._of_moto = self._all()
        self.orphans = Orphans(engine, self._volumes, BatchLookups(self.batch))

    async def volume(self, job_id: str, *, installation: str | None = None) -> str:
        """One more volume with that job's tag."""
        maker = self._volumes if installation is None else Volumes(0.01, self.ec2, installation=installation)
        wanted = CreateVolume(job_id=job_id, zone=ZONE, volume_type="gp3", size_gib=10, token=f"{job_id} more")
        return (await run(maker.create_volume, wanted)).volume_id

    async def snapshot(self, volume_id: str, job_id: str) -> str:
        wanted = CreateSnapshot(volume_id=volume_id, job_id=job_id, token=f"{job_id} {volume_id}")
        return (await run(self._volumes.create_snapshot, wanted)).snapshot_id

    async def look(self, after: timedelta = timedelta(0)) -> int:
        """The hourly look; how many it deleted."""
        return (await run(self.orphans.reconcile_orphans, Reconcile(now=NOW + after))).told

    def listed(self, *, gone: bool = False) -> dict[str, KnownOrphan]:
        with reading(self.engine) as session:
            items = list_orphans(session, now=NOW, gone=gone).items
        return {one.orphan.thing.resource_id: one for one in items}

    def sums(self) -> OrphanSums:
        with reading(self.engine) as session:
            return sum_orphans(session, now=NOW)

    def there(self) -> set[str]:
        """Everything in the account but what moto puts there."""
        return self._all() - self._of_moto

    def of_instances(self) -> list[str]:
        """Root volumes of the instances that tests start."""
        return [one["VolumeId"] for one in self.ec2.describe_volumes()["Volumes"] if one["Size"] == 8]

    def _all(self) -> set[str]:
        volumes = {one["VolumeId"] for one in self.ec2.describe_volumes()["Volumes"]}
        return volumes | {one["SnapshotId"] for one in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}


@pytest.fixture
def bed(engine: Engine) -> Iterator[OrphanBed]:
    with mock_aws():
        yield OrphanBed(engine, boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b"))


async def test_what_no_job_owns_goes_after_its_grace_and_nothing_else(bed: OrphanBed) -> None:
    kept, running = await bed.job("over", 2 * DAY), await bed.job("runs", None)
    of_running = await bed.snapshot(running, "runs")
    theirs = str(bed.ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"])
    of_others = await bed.volume("unknown there", installation="another")
    only_batch_knows = await bed.volume("new")
    bed.batch.status["new"] = "RUNNING"
    untagged = await bed.volume("unknown", installation="")
    held = await bed.volume("over")
    instance = bed.attach(held)
    left, snapshot = await bed.volume("forgotten"), await bed.snapshot(kept, "over")

    dry: OrphansFound = await run(bed.orphans.find_orphans, FindOrphans(now=NOW))
    assert {one.orphan.thing.resource_id for one in dry.items} == {left, snapshot, untagged, held}
    assert not bed.listed(), "a dry run writes nothing"
    assert await bed.look() == 0 and await bed.look(23 * HOUR) == 0
    found = bed.listed()
    assert set(found) == {left, snapshot, untagged, held}
    assert "no record knows its job forgotten" in found[left].orphan.reason
    assert (found[left].month_micros, found[left].found_at) == (800_000, NOW)
    assert instance in found[held].orphan.refusal and "this installation's tag" in found[untagged].orphan.refusal
    before = bed.sums()
    assert (before.found, before.deleted, before.kept) == (4, 0, 2) and before == dry.totals

    assert await bed.look(24 * HOUR) == 2
    stays = {kept, running, of_running, theirs, of_others, only_batch_knows, untagged, held}
    assert bed.there() - set(bed.of_instances()) == stays
    after = bed.sums()
    assert (after.found, after.deleted, after.kept) == (2, 2, 2)
    assert after.saved_month_micros == before.month_micros - after.month_micros > 0
    assert set(bed.listed(gone=True)) == {left, snapshot} and set(bed.listed()) == {untagged, held}
    assert await bed.look(48 * HOUR) == 0
    with writing(bed.engine) as session:
        assert forget_before(session, NOW + 23 * HOUR) == 0 and forget_before(session, NOW + 25 * HOUR) == 2


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_grace_begins_anew_and_zero_only_tells(bed: OrphanBed) -> None:
    volume = await bed.volume("new")
    await bed.look()
    bed.batch.status["new"] = "RUNNING"
    assert await bed.look(HOUR) == 0 and not bed.listed()
    bed.batch.status["new"] = "SUCCEEDED"
    assert await bed.look(25 * HOUR) == 0 and bed.listed()[volume].found_at == NOW + 25 * HOUR
    with writing(bed.engine) as session:
        server = ServerConfiguration(orphan_grace_seconds=0)
        save_configuration(session, SystemConfiguration(server=server), by="test", at=NOW)
    assert await bed.look(90 * DAY) == 0 and volume in bed.there() and volume in bed.listed()
