"""The demo: two jobs through four reclaims of every kind. Whole, through six, and with stores in place of volumes:
`make matrix` (the first is `make demo`, too)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PERDURE
from tests.documents.book import arguments, chosen, filled, told
from tests.patience import PATIENCE

DEMO_LIMIT_SECONDS = 900
ROW = "no job volume, checkpoints in {}: the demo's jobs through two reclaims each, another zone included"


@pytest.mark.demo
@pytest.mark.timeout(DEMO_LIMIT_SECONDS + 120)
@pytest.mark.parametrize(("reclaims", "store"), [
    (2, ""),
    pytest.param(3, "", marks=pytest.mark.matrix),
    pytest.param(2, "s3", marks=[pytest.mark.matrix, pytest.mark.row("Files", ROW.format("S3"))]),
    pytest.param(2, "directory", marks=[pytest.mark.matrix, pytest.mark.row("Files", ROW.format("a directory"))]),
])  # fmt: skip
def test_the_demo_holds_every_promise(reclaims: int, store: str, tmp_path: Path) -> None:
    line = filled(chosen("README.md", "perdure demo", "--json --reclaims N"), {"N": str(reclaims)})
    in_s3 = arguments(told("docs/stores.md", "perdure demo --store s3"))
    in_a_folder = filled(told("docs/stores.md", "perdure demo --store DIR"), {"DIR": str(tmp_path / "directory")})
    _, *where = {"": ["demo"], "s3": in_s3, "directory": arguments(in_a_folder)}[store]
    stack = f"demo-{os.getpid()}"
    try:
        done = subprocess.run(
            [str(PERDURE), *arguments(line), *where, "--stack", stack],
            capture_output=True,
            text=True,
            timeout=DEMO_LIMIT_SECONDS,
        )
    finally:
        subprocess.run(
            [str(PERDURE), "local", "down", "--stack", stack], capture_output=True, timeout=PATIENCE, check=True
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["ok"] is True
    assert [job["name"] for job in answer["jobs"]] == ["bowtie2", "chain"]
    kinds = {"bowtie2": ["no notice", "notice", "notice"], "chain": ["notice", "no notice", "notice"]}
    for job in answer["jobs"]:
        assert (job["attempts"], job["protections"]) == (reclaims + 1, reclaims)
        assert (len(job["zones"]), len(job["outages"])) == (reclaims + 1, reclaims)
        # Of two reclaims, that to another zone is the second job's alone.
        assert len(set(job["zones"])) == 2 or (reclaims, job["name"]) == (2, "bowtie2")
        assert job["output_identical"] is True
        assert all(outage["seconds"] > 0 for outage in job["outages"])
        assert sorted(outage["kind"] for outage in job["outages"]) == sorted(kinds[job["name"]][:reclaims])
    assert "Temporal UI http://127.0.0.1:" in done.stderr
