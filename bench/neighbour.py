"""How soon a small job is handed over beside a neighbour with many descriptors: `python -m bench.neighbour [ROUNDS]
[DESCRIPTORS]`, as root.

Each round takes a node from the small job alone, and then from the small job and its neighbour: the pairs see the same
machine. Every figure is seconds from the notice, as the product recorded them: when the job was frozen, when its final
checkpoint was committed, and when its hand-over was told. Prints Markdown.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localcloud.stack.client import StackClient
from localcloud.stack.job_request import JobRequest
from perdure.waiting import until
from tests.compatibility import versions_here
from tests.conformance.own_stack import own_stack

SCRIPT = Path(__file__).parents[1] / "tests/e2e/jobs/many.py"
ZONES = ["us-east-1a", "us-east-1b"]
LIMIT, LOOK = 180.0, 0.2
MOMENTS = ("frozen", "committed", "handed over")


def submit(client: StackClient, descriptors: int, exchange: str) -> str:
    """A job that holds so many; its id."""
    return client.submit(
        JobRequest(
            command=["/usr/bin/python3", "/opt/jobs/many.py", str(descriptors), "/opt/go/finish"],
            environment={"PERDURE_CHECKPOINT_INTERVAL": "0"},
            memory_mib=2048,
            mounts=[(str(SCRIPT.parent), "/opt/jobs"), (exchange, "/opt/go")],
        )
    )


def events(client: StackClient, job_id: str) -> dict[str, datetime]:
    """When each kind of thing was first told of the job."""
    page = client.job_page(job_id) or {}
    return {event["kind"]: datetime.fromisoformat(event["at"]) for event in reversed(page.get("events", []))}


def handed_over(client: StackClient, job_id: str) -> dict[str, float]:
    """Seconds from the notice to each of MOMENTS."""
    until(lambda: "handed over" in events(client, job_id), LIMIT, LOOK)
    page = client.job_page(job_id) or {}
    began = datetime.fromisoformat(page["attempts"][0]["noticed_at"])
    final: dict[str, Any] = client.api("GET", f"/api/v1/jobs/{job_id}/checkpoints").json()[0]
    moments = [datetime.fromisoformat(final[name]) for name in ("frozen_at", "committed_at")]
    moments.append(events(client, job_id)["handed over"])
    return {name: (moment - began).total_seconds() for name, moment in zip(MOMENTS, moments, strict=True)}


def reclaimed(client: StackClient, descriptors: Iterable[int]) -> list[dict[str, float]]:
    """Jobs that hold so many each, on one node that is taken back: what became of each of them."""
    with tempfile.TemporaryDirectory() as exchange:
        client.cloud("POST", "/_local/capacity", json={"zones": ZONES[:1]})
        jobs = [submit(client, count, exchange) for count in descriptors]
        until(lambda: all("started" in events(client, job_id) for job_id in jobs), LIMIT, LOOK)
        nodes = {client.placed(job_id)["node"] for job_id in jobs}
        assert len(nodes) == 1, "they are to share a node"
        client.reclaim({"node_id": nodes.pop(), "notice_seconds": 120, "to_zone": ZONES[1]}, lambda step: None)
        found = [handed_over(client, job_id) for job_id in jobs]
        until(lambda: all((client.job_page(job_id) or {}).get("protections") for job_id in jobs), LIMIT, LOOK)
        (Path(exchange) / "finish").touch()
        ended = {"SUCCEEDED"}
        until(lambda: {(client.described(job_id) or {}).get("status") for job_id in jobs} == ended, LIMIT, LOOK)
    return found


def main() -> None:
    """Entry."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    descriptors = int(sys.argv[2]) if len(sys.argv) > 2 else 180_000
    names = ("the small job alone", f"beside {descriptors:,} descriptors", "the neighbour itself")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    load = Path("/proc/loadavg").read_text().split()[0]
    with own_stack() as client:
        for number in range(rounds + 1):
            (alone,) = reclaimed(client, [0])
            large, small = reclaimed(client, [descriptors, 0])
            if number:  # programs and files are read from the disk in the first one
                for name, times in zip(names, (alone, small, large), strict=True):
                    found[name].append(times)
    print("| seconds from the notice | " + " | ".join(f"{moment}: median (least to most)" for moment in MOMENTS) + " |")
    print("| --- | " + " | ".join("---" for _ in MOMENTS) + " |")
    for name, series in found.items():
        cells = []
        for moment in MOMENTS:
            seconds = [one[moment] for one in series]
            cells.append(f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    versions = versions_here()
    print(f"\n{rounds} rounds; {os.cpu_count()} CPUs, kernel {platform.release()}, ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items() if name != "kernel"), end="")
    print(f", {datetime.now(UTC):%Y-%m-%d}; load before it {load}.")


if __name__ == "__main__":
    main()
