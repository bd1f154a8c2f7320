"""Jobs that share a node with a large one: a notice finds each of them safe as if it were alone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import MOUNTED_JOBS, User, until

pytestmark = [pytest.mark.stack]

DESCRIPTORS = 60_000
ZONES = ["us-east-1a", "us-east-1b"]


def submit(user: User, name: str, descriptors: int, exchange: Path) -> str:
    command = ("/usr/bin/python3", f"{MOUNTED_JOBS}/many.py", str(descriptors), "/opt/go/finish")
    return user.submit(*command, options=("--name", name, "--interval", "0", "--mount", f"{exchange}:/opt/go"))


def told(user: User, job_id: str, kind: str) -> datetime | None:
    """When the job's timeline says so."""
    times = [event["at"] for event in user.job(job_id)["events"] if event["kind"] == kind]
    return datetime.fromisoformat(times[0]) if times else None


def final_checkpoint(user: User, job_id: str) -> dict[str, datetime]:
    """When the job was frozen, and when that was committed."""
    (only,) = user.api.get(f"/api/v1/jobs/{job_id}/checkpoints").json()
    return {name: datetime.fromisoformat(only[name]) for name in ("frozen_at", "committed_at")}


def test_a_neighbour_with_many_descriptors_delays_nobody(user: User, tmp_path: Path) -> None:
    """Fault: looks at a neighbour's descriptors held the agent up, and small jobs were handed over after 52 s."""
    assert user.cloud.post("/_local/capacity", json={"zones": ZONES[:1]}).status_code == 200
    try:
        many, small = submit(user, "many", DESCRIPTORS, tmp_path), submit(user, "small", 0, tmp_path)
        until(lambda: all(user.page(one) and user.printed(one) for one in (many, small)), "both count")
        node = user.placed(many)["node"]
        assert node == user.placed(small)["node"]
        user.reclaim("--node", node, "--to-zone", ZONES[1])
        until(lambda: all(told(user, one, "handed over") for one in (many, small)), "the hand-overs")
    finally:
        user.cloud.post("/_local/capacity", json={"zones": ZONES})
    large, other = final_checkpoint(user, many), final_checkpoint(user, small)
    assert other["frozen_at"] < large["frozen_at"], "the look at a neighbour kept the small job waiting"
    handed_over = told(user, small, "handed over")
    assert handed_over and handed_over < large["committed_at"], "the dump of a neighbour kept the small job waiting"
    until(lambda: all(user.job(one)["protections"] for one in (many, small)), "the restores")
    (tmp_path / "finish").touch()
    for job_id in (many, small):
        assert user.wait(job_id)["exit_code"] == 0
        *counted, end = user.logs(job_id)[0].splitlines()
        assert (counted, end) == ([str(number) for number in range(len(counted))], "whole")
