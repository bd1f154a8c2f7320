"""Seeded sequences of what can happen to a job volume, played against the local EBS: `make sequences` plays 200.

    .venv/bin/python -m tests.integration.volume_sequences [COUNT] [FIRST_SEED]

Each sequence is one volume's life: made, attached, mounted, written; then some moves, each a reclaim with or without a
notice, to the same zone or to another one; then the end. Faults are drawn beside it: attaches and detaches that hang,
snapshots and volumes that fail, throttled calls, and a control worker that dies in the middle of a call (the call is
cancelled and made again, as Temporal would). What the product does is the product's own: `activities.volumes`, in the
order of the workflows. What must hold: what was synced before a reclaim is there after it; no two instances ever have
the volume at a time (looked at by the EBS plane itself, at each attach); at the end no volume and no snapshot is left.
The processes of a job are not in it: those are the demo's and the engine's tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from temporalio.testing import ActivityEnvironment

from activities.ec2_calls import Mutations
from activities.volumes import Volumes
from localcloud.aws.ebs_conditions import Fault, FaultKind
from localcloud.stack.pool import free_disks, make_pool
from perdure.contracts.control import (
    AttachVolume,
    CreateSnapshot,
    CreateVolume,
    DetachVolume,
    RefreshSnapshots,
    SnapshotRef,
    VolumeRef,
)
from perdure.domain.errors import PerdureError
from tests.integration.test_ebs import Guest, MountLauncher
from tests.patience import PATIENCE
from tests.unit.cloud_bed import ZONES, CloudBed, cloud_bed

T = TypeVar("T")
JOB = "job-of-sequence-{}"
MOST_TRIES = 40
CRASH_CHANCE = 0.15


class Sequence:
    """One volume's life, by its seed."""

    def __init__(self, bed: CloudBed, seed: int) -> None:
        self._bed, self._draw = bed, random.Random(seed)
        self._fate = random.Random(f"crashes of {seed}")
        """Apart, because how often something is tried depends on the machine: the life of a seed stays the same."""
        self._job_id = JOB.format(seed)
        self._volumes = Volumes(0.1, bed.aws.ec2, mutations=Mutations(200.0, 20.0), stuck_seconds=0.4)
        self._epoch = 0
        self.steps: list[str] = []
        self.events: Counter[str] = Counter()

    async def run(self) -> None:
        """Raises AssertionError, with the steps so far, where something does not hold."""
        try:
            await self._life()
        except (AssertionError, TimeoutError, PerdureError) as problem:
            raise AssertionError(f"{problem}\nafter: {' → '.join(self.steps)}") from problem

    async def _life(self) -> None:
        zone = self._draw.choice(ZONES)
        volume_id = (await self._try(self._volumes.create_volume, self._wanted(zone, "first"))).volume_id
        content: list[str] = []
        for move in range(self._draw.randint(1, 4)):
            self._epoch += 1
            await asyncio.to_thread(self._bed.refresh)  # a node in each zone: the last reclaim took one away
            guest = await asyncio.to_thread(Guest, self._bed, zone)
            await self._attach(volume_id, guest)
            await asyncio.to_thread(self._write_and_check, volume_id, guest, content, move)
            if self._draw.random() < 0.6:
                await self._zone_snapshot(volume_id)
            await self._reclaim(volume_id, guest)
            if self._draw.random() < 0.5:
                volume_id, zone = await self._migrate(volume_id, zone)
        await self._try(self._volumes.detach_volume, DetachVolume(volume_id=volume_id))
        await self._try(self._volumes.delete_volume, VolumeRef(volume_id=volume_id))
        await self._try(self._volumes.refresh_snapshots, RefreshSnapshots(job_id=self._job_id, keep_newest=False))
        await self._nothing_is_left()

    async def _attach(self, volume_id: str, guest: Guest) -> None:
        self._note(f"attach to {guest.instance_id[:6]}")
        await self._try(self._volumes.detach_volume, DetachVolume(volume_id=volume_id))
        self._fault(FaultKind.STUCK_ATTACHING)
        await self._try(self._volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=guest.instance_id))

    def _write_and_check(self, volume_id: str, guest: Guest, content: list[str], move: int) -> None:
        inside = guest.mount(volume_id, make=move == 0)
        for number, text in enumerate(content):
            assert (inside / f"of-{number}").read_text() == text, f"what move {number} had synced is not there"
        text = f"{self._job_id} {move} {self._draw.random()}"
        (inside / f"of-{move}").write_text(text)
        guest.run("sync", "-f", f"/run/{volume_id}")
        (inside / "not synced").write_text("may be lost")
        content.append(text)

    async def _reclaim(self, volume_id: str, guest: Guest) -> None:
        if self._draw.random() < 0.4:
            self._note("power lost")
            assert await asyncio.to_thread(self._bed.cloud.fleet.end, guest.instance_id)
            return
        self._note("notice")
        await asyncio.to_thread(guest.unmount, volume_id)
        self._fault(FaultKind.STUCK_DETACHING)
        request = DetachVolume(volume_id=volume_id, instance_id=guest.instance_id, unmounted=True)
        await self._try(self._volumes.detach_volume, request)
        assert await asyncio.to_thread(self._bed.cloud.fleet.end, guest.instance_id)

    async def _zone_snapshot(self, volume_id: str) -> None:
        self._note("zone snapshot")
        self._fault(FaultKind.SNAPSHOT_ERROR)
        request = RefreshSnapshots(job_id=self._job_id, volume_id=volume_id, token=f"{self._job_id} zone {self._epoch}")
        await self._try(self._volumes.refresh_snapshots, request)

    async def _migrate(self, volume_id: str, zone: str) -> tuple[str, str]:
        """As workflows/volume_migration.py does it."""
        other = next(one for one in ZONES if one != zone)
        self._note(f"to {other[-2:]}")
        await self._try(self._volumes.detach_volume, DetachVolume(volume_id=volume_id))
        self._fault(FaultKind.SNAPSHOT_ERROR)
        token = f"{self._job_id} {self._epoch} {volume_id}"
        request = CreateSnapshot(volume_id=volume_id, job_id=self._job_id, token=f"{token} snapshot")
        snapshot: SnapshotRef = await self._try(self._volumes.create_snapshot, request)
        self._fault(self._draw.choice([FaultKind.VOLUME_ERROR, FaultKind.NO_VOLUMES]))
        wanted = self._wanted(other, token).model_copy(update={"snapshot_id": snapshot.snapshot_id})
        moved = await self._try(self._volumes.create_volume, wanted)
        await self._try(self._volumes.delete_volume, VolumeRef(volume_id=volume_id, job_waits=True))
        await self._try(self._volumes.refresh_snapshots, RefreshSnapshots(job_id=self._job_id, job_waits=True))
        return moved.volume_id, other

    def _wanted(self, zone: str, token: str) -> CreateVolume:
        return CreateVolume(
            job_id=self._job_id, zone=zone, volume_type="gp3", size_gib=1, token=f"{self._job_id} {token}"[:64]
        )

    def _note(self, step: str) -> None:
        self.steps.append(step)
        self.events[step.split(" ")[0]] += 1

    def _fault(self, kind: FaultKind) -> None:
        conditions = self._bed.cloud.conditions
        if self._draw.random() < 0.35:
            seconds = self._draw.choice([0.2, None]) if kind.value.startswith("stuck") else None
            conditions.add(Fault(kind=kind, times=1, seconds=seconds))
            self._note(str(kind))
        if self._draw.random() < 0.25:
            conditions.add(Fault(kind=FaultKind.THROTTLE, times=self._draw.randint(1, 6), chance=0.5))
            self._note("throttle")

    async def _try(self, activity: Callable[[Any], Coroutine[Any, Any, T]], request: object) -> T:
        """As Temporal would: again after what passes, and after the worker died in the middle."""
        for _ in range(MOST_TRIES):
            work = asyncio.create_task(ActivityEnvironment().run(activity, request))
            if self._fate.random() < CRASH_CHANCE:
                await asyncio.wait([work], timeout=self._fate.random() * 0.3)
                if not work.done():
                    self._note("crash")
                    work.cancel()
                    with contextlib.suppress(asyncio.CancelledError, PerdureError):
                        await work
                    continue
            try:
                return await asyncio.wait_for(work, PATIENCE)
            except PerdureError as problem:
                if not problem.retryable:
                    raise
                await asyncio.sleep(0.05)
        raise AssertionError(f"{activity} did not succeed in {MOST_TRIES} tries")

    async def _nothing_is_left(self) -> None:
        """Volumes that ended as `error`, and what a dying worker had begun, are found by their tags."""
        await asyncio.sleep(0.2)
        mine: list[Any] = [{"Name": "tag:perdure:job", "Values": [self._job_id]}]
        ec2 = self._bed.aws.ec2
        self._bed.cloud.conditions.clear()
        volumes = ec2.describe_volumes(Filters=mine)["Volumes"]
        snapshots = ec2.describe_snapshots(OwnerIds=["self"], Filters=mine)["Snapshots"]
        assert not volumes, f"left: {[(one['VolumeId'], one['State']) for one in volumes]}"
        assert not snapshots, f"left: {[(one['SnapshotId'], one['State']) for one in snapshots]}"


