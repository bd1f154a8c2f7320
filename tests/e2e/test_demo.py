"""The demo, whole and once: two jobs through six reclaims."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.conftest import PERDURE

DEMO_LIMIT_SECONDS = 900


@pytest.mark.demo
@pytest.mark.timeout(DEMO_LIMIT_SECONDS + 120)
def test_the_demo_holds_every_promise() -> None:
    stack = f"demo-{os.getpid()}"
    try:
        done = subprocess.run(
            [str(PERDURE), "demo", "--json", "--stack", stack],
            capture_output=True,
            text=True,
            timeout=DEMO_LIMIT_SECONDS,
        )
    finally:
        subprocess.run([str(PERDURE), "local", "down", "--stack", stack], capture_output=True, timeout=180, check=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["ok"] is True
    assert [job["name"] for job in answer["jobs"]] == ["bowtie2", "chain"]
    for job in answer["jobs"]:
        assert (job["attempts"], job["protections"], len(job["zones"]), len(job["outages"])) == (4, 3, 4, 3)
        assert len(set(job["zones"])) == 2
        assert job["output_identical"] is True
        assert [outage["seconds"] > 0 for outage in job["outages"]] == [True] * 3
        assert sorted(outage["kind"] for outage in job["outages"]) == ["no notice", "notice", "notice"]
    assert "Temporal UI http://127.0.0.1:" in done.stderr
