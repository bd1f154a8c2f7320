"""A job's first checkpoint is rehearsed while it runs; its page says so, and a reclaim finds it as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import User, chain_reference, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1100)]
LIMIT = 800
"""Seconds. A rehearsal has the lowest priority: beside other work it takes minutes."""


@pytest.fixture(autouse=True)
def rehearse(user: User) -> Iterator[None]:
    """On for this test: off on its stack (tests/conftest.py)."""
    user.run("config", "set", "checkpoint.rehearsal=true")
    yield
    user.run("config", "set", "checkpoint.rehearsal=false")


def test_a_rehearsed_job_moves_and_ends_as_if_nothing_were(user: User) -> None:
    job_id = user.chain(300, options=("--interval", "0", "--name", "rehearsed"))
    until(lambda: user.printed(job_id), "it runs")
    user.checkpoint(job_id)
    page = until(lambda: (found := user.page(job_id)) and found["rehearsal"] and found, "a rehearsal", limit=LIMIT)
    assert (page["rehearsal"]["verdict"], page["rehearsal"]["reason"]) == ("passed", ""), page["rehearsal"]
    assert (page["rehearsals"], page["rehearsal_failures"]) == (1, 0)
    assert "passed" in next(line for line in user.run("job", job_id).stdout.splitlines() if "rehearsal" in line)
    assert any("was restored beside the running job" in line for line in user.events(job_id))
    user.reclaim("--job", job_id)
    until(lambda: user.job(job_id)["protections"], "the restore")
    user.finish(job_id)
    assert user.logs(job_id)[0] == chain_reference(300)
    report = json.loads(user.run("report", "--job", job_id, "--json").stdout)
    counted = {metric["name"]: metric["value"] for metric in report["metrics"]}
    assert counted["rehearsals"] >= 1 and counted["rehearsal_failures"] == 0
