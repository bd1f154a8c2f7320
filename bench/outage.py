"""How long a job of 1 GiB stands still when its instance is taken away: in its own zone, and in another one.

    .venv/bin/python -m bench.outage [--mib 1024] [--rounds 1] [--profile fast] [--engine docker] [--lazy]
                                [--spare] [--json FILE]

A job of text, of which one piece of 256 KiB changes each 50 ms (5 MiB a second), writes the time down after each piece,
on a mount that is no part of its checkpoints. After its second checkpoint its instance gets a notice. *Running* is the
first time that the job itself writes down after that: seconds from the notice, and from the last time before.

Real: Temporal, agents, CRIU, the job's memory on XFS. Played: EC2, EBS (`--profile`, docs/local-faults.md, without
spread) and Batch. The phases are those of the job's own record. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.hand_over import instant, notice_of, until
from localcloud.demo.jobs import IMAGE
from localcloud.demo.stack_user import StackUser
from localcloud.nodes.images.catalogue import MACHINE
from localcloud.stack.client import StackClient
from localcloud.stack.job_request import JobRequest
from localcloud.stack.stack import StackPlace
from perdure.domain.outages import PHASES

JOB = """
import os, random, sys, time
name, mib = sys.argv[1], int(sys.argv[2])
chance = random.Random(43)
words = [chance.randbytes(chance.randrange(2, 6)).hex().encode() + b" " for _ in range(4096)]
long = b"".join(chance.choices(words, k=600_000))
text = [bytearray(long[at : at + (1 << 20)]) for at in (chance.randrange(len(long) - (1 << 20)) for _ in range(mib))]
print("ready", flush=True)
while not os.path.exists(f"/opt/bench/{name}.finish"):
    block, at = chance.choice(text), chance.randrange(4) << 18
    block[at : at + (1 << 18)] = chance.choice(text)[: 1 << 18]
    with open(f"/opt/bench/{name}.times", "a") as times:
        times.write(f"{time.time()}\\n")
    time.sleep(0.05)
"""
INTERVAL = "10s"
NOTICE = 120.0


@dataclass(frozen=True)
class Result:
    """Seconds. `running`: from the notice until the job does something again; `stood_still`: of the job itself;
    `frozen_after`: from the notice to the freeze; `phases`: of the outage, by the job's record."""

    zone: str
    running: float
    stood_still: float
    frozen_after: float
    phases: dict[str, float]
    lazily: str = ""
    """What the job's timeline says of a lazy restore."""
    timeline: tuple[str, ...] = ()
    """All that it says, with seconds from the notice. Of `--json` alone."""


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", default="fast", help="how slow the local EBS is")
    parser.add_argument("--engine", choices=("runc", "docker"), default="runc")
    parser.add_argument("--lazy", action="store_true", help="let the job go on before its memory is there")
    parser.add_argument("--spare", action="store_true", help="another instance is ready in the job's own zone")
    parser.add_argument("--json", type=Path, metavar="FILE")
    at = parser.parse_args()
    user = StackUser(StackPlace(os.environ.get("PERDURE_STACK", "bench-outage")), threading.Event(), at.engine)
    try:
        user.up(lambda line: print(line, flush=True))
        bench = Bench(user, at)
        results = [bench.run(other, f"{number}") for number in range(at.rounds) for other in (False, True)]
    finally:
        user.down()
    print(table(results, at))
    if at.json:
        at.json.write_text(json.dumps([asdict(one) for one in results], indent=1))


