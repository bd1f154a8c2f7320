"""How long a job stands still, by each of the four ways in which Perdure hands it over on a notice.

    .venv/bin/python -m bench.hand_over [--notice 60] [--dead-host 60] [--json FILE]

Four jobs alike, each on an instance of its own of a local stack, get their notices at the same time and go on in the
same zone. What differs is their retry rules, and so the way (docs/architecture.md, "The hand-over"): 1 the rules retry
exit code 137; 2 they only know `Host EC2*`; 3 the same, but a job without protection runs on the same instance; 4 no
attempt is left, and somebody resumes the job as soon as Batch has given it up.

Real: Temporal, agents, CRIU, the jobs' memory on XFS. Played: EC2, EBS (rates `documented`, without spread) and Batch.
`--notice` is how long AWS gives (120 s there), `--dead-host` how long a dead instance keeps its volumes (300 s there,
as far as anybody says): both are shorter by default, so that a run takes three minutes. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from localcloud.demo.stack_user import StackUser
from localcloud.stack.client import StackClient
from localcloud.stack.job_request import JobRequest
from localcloud.stack.stack import StackPlace
from perdure import waiting
from perdure.domain.retries import HandOver

T = TypeVar("T")
MEMORY_MIB = 256
JOB = f"""
import os, sys, time
memory = os.urandom({MEMORY_MIB} << 20)
print("ready", flush=True)
while not os.path.exists("/opt/bench/finish"):
    time.sleep(0.1)
"""
LIMIT = 400.0
VCPUS, FEWER = 3, 2
"""Of an instance's 4: no two of the jobs share one, and the unprotected one fits only beside the job with `FEWER`."""


@dataclass(frozen=True)
class Way:
    """One of the four: the job's retry strategy, and what Perdure must then choose."""

    name: str
    expected: HandOver
    host_rules: bool = False
    attempts: int = 10
    vcpus: int = VCPUS


WAYS = [
    Way("end", HandOver.END_CONTAINER),
    Way("stop-ecs", HandOver.STOP_ECS, host_rules=True),
    Way("frozen", HandOver.STAY_FROZEN, host_rules=True, vcpus=FEWER),
    Way("kept", HandOver.KEEP_ONLY, attempts=1),
]
BESIDE = Way("beside", HandOver.STAY_FROZEN, attempts=1, vcpus=FEWER)
"""The job without protection: none of its ends is waited for."""


@dataclass
class Result:
    """Seconds. `outage`: from the freeze until the job's processes go on; `free_after`: from the notice until the
    volume was seen `available`, None where nobody looked before the instance was gone."""

    way: str
    outage: float
    free_after: float | None
    phases: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notice", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--dead-host", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    at = parser.parse_args()
    user = StackUser(StackPlace(os.environ.get("PERDURE_STACK", "bench-hand-over")), threading.Event())
    try:
        user.up(lambda line: print(line, flush=True))
        results = Bench(user, at.notice, at.dead_host).run()
    finally:
        user.down()
    print(table(results, at.notice, at.dead_host))
    if at.json:
        at.json.write_text(json.dumps([asdict(one) for one in results], indent=1))


