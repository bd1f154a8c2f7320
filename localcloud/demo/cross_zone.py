"""`perdure demo --scenario cross-zone`: one job changes its zone cold, another one warm, on EBS as slow as EBS.

Cold: no snapshot of the volume was taken before the notice, so all of it is moved after it. Warm: the job's volume was
snapshotted while it ran, so only what changed since is moved. Both jobs are alike. The delays are those of the rates
that are named (docs/local-faults.md); how many bytes each snapshot moved, the local EBS measures.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcloud.demo.display import Display
from localcloud.demo.jobs import PYTHON, DemoJob, Places
from localcloud.demo.stack_user import Look, StackUser, Stopped
from localcloud.demo_jobs import rover
from localcloud.stack.stack import StackPlace
from perdure.domain.errors import StackError

VOLUME_GIB, DATA_MIB = 2, 1600
STEPS, PAUSE_SECONDS = 300, 0.1
INTERVAL = "15s"
STAGE_LIMIT_SECONDS = 400.0
LOOK_SECONDS = 0.5
MOST_OUTAGE, MOST_BYTES = 0.3, 0.2
"""Of the cold move's, the warm one's may be at most."""
PROGRAM = Path(rover.__file__)


@dataclass(frozen=True)
class Move:
    """One job's change of zone. `predicted`: Perdure's own line before it began; `before_bytes`: what snapshots moved
    while the job still ran."""

    outage_seconds: float
    phases: dict[str, float]
    moved_bytes: int
    before_bytes: int
    zones: list[str]
    predicted: str
    identical: bool
    one_process: bool


@dataclass(frozen=True)
class CrossZone:
    """Both moves, and what does not hold."""

    warm: Move
    cold: Move
    rates: str
    seed: int
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The last line for programs. Seconds, bytes."""
        return {
            "ok": not self.problems,
            "warm_outage_s": self.warm.outage_seconds,
            "cold_outage_s": self.cold.outage_seconds,
            "warm_bytes_moved": self.warm.moved_bytes,
            "cold_bytes_moved": self.cold.moved_bytes,
            "warm_bytes_moved_before": self.warm.before_bytes,
            "phases": {"warm": self.warm.phases, "cold": self.cold.phases},
            "zones": {"warm": self.warm.zones, "cold": self.cold.zones},
            "predicted": {"warm": self.warm.predicted, "cold": self.cold.predicted},
            "rates": self.rates,
            "seed": self.seed,
            "problems": self.problems,
        }


def run_cross_zone(place: StackPlace, keep: bool, display: Display, rates: str, seed: int) -> CrossZone:
    """The whole scenario on a stack of its own, which is gone afterwards unless `keep`. Raises StackError, with the
    stack stopped, when it could not be brought to an end; so does Ctrl-C."""
    user = StackUser(place, threading.Event())
    try:
        with display.busy("starting"):
            status = user.up(lambda line: display.tell("stack", line))
        display.tell("demo", f"Console {status['api_url']}   watch both jobs there")
        scenario = _Scenario(user, display, sorted({node["zone"] for node in status["nodes"]}))
        scenario.set_up(rates, seed)
        cold = scenario.move("cold", zone_snapshot_seconds=0)
        warm = scenario.move("warm", zone_snapshot_seconds=5)
    except BaseException:
        display.still()
        display.tell("stack", "stopping")
        user.down()
        raise
    user.close()
    if not keep:
        display.tell("stack", "stopping")
        with display.busy("stopping"):
            user.down()
    return CrossZone(warm, cold, rates, seed, judge(warm, cold))


def judge(warm: Move, cold: Move) -> list[str]:
    """A sentence for each thing that does not hold."""
    problems = []
    if warm.outage_seconds > MOST_OUTAGE * cold.outage_seconds:
        problems.append(f"the warm outage is {warm.outage_seconds / cold.outage_seconds:.2f} of the cold one")
    if warm.moved_bytes > MOST_BYTES * cold.moved_bytes:
        problems.append(f"the warm move moved {warm.moved_bytes / cold.moved_bytes:.2f} of the cold one's bytes")
    for name, move in (("warm", warm), ("cold", cold)):
        if len(set(move.zones)) != 2:
            problems.append(f"the {name} job did not change its zone: {' → '.join(move.zones)}")
        if not move.identical:
            problems.append(f"the {name} job's output is not that of an undisturbed run")
        if not move.one_process:
            problems.append(f"the {name} job was started anew")
    return problems


