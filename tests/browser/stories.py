"""Recorded lives of jobs, to look at: told as what happens, written as a job's workflow would record it.

Made up, but whole: every figure on a page comes of these records by the product's own sums.
"""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from perdure.domain.checkpoints import Checkpoint, CheckpointKind, Rehearsal, RehearsalVerdict
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState, Outage
from perdure.domain.nodes import Node, NodeState
from perdure.domain.orphans import OrphanKind, Tagged, judge
from perdure.domain.prices import PricePoint
from perdure.domain.retries import HandOver, RetryRule, RetryStrategy
from perdure.domain.volumes import VolumeLife
from perdure.records.costs import prices
from perdure.records.jobs import orphans
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import writing

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
RECLAIMS = RetryStrategy(
    attempts=8,
    rules=[
        RetryRule(action="EXIT", on_reason="OutOfMemory*"),
        RetryRule(action="RETRY", on_status_reason="Host EC2*"),
        RetryRule(action="RETRY", on_exit_code="137"),
        RetryRule(action="EXIT", on_reason="*"),
    ],
)
INSTANCE, TYPE = "i-0{:016x}", "m6i.2xlarge"


class Story:
    """A job's life as it is told. `now` is where the story has come to."""

    def __init__(self, name: str, begins: datetime, *, queue: str = "spot", zone: int = 0, **fields: Any) -> None:
        self.now = begins
        self._seed = zlib.crc32(name.encode())
        self._zone = zone
        self._fields: dict[str, Any] = {
            "retry": RECLAIMS,
            "vcpus": 4.0,
            "memory_mib": 16384,
            "interval_seconds": 900.0,
            "log_group": "/aws/batch/job",
        } | fields
        self._job = Job(job_id=self._id(name), name=name, queue=queue, created_at=begins, state=JobState.CREATED)
        self.nodes: list[Node] = []
        self.events: list[JobEvent] = []
        self._attempts: list[Attempt] = []
        self._outages: list[Outage] = []
        self._checkpoints: list[Checkpoint] = []
        self.all_checkpoints: list[Checkpoint] = []
        self._volumes: list[VolumeLife] = []
        self._pending: tuple[Outage, dict[str, float]] | None = None

    def _id(self, name: str) -> str:
        digits = f"{self._seed * 104729 % 16**12:012x}"
        return f"5b3f1d0e-{digits[:4]}-4c8e-9f0e-{digits}"

    @property
    def job_id(self) -> str:
        return self._job.job_id

    def tell(self, kind: str, message: str, level: str = "info") -> None:
        line = JobEvent(sequence=len(self.events) + 1, at=self.now, kind=kind, message=message, level=level)
        self.events.append(line.model_copy(update={"epoch": len(self._attempts) or None}))

    def arrive(self, seconds: float = 12, *, start: bool = True) -> Story:
        """A container on a new instance; after an outage it goes on from the newest checkpoint."""
        zone = ZONES[self._zone % len(ZONES)]
        number = len(self._attempts) + 1
        node = Node(
            instance_id=INSTANCE.format(self._seed * 104_729 + number * 7_368_787),
            zone=zone,
            region="us-east-1",
            instance_type=TYPE,
            pay_type="spot",
            vcpus=8,
            memory_mib=32768,
            cpu_features="avx avx2 aes",
            launched_at=self.now - timedelta(minutes=3),
            first_seen_at=self.now - timedelta(minutes=2),
            changed_at=self.now,
            agent_version="0.1.0",
        )
        self.nodes.append(node)
        attempt = Attempt(
            epoch=number,
            attempt=number,
            instance_id=node.instance_id,
            zone=zone,
            container_id=f"{number:064x}",
            accepted_at=self.now,
            log_stream=f"{self._job.name}/default/{self._seed * 7919 + number:032x}",
        )
        self._attempts.append(attempt)
        self.tell("attached", f"Attempt {number} arrived on {node.instance_id} in {zone}.")
        if number == 1:
            volume = VolumeLife(
                volume_id=f"vol-0{self._seed:016x}", zone=zone, volume_type="gp3", size_gib=100, created_at=self.now
            )
            self._volumes.append(volume)
            self.tell("volume", f"Volume {volume.volume_id} was made in {zone}.")
        if start:
            self._start(seconds)
        return self

    def _start(self, seconds: float) -> None:
        accepted, newest = self._attempts[-1].accepted_at, self._checkpoints[-1] if self._checkpoints else None
        self.now += timedelta(seconds=seconds)
        where = self._attempts[-1].instance_id
        if self._pending is None:
            self._attempt(started_at=self.now, batch_started_at=self.now)
            self.tell("started", f"The job starts clean on {where}.")
            self.tell("preflight", "Preflight: protectable.")
            return
        outage, phases = self._pending
        phases |= {"attached": seconds * 0.6, "restored": seconds * 0.4}
        began = outage.started_at + timedelta(
            seconds=phases.get("frozen", 0) + phases.get("dumped", 0) + phases.get("detached", 0)
        )
        phases["waited"] = max(0.0, (accepted - began).total_seconds())
        whole = (self.now - outage.started_at).total_seconds()
        back = newest.number if newest else None
        self._outages[-1] = outage.model_copy(
            update={"ended_at": self.now, "seconds": whole, "phases": phases, "restored_from": back}
        )
        self._attempt(started_at=self.now, batch_started_at=self.now, restored_from=back)
        self._pending = None
        self.tell("restored", f"The job goes on from checkpoint {back} on {where}.")

    def _attempt(self, **changes: Any) -> None:
        self._attempts[-1] = self._attempts[-1].model_copy(update=changes)

    def run(self, seconds: float) -> Story:
        """It runs, and takes its periodic checkpoints."""
        end, interval = self.now + timedelta(seconds=seconds), float(self._fields["interval_seconds"])
        while interval and self.now + timedelta(seconds=interval) < end:
            self.now += timedelta(seconds=interval)
            self.checkpoint(CheckpointKind.PERIODIC)
        self.now = end
        return self

    def checkpoint(self, kind: CheckpointKind, frozen: float = 1.4) -> None:
        number = len(self.all_checkpoints) + 1
        taken = Checkpoint(
            number=number,
            kind=kind,
            epoch=len(self._attempts),
            frozen_at=self.now,
            committed_at=self.now + timedelta(seconds=frozen + 7),
            image_bytes=(holds := 9 * 2**30 + number * 2**24),
            written_bytes=(wrote := holds if number == 1 else 410 * 2**20 + number * 7_919_000 % 2**28),
            holds_bytes=holds,
            shares_bytes=holds - wrote,
            full=1,
            phases={"pause": 0.09, "frozen": frozen, "dump": frozen * 0.8, "checksums": 5.1, "commit": 0.4},
            cpu_features="avx avx2 aes",
        )
        self.all_checkpoints.append(taken)
        self._checkpoints = [*self._checkpoints[-1:], taken]
        self.tell(
            "checkpoint", f"Checkpoint {number} ({kind}) is committed: {taken.image_bytes / 2**30:.1f} GiB of memory."
        )

    def reclaim(self, *, notice: bool = True, zones_on: int = 1) -> Story:
        """AWS takes the instance. The next container will come `zones_on` zones further."""
        where, epoch = self._attempts[-1].instance_id, len(self._attempts)
        if notice:
            deadline = self.now + timedelta(seconds=120)
            self.tell("notice", f"AWS takes {where} back at {deadline:%H:%M:%S} UTC.", "warning")
            self._attempt(noticed_at=self.now, notice_deadline=deadline)
            self.now += timedelta(seconds=1)
            self.checkpoint(CheckpointKind.FINAL)
            outage = Outage(epoch=epoch, kind="notice", started_at=self.now, work_lost_seconds=0.0)
            self._pending = (outage, {"frozen": 0.09, "dumped": 8.3, "detached": 6.4})
            self.now += timedelta(seconds=14.8)
            self.tell("handed over", "The job is safe. Perdure ended its container, and Batch starts the next attempt.")
            self._attempt(ended_at=self.now, end="handed over", batch_stopped_at=self.now)
        else:
            lost = (self.now - self._checkpoints[-1].frozen_at).total_seconds() if self._checkpoints else 0.0
            outage = Outage(epoch=epoch, kind="no notice", started_at=self.now, work_lost_seconds=lost)
            self._pending = (outage, {"detached": 4.0})
            self.tell("node lost", f"{where} was lost with the job on it.", "warning")
            self._attempt(ended_at=self.now, end="node lost", batch_stopped_at=self.now)
        self._outages.append(outage)
        gone = {"state": NodeState.GONE, "ended_at": self.now + timedelta(seconds=90), "ended_by": "aws"}
        self.nodes[-1] = self.nodes[-1].model_copy(update=gone)
        self._zone += zones_on
        return self

    def wait(self, seconds: float) -> Story:
        self.now += timedelta(seconds=seconds)
        return self

    def end(self, state: JobState, exit_code: int | None = 0) -> Story:
        self._attempt(ended_at=self.now, end="exited", batch_stopped_at=self.now)
        self.tell("exited", f"The container on {self._attempts[-1].instance_id} ended; Batch is asked what follows.")
        code = "" if exit_code is None else f" with exit code {exit_code}"
        word = "SUCCEEDED" if state is JobState.SUCCEEDED else "FAILED"
        self.tell("finished", f"The job is over ({word}{code}).", "info" if state is JobState.SUCCEEDED else "error")
        self._fields |= {"state": state, "exit_code": exit_code, "finished_at": self.now, "batch_status": word}
        self._checkpoints = []
        self._volumes = [one.model_copy(update={"deleted_at": self.now}) for one in self._volumes]
        return self

    def job(self, **changes: Any) -> Job:
        """As it is recorded now."""
        made = len(self._attempts)
        stood = sum(one.phases["frozen"] for one in self.all_checkpoints if one.kind is not CheckpointKind.FINAL)
        usual = {
            "state": JobState.RUNNING,
            "batch_status": "RUNNING",
            "changed_at": self.now,
            "epoch": made,
            "attempts": self._attempts,
            "outages": self._outages,
            "checkpoints": self._checkpoints,
            "checkpoints_committed": len(self.all_checkpoints),
            "frozen_seconds": stood,
            "protections": sum(one.ended_at is not None for one in self._outages),
            "volumes": self._volumes,
            "volume_id": self._volumes[-1].volume_id if self._volumes else None,
            "volume_zone": self._volumes[-1].zone if self._volumes else None,
            "max_rootfs_bytes": 412 * 2**20 + self._seed % 2**29,
            "attempts_left": RECLAIMS.attempts - made,
        }
        return self._job.model_copy(update=usual | self._fields | changes)