class Bench:
    """Drives the four jobs on a running stack."""

    def __init__(self, user: StackUser, notice: float, dead_host: float) -> None:
        self._client: StackClient = user.client
        self._notice = notice
        self._shared = user.folder / "bench"
        self._shared.mkdir(parents=True)
        rates = {"spread": 0.0, "dead_host_release": dead_host}
        self._client.cloud("POST", "/_local/ebs", json={"profile": "documented", "rates": rates})
        self._zone = min(node["zone"] for node in self._client.status()["nodes"])
        self._client.cloud("POST", "/_local/capacity", json={"zones": [self._zone]})
        only_ours = {"size_gib": 2, "for_jobs": ["name=way-*"]}
        self._client.asked("PATCH", "/api/v1/configuration/job_volume", json=only_ours)

    def run(self) -> list[Result]:
        """All four at once: each waits most of the time."""
        jobs = {way.name: self._submit(f"way-{way.name}", way) for way in WAYS}
        for name, job_id in jobs.items():
            until(partial(self._committed, job_id), f"{name}'s first checkpoint")
        beside = self._submit("beside", BESIDE)
        until(lambda: self._client.placed(beside)["status"] == "RUNNING", "the unprotected job")
        assert self._client.placed(beside)["node"] == self._client.placed(jobs["frozen"])["node"]
        noticed = {name: self._reclaim(job_id) for name, job_id in jobs.items()}
        after = dict(jobs)
        after["kept"] = self._resume(jobs["kept"])
        results = [self._result(way, jobs[way.name], after[way.name], noticed[way.name]) for way in WAYS]
        (self._shared / "finish").touch()
        return results

    def _submit(self, name: str, way: Way) -> str:
        return self._client.submit(
            JobRequest(
                name=name,
                command=["/usr/bin/python3", "-c", JOB],
                vcpus=way.vcpus,
                memory_mib=1024,
                attempts=way.attempts,
                host_rules=way.host_rules,
                environment={"PERDURE_CHECKPOINT_INTERVAL": "10s"},
                mounts=[(str(self._shared), "/opt/bench")],
            )
        )

    def _reclaim(self, job_id: str) -> datetime:
        """When the notice was given; the reclaim goes on."""
        request = {"job_id": job_id, "to_zone": self._zone, "notice_seconds": self._notice}
        return notice_of(self._client, request)

    def _resume(self, job_id: str) -> str:
        """The new job, submitted as soon as Perdure says that the old one is over."""
        until(lambda: self._page(job_id).get("state") == "Failed", f"the end of {job_id}")
        return str(self._client.asked("POST", f"/api/v1/jobs/{job_id}/resume", timeout=120)["job_id"])

    def _result(self, way: Way, job_id: str, goes_on_as: str, noticed: datetime) -> Result:
        until(lambda: self._goes_on(goes_on_as, noticed), f"{way.name} going on")
        page = self._page(job_id)
        events = page["events"]
        started = instant(self._goes_on(goes_on_as, noticed))
        frozen = self._final(job_id)
        way_taken = self._way_taken(events)
        assert way_taken is way.expected, f"{way.name}: {way_taken}\n" + "\n".join(one["message"] for one in events)
        outages = [one for one in page["outages"] if one["ended_at"]]
        phases: dict[str, float] = outages[0]["phases"] if outages else {}
        return Result(
            way=way.expected.value,
            outage=round((started - frozen).total_seconds(), 1),
            free_after=free_after(events, phases, frozen, noticed),
            phases=phases,
        )

    def _way_taken(self, events: list[dict[str, Any]]) -> HandOver | None:
        """By what the timeline says."""
        said = {
            "Perdure ended its container, and": HandOver.END_CONTAINER,
            "Perdure stopped the ECS agent": HandOver.STOP_ECS,
            "It stays frozen until its instance": HandOver.STAY_FROZEN,
            "saved and runs on until its instance": HandOver.KEEP_ONLY,
        }
        lines = " ".join(one["message"] for one in events)
        return next((way for words, way in said.items() if words in lines), None)

    def _goes_on(self, job_id: str, after: datetime) -> str | None:
        """When a container of the job started from a checkpoint, after that time; None: not yet."""
        attempts = self._page(job_id).get("attempts", [])
        back = [one for one in attempts if one["started_at"] and one["restored_from"] is not None]
        return next((one["started_at"] for one in back if instant(one["started_at"]) > after), None)

    def _final(self, job_id: str) -> datetime:
        """When the job was frozen for its final checkpoint."""
        known = self._client.api("GET", f"/api/v1/jobs/{job_id}/checkpoints").raise_for_status().json()
        return instant(next(one["frozen_at"] for one in known if one["kind"] == "final"))

    def _committed(self, job_id: str) -> bool:
        return bool(self._page(job_id).get("checkpoints_committed"))

    def _page(self, job_id: str) -> dict[str, Any]:
        return self._client.job_page(job_id) or {}


def until(condition: Callable[[], T | None], what: str) -> T:
    """Looked at twice a second."""
    return waiting.until(condition, LIMIT, 0.5, what)


def notice_of(client: StackClient, request: dict[str, Any]) -> datetime:
    """Ask the local cloud for a reclaim; when its notice was given. The reclaim goes on."""
    number = client.cloud("POST", "/_local/reclaim", json=request)["id"]

    def given() -> float | None:
        steps = client.cloud("GET", f"/_local/reclaims/{number}")["steps"]
        return next((step["at"] for step in steps if step["what"] == "notice given"), None)

    return datetime.fromtimestamp(until(given, "the notice")).astimezone()


def free_after(
    events: list[dict[str, Any]], phases: dict[str, float], frozen: datetime, noticed: datetime
) -> float | None:
    """By the timeline; or, where the next container came first and waited for it, by the outage's phases."""
    told = [instant(one["at"]) for one in events if "is free for the next instance" in one["message"]]
    if told:
        return round((told[0] - noticed).total_seconds(), 1)
    if "detached" not in phases:
        return None
    until_then = sum(phases.get(step, 0.0) for step in ("frozen", "dumped", "waited", "detached"))
    return round((frozen - noticed).total_seconds() + until_then, 1)


def instant(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


def table(results: list[Result], notice: float, dead_host: float) -> str:
    """As Markdown."""
    steps = ["dumped", "detached", "waited", "attached", "restored"]
    lines = [
        f"Notice {notice:g} s, a dead instance keeps its volumes for {dead_host:g} s; {time.strftime('%Y-%m-%d')}, load"
        f" {os.getloadavg()[0]:.1f}. Seconds.",
        "",
        f"| way | outage | volume free after the notice | {' | '.join(steps)} |",
        f"| --- | --- | --- |{' --- |' * len(steps)}",
    ]
    for one in results:
        free = "" if one.free_after is None else f"{one.free_after:.1f}"
        phases = {**one.phases, "dumped": one.phases.get("frozen", 0.0) + one.phases.get("dumped", 0.0)}
        shown = [f"{phases[step]:.1f}" if one.phases and step in phases else "" for step in steps]
        lines.append(f"| {one.way} | {one.outage:.1f} | {free} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