class Bench:
    """One job after the other on a running stack."""

    def __init__(self, user: StackUser, at: argparse.Namespace) -> None:
        self._client: StackClient = user.client
        self._mib = mib = at.mib
        self._image = IMAGE if at.engine == "docker" else MACHINE
        self._lazy, self._spare = at.lazy, at.spare
        self._shared = user.folder / "bench"
        self._shared.mkdir(parents=True)
        self._client.cloud("POST", "/_local/ebs", json={"profile": at.profile, "rates": {"spread": 0.0}})
        self._zones = sorted({node["zone"] for node in self._client.status()["nodes"]})
        size = {"size_gib": max(2, 3 * mib // 1024 + 1)}
        changed = {"job_volume": size, "checkpoint": {"lazy_restore": at.lazy}}
        self._client.asked("PATCH", "/api/v1/configuration", json=changed)

    def run(self, other: bool, number: str) -> Result:
        """A job from its begin to its end, and its one reclaim."""
        name = f"{'other' if other else 'same'}-{number}"
        self._client.cloud("POST", "/_local/capacity", json={"zones": self._zones[:1]})
        job_id = self._submit(name)
        until(lambda: self._page(job_id).get("checkpoints_committed", 0) >= 2, f"two checkpoints of {name}")
        zone = self._zones[-1 if other else 0]
        if self._spare:
            self._have_a_spare(self._zones[0])
        noticed = notice_of(self._client, {"job_id": job_id, "to_zone": zone, "notice_seconds": NOTICE})
        before, again = until(partial(self._gap, name, noticed), f"{name} going on")
        outage = until(partial(self._outage, job_id), f"the record of {name}'s outage")
        lazily = until(lambda: self._lazily(job_id), f"the memory of {name}") if self._lazy else ""
        (self._shared / f"{name}.finish").touch()
        until(lambda: self._client.placed(job_id)["status"] == "SUCCEEDED", f"the end of {name}")
        return Result(
            zone="another" if other else "the same",
            running=round(again - noticed.timestamp(), 2),
            stood_still=round(again - before, 2),
            frozen_after=round((instant(outage["started_at"]) - noticed).total_seconds(), 2),
            phases=outage["phases"],
            lazily=lazily,
            timeline=tuple(self._timeline(job_id, noticed)),
        )

    def _have_a_spare(self, zone: str) -> None:
        if self._ready_in(zone) < 2:
            self._client.cloud("POST", "/_local/nodes", json={"zone": zone})
        until(lambda: self._ready_in(zone) >= 2, f"a second instance in {zone}")

    def _ready_in(self, zone: str) -> int:
        return sum(node["zone"] == zone and node["state"] == "ready" for node in self._client.status()["nodes"])

    def _submit(self, name: str) -> str:
        return self._client.submit(
            JobRequest(
                name=name,
                command=["/usr/bin/python3", "-c", JOB, name, str(self._mib)],
                memory_mib=self._mib + 512,
                image=self._image,
                environment={"PERDURE_CHECKPOINT_INTERVAL": INTERVAL},
                mounts=[(str(self._shared), "/opt/bench")],
            )
        )

    def _gap(self, name: str, noticed: datetime) -> tuple[float, float] | None:
        """The times before and after the stand-still that followed the notice. A periodic freeze is shorter."""
        times = [float(line) for line in (self._shared / f"{name}.times").read_text().split("\n")[:-1]]
        gaps = [(after - before, before, after) for before, after in pairwise(times)]
        longest = max((gap for gap in gaps if gap[2] > noticed.timestamp()), default=(0.0, 0.0, 0.0))
        return longest[1:] if longest[0] > 1.5 and time.time() - longest[2] > 2 else None

    def _outage(self, job_id: str) -> dict[str, Any] | None:
        return next((one for one in self._page(job_id).get("outages", []) if one["ended_at"]), None)

    def _lazily(self, job_id: str) -> str | None:
        said = [str(event["message"]) for event in self._page(job_id).get("events", [])]
        return next((line for line in said if "before all of its memory" in line or "not lazily" in line), None)

    def _timeline(self, job_id: str, noticed: datetime) -> list[str]:
        since = [((instant(event["at"]) - noticed).total_seconds(), event) for event in self._page(job_id)["events"]]
        return [f"{seconds:.2f} {event['kind']}: {event['message']}" for seconds, event in since]

    def _page(self, job_id: str) -> dict[str, Any]:
        return self._client.job_page(job_id) or {}


def table(results: list[Result], at: argparse.Namespace) -> str:
    """As Markdown."""
    steps = [step for step in PHASES if any(step in one.phases for one in results)]
    lines = [
        f"{at.mib} MiB of text, {at.engine}{', a spare instance' if at.spare else ''}, EBS `{at.profile}`;"
        f" {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}. Seconds.",
        "",
        f"| zone | notice to running | the job stood still | notice to freeze | {' | '.join(steps)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(steps)}",
    ]
    for one in results:
        shown = [f"{one.phases[step]:.2f}" if step in one.phases else "" for step in steps]
        lines.append(f"| {one.zone} | {one.running} | {one.stood_still} | {one.frozen_after} | {' | '.join(shown)} |")
    return "\n".join(lines + [one.lazily for one in results if one.lazily])


if __name__ == "__main__":
    main()