def record(engine: Engine, story: Story, revision: int = 1, **changes: Any) -> str:
    """Write a story as far as it has come; its job's id. A higher revision goes on with it."""
    with writing(engine) as session:
        for node in story.nodes:
            record_node(session, node)
    # The checkpoints that are offered no more stay as history only if they were offered once.
    with writing(engine) as session:
        record_job(
            session, story.job(**changes | {"checkpoints": story.all_checkpoints}), story.events, revision * 2 - 1
        )
        record_job(session, story.job(**changes), [], revision * 2)
    return story.job_id


def price(engine: Engine, now: datetime) -> None:
    """What instances and volumes cost, as AWS would have said."""
    with writing(engine) as session:
        for zone, micros in zip(ZONES, (121_000, 133_000, 118_000), strict=True):
            points = [PricePoint(at=now - timedelta(days=60), micros_per_hour=micros)]
            prices.save_spot_points(session, TYPE, zone, points, known_until=now)
        prices.save_on_demand(session, TYPE, "us-east-1", 384_000, at=now - timedelta(days=60))
        prices.save_storage(session, "us-east-1", {"gp3": 80_000}, at=now - timedelta(days=60))


def lose_two(engine: Engine, now: datetime) -> None:
    """A volume and a snapshot that no job owns, as the hourly look would find them."""
    job = "5b3f1d0e-0000-4c8e-9f0e-000000000001"
    made = now - timedelta(days=9)
    volume = Tagged(
        resource_id="vol-00000000000005afe",
        kind=OrphanKind.VOLUME,
        job_id=job,
        installation="here",
        place="us-east-1b",
        volume_type="gp3",
        size_gib=100,
        created_at=made,
    )
    changes = {
        "resource_id": "snap-0000000000005afe",
        "kind": OrphanKind.SNAPSHOT,
        "installation": "",
        "volume_type": "",
    }
    snapshot = volume.model_copy(update=changes)
    found = [one for thing in (volume, snapshot) if (one := judge(thing, "here", None, None))]
    with writing(engine) as session:
        orphans.note(session, found, now - timedelta(hours=3))