async def play(folder: Path, seeds: range, tell: Callable[[str], None]) -> Counter[str]:
    """All of them on one cloud; what happened, counted. Raises AssertionError, naming the seed."""
    total: Counter[str] = Counter()
    with cloud_bed(folder, MountLauncher(), nodes_per_zone=0) as bed:
        for seed in seeds:
            bed.refresh()
            sequence = Sequence(bed, seed)
            try:
                await sequence.run()
                assert not bed.cloud.disks.second_writers, f"two instances had {bed.cloud.disks.second_writers}"
            except AssertionError as problem:
                raise AssertionError(f"seed {seed}: {problem}") from problem
            finally:
                bed.cloud.conditions.clear()
            total += sequence.events
            tell(f"seed {seed}: {' → '.join(sequence.steps)}")
    return total


def main() -> None:
    """Print one line for each sequence, and a record at the end."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing stays mounted
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    folder = Path("/var/lib/perdure-local") / f"sequences-{os.getpid()}"
    folder.mkdir(parents=True)
    begun = time.monotonic()
    try:
        make_pool(folder)
        total = asyncio.run(play(folder, range(first, first + count), print))
        print(f"{count} sequences from seed {first} in {time.monotonic() - begun:.0f} s; all held. What happened:")
        for name, often in sorted(total.items()):
            print(f"  {name}: {often}")
    finally:
        free_disks(folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