class _Scenario:
    """Drives both jobs, one after the other, on a running stack."""

    def __init__(self, user: StackUser, display: Display, zones: list[str]) -> None:
        self._user, self._display, self._zones = user, display, zones
        self._inputs = user.folder / "inputs"

    def set_up(self, rates: str, seed: int) -> None:
        """Small volumes, slow EBS, the program where jobs find it."""
        self._inputs.mkdir(parents=True)
        shutil.copy(PROGRAM, self._inputs / PROGRAM.name)
        client = self._user.client
        # Without spread both moves have the same delays: what differs is what is moved. Both volumes are let go of
        # inside the notice, so nobody waits for the dead host; only `reclaim` would, for five minutes.
        changed = {"spread": 0.0, "dead_host_release": 5.0}
        client.cloud("POST", "/_local/ebs", json={"profile": rates, "seed": seed, "rates": changed})
        self._display.tell("demo", f"EBS is as slow as {rates} from now on")

    def move(self, name: str, zone_snapshot_seconds: float) -> Move:
        """A job from its begin to its end, moved to the other zone in between."""
        client = self._user.client
        section = {"size_gib": VOLUME_GIB, "zone_snapshot_seconds": zone_snapshot_seconds}
        client.asked("PATCH", "/api/v1/configuration/job_volume", json=section)
        finish = self._inputs / f"finish-{name}"
        job_id = self._user.submit(_job(name, finish.name), self._inputs, INTERVAL)
        self._display.tell(name, f"submitted as {job_id}")
        self._until(
            name, job_id, lambda seen: seen.running and bool(seen.offered) and seen.progress > 0, "a checkpoint"
        )
        volume_id = str((client.job_page(job_id) or {})["volume_id"])
        if zone_snapshot_seconds:
            self._await_zone_snapshot(name, job_id, volume_id)
        before = self._snapshots(volume_id)
        seen = self._user.look(job_id)
        to_zone = next(zone for zone in self._zones if zone != seen.zone)
        self._display.tell(name, f"reclaim of {seen.node} in {seen.zone} → {to_zone}")
        self._user.reclaim(job_id, to_zone, True, lambda line: self._display.tell(name, line))
        self._until(name, job_id, lambda now: now.running and now.epoch > seen.epoch, "its return")
        finish.touch()
        self._until(name, job_id, lambda now: now.finished, "its end")
        return self._seen(name, job_id, self._snapshots(volume_id)[len(before) :], before)

    def _seen(self, name: str, job_id: str, moved: list[dict[str, Any]], before: list[dict[str, Any]]) -> Move:
        summary = self._user.summary(job_id)
        outage = self._user.outages(job_id)[0]
        stdout = self._user.logs(job_id)[0].decode(errors="replace").splitlines()
        digest = stdout[-1].rpartition(" ")[2] if stdout else ""
        result = Move(
            outage_seconds=outage.seconds or 0.0,
            phases=outage.phases,
            moved_bytes=sum(int(each["moved_bytes"]) for each in moved),
            before_bytes=sum(int(each["moved_bytes"]) for each in before),
            zones=list(summary.get("zones") or []),
            predicted=self._predicted(job_id),
            identical=digest == rover.expected(DATA_MIB, STEPS),
            one_process=len({line.partition("]")[0] for line in stdout}) == 1,
        )
        self._display.tell(name, f"stood still for {result.outage_seconds:.1f} s, {result.moved_bytes >> 20} MiB moved")
        return result

    def _predicted(self, job_id: str) -> str:
        events = self._user.client.api("GET", f"/api/v1/jobs/{job_id}/events").raise_for_status().json()
        lines = [str(each["message"]) for each in events if each["kind"] == "migration"]
        return next((line for line in lines if "predicted" in line), "")

    def _await_zone_snapshot(self, name: str, job_id: str, volume_id: str) -> None:
        """Until all data is in a completed snapshot: from then on the job is warm. (A first one may not have what the
        kernel had not written yet.)"""
        self._display.tell(name, "runs on until a snapshot of its volume is completed")
        end = time.monotonic() + STAGE_LIMIT_SECONDS
        while not any(
            each["completed"] and int(each["full_bytes"]) >= DATA_MIB << 20 for each in self._snapshots(volume_id)
        ):
            if time.monotonic() > end:
                raise StackError(f"no snapshot of {volume_id} was completed within {STAGE_LIMIT_SECONDS:g} s")
            self._display.show(name, self._user.look(job_id))
            time.sleep(LOOK_SECONDS)

    def _snapshots(self, volume_id: str) -> list[dict[str, Any]]:
        found = self._user.client.cloud("GET", "/_local/snapshots", params={"volume_id": volume_id})
        return list(found["snapshots"])

    def _until(self, name: str, job_id: str, condition: Callable[[Look], bool], what: str) -> None:
        end = time.monotonic() + STAGE_LIMIT_SECONDS
        while True:
            seen = self._user.look(job_id)
            self._display.show(name, seen)
            if condition(seen):
                return
            if seen.batch_status == "FAILED":
                raise StackError(f"{name} failed before {what}; see `perdure job {job_id}`")
            if time.monotonic() > end:
                raise Stopped(f"{name} did not come to {what} within {STAGE_LIMIT_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)


def _job(name: str, finish: str) -> DemoJob:
    def command(at: Places) -> list[str]:
        return [
            *(PYTHON, str(at.inputs / PROGRAM.name), "--data", str(at.volume / "data"), "--mib", str(DATA_MIB)),
            *("--steps", str(STEPS), "--pause", str(PAUSE_SECONDS), "--until", str(at.inputs / finish)),
        ]

    return DemoJob(
        name=name,
        title=f"a job with {DATA_MIB} MiB on its volume, moved {name}",
        command=command,
        outputs=lambda at: [],
        plan=(),
    )