def fill(engine: Engine, now: datetime) -> dict[str, str]:
    """A platform at work: job ids by what they are."""
    hour = timedelta(hours=1)
    price(engine, now)
    ids: dict[str, str] = {}

    long = Story(
        "assemble-wheat", now - timedelta(days=13), queue="spot-large", vcpus=8.0, interval_seconds=3600.0
    ).arrive()
    for hours, notice in ((31, True), (52, True), (47.4, False), (90, True), (25, True)):
        long.run(hours * 3600).reclaim(notice=notice).wait(95).arrive(22)
    long.run((now - long.now).total_seconds())
    ids["long"] = record(engine, long, shared_mounts=["/fsx (lustre, fs-0a1b2c3d.fsx)"])

    short = (
        Story("chain", now - timedelta(minutes=9), interval_seconds=14.0).arrive(3).run(32).reclaim().wait(3).arrive(9)
    )
    short.run(27).reclaim(notice=False).wait(5).arrive(7).run(36).reclaim(zones_on=0).wait(4).arrive(8).run(41)
    ids["short"] = record(engine, short.end(JobState.SUCCEEDED))

    running = Story("align-NA12878", now - 7 * hour).arrive().run(2.2 * 3600).reclaim().wait(64).arrive(17)
    running.run(1.9 * 3600 + 500).reclaim(notice=False).wait(81).arrive(19)
    running.run((now - running.now).total_seconds())
    newest = running.all_checkpoints[-1]
    came_back = Rehearsal(
        number=newest.number,
        epoch=newest.epoch,
        at=now - timedelta(minutes=12),
        verdict=RehearsalVerdict.PASSED,
        seconds=4.2,
    )
    ids["running"] = record(engine, running, rehearsal=came_back, rehearsals=3)

    doubtful = Story("phase-chr20", now - 3 * hour, zone=1, interval_seconds=3600.0).arrive().run(2.5 * 3600)
    newest = doubtful.all_checkpoints[-1]
    why = "It listens on port 8080 of the node, where another container listens too."
    did_not = Rehearsal(
        number=newest.number,
        epoch=newest.epoch,
        at=doubtful.now,
        verdict=RehearsalVerdict.FAILED,
        reason=why,
        seconds=1.7,
    )
    doubtful.run((now - doubtful.now).total_seconds())
    ids["doubtful"] = record(engine, doubtful, rehearsal=did_not, rehearsals=2, rehearsal_failures=1)

    waiting = Story("call-NA12891", now - 3 * hour, zone=1).arrive().run(2.9 * 3600).reclaim()
    ids["waiting"] = record(engine, waiting, state=JobState.CHECKPOINT_SUCCEEDED, batch_status="RUNNABLE")

    restoring = Story("call-NA12892", now - 2 * hour, zone=2).arrive().run(1.95 * 3600).reclaim().wait(70)
    restoring.arrive(start=False)
    ids["restoring"] = record(engine, restoring, state=JobState.RESTORING, batch_status="STARTING")

    failed = Story("sort-bam-17", now - 5 * hour).arrive().run(3.1 * 3600).end(JobState.FAILED, 137)
    ids["failed"] = record(engine, failed)

    unprotected = Story("train-unet", now - hour, queue="gpu", retry=RetryStrategy(attempts=1)).arrive()
    unprotected.run((now - unprotected.now).total_seconds())
    why = "the mount '/data' (from '/mnt/training') is writable and lies outside the job volume; declare it shared, "
    why += "mount it read-only, or configure its source as scratch"
    unprotected.tell(
        "preflight",
        "Preflight: protectable with changes. Process 12 (python3) has a unix socket open whose other end is outside"
        " the container: /run/docker.sock (descriptor 9). Use TCP, or do without it.",
        "warning",
    )
    ids["unprotected"] = record(engine, unprotected, unprotected=why, attempts_left=0)

    last = Story("dock-ligands-4", now - 4 * hour, retry=RECLAIMS.model_copy(update={"attempts": 2})).arrive()
    last.run(2 * 3600).reclaim().wait(60).arrive(15).run(3600).reclaim()
    last.tell("kept", "No attempt is left. The last checkpoint is kept: resume can go on from it.", "error")
    kept: dict[str, Any] = {
        "state": JobState.FAILED,
        "finished_at": last.now,
        "hand_over": HandOver.KEEP_ONLY,
        "batch_status": "FAILED",
    }
    ids["kept"] = record(engine, last, **kept, attempts_left=0)

    lose_two(engine, now)
    for number in range(60):
        begins = now - timedelta(hours=4 + number * 2.6)
        done = Story(f"bwa-mem-{number:03}", begins, queue="spot" if number % 3 else "spot-large", zone=number).arrive()
        done.run(2400 + number * 37 % 900)
        if number % 4 == 0:
            done.reclaim(notice=number % 8 == 0).wait(50 + number).arrive(18).run(1500)
        record(engine, done.end(JobState.SUCCEEDED if number % 9 else JobState.FAILED, 0 if number % 9 else 1))
    return ids
