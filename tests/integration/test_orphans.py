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
from perdure.domain.errors import CloudUnavailable
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
        self._of_amazon = self._all()
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
        return self._all() - self._of_amazon

    def _all(self) -> set[str]:
        volumes = {one["VolumeId"] for one in self.ec2.describe_volumes()["Volumes"]}
        return volumes | {one["SnapshotId"] for one in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}


@pytest.fixture
def bed(engine: Engine) -> Iterator[OrphanBed]:
    with mock_aws():
        yield OrphanBed(engine, boto3.client("ec2", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b"))


@pytest.mark.row("Orphans: volumes and snapshots that no job owns are found, told and deleted after a grace", "volumes")
async def test_what_no_job_owns_goes_after_its_grace_and_nothing_else(bed: OrphanBed) -> None:
    kept, running = await bed.job("over", 2 * DAY), await bed.job("runs", None)
    left, left_of_none = await bed.volume("over"), await bed.volume("forgotten")
    snapshot, of_running = await bed.snapshot(kept, "over"), await bed.snapshot(running, "runs")
    theirs = str(bed.ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"])
    assert await bed.look() == 0 and await bed.look(23 * HOUR) == 0
    found = bed.listed()
    assert set(found) == {left, left_of_none, snapshot}
    assert "no record knows its job forgotten" in found[left_of_none].orphan.reason
    assert (found[left].month_micros, found[left].found_at) == (800_000, NOW)
    assert 0 < (found[snapshot].month_micros or 0) <= 500_000
    before = bed.sums()
    assert (before.found, before.deleted, before.kept) == (3, 0, 0) and before.size_gib >= 20
    assert await bed.look(24 * HOUR) == 3
    assert bed.there() == {kept, running, of_running, theirs}
    after = bed.sums()
    assert (after.found, after.deleted, after.saved_month_micros) == (0, 3, before.month_micros)
    assert set(bed.listed(gone=True)) == {left, left_of_none, snapshot} and not bed.listed()
    assert await bed.look(48 * HOUR) == 0
    with writing(bed.engine) as session:
        assert forget_before(session, NOW + 23 * HOUR) == 0 and forget_before(session, NOW + 25 * HOUR) == 3


@pytest.mark.parametrize("installation", ["", "another"])
async def test_what_is_not_provably_ours_stays(bed: OrphanBed, installation: str) -> None:
    """Of a job that no record knows: without a tag it is told, with another installation's it is none of ours."""
    volume = await bed.volume("unknown", installation=installation)
    assert await bed.look() == 0 and await bed.look(9 * DAY) == 0
    assert volume in bed.there()
    told = bed.listed()
    assert set(told) == (set() if installation else {volume})
    assert all("this installation's tag" in one.orphan.refusal for one in told.values())
    assert bed.sums().kept == len(told)


async def test_of_an_older_version_the_record_of_its_job_is_the_proof(bed: OrphanBed) -> None:
    await bed.job("over", 2 * DAY)
    volume = await bed.volume("over", installation="")
    await bed.look()
    assert await bed.look(DAY) == 1 and volume not in bed.there()


async def test_a_job_that_only_batch_knows_owns_its_volume(bed: OrphanBed) -> None:
    """Its first record is on its way, or the records were restored from a backup."""
    volume = await bed.volume("new")
    bed.batch.status["new"] = "RUNNING"
    assert await bed.look() == 0 and await bed.look(9 * DAY) == 0 and not bed.listed()
    bed.batch.status["new"] = "FAILED"
    assert await bed.look(10 * DAY) == 0 and volume in bed.listed(), "its grace begins now"
    assert await bed.look(11 * DAY) == 1


async def test_an_orphan_that_is_one_no_more_begins_anew(bed: OrphanBed) -> None:
    volume = await bed.volume("new")
    await bed.look()
    bed.batch.status["new"] = "RUNNING"
    await bed.look(HOUR)
    bed.batch.status["new"] = "SUCCEEDED"
    assert await bed.look(25 * HOUR) == 0 and volume in bed.there()
    assert bed.listed()[volume].found_at == NOW + 25 * HOUR


async def test_what_is_attached_stays_and_keeps_no_other_waiting(bed: OrphanBed) -> None:
    await bed.job("over", 2 * DAY)
    held, free = await bed.volume("over"), await bed.volume("forgotten")
    instance = bed.attach(held)
    await bed.look()
    assert instance in bed.listed()[held].orphan.refusal
    assert await bed.look(DAY) == 1 and held in bed.there() and free not in bed.there()


async def test_grace_zero_only_tells(bed: OrphanBed) -> None:
    volume = await bed.volume("forgotten")
    with writing(bed.engine) as session:
        server = ServerConfiguration(orphan_grace_seconds=0)
        save_configuration(session, SystemConfiguration(server=server), by="test", at=NOW)
    assert await bed.look() == 0 and await bed.look(90 * DAY) == 0
    assert volume in bed.there() and volume in bed.listed()


async def test_a_dry_run_changes_nothing(bed: OrphanBed) -> None:
    await bed.job("over", 2 * DAY)
    volume = await bed.volume("over")
    found: OrphansFound = await run(bed.orphans.find_orphans, FindOrphans(now=NOW))
    assert [one.orphan.thing.resource_id for one in found.items] == [volume] and found.totals.found == 1
    assert found.items[0].month_micros == 800_000 and not bed.listed() and volume in bed.there()


async def test_batch_that_does_not_answer_makes_nobody_an_orphan(bed: OrphanBed) -> None:
    class Away(BatchLookups):
        async def statuses(self, job_ids: Any) -> dict[str, str]:
            raise CloudUnavailable("AWS did not answer")

    await bed.volume("forgotten")
    await bed.look()
    bed.orphans = Orphans(bed.engine, bed._volumes, Away(bed.batch))
    with pytest.raises(CloudUnavailable):
        await bed.look(9 * DAY)
    assert len(bed.there()) == 1
