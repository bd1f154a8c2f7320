"""Who a job is, for AWS: its task's credentials keep working when the task has become another one."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from tests.e2e.conftest import User, until

pytestmark = [pytest.mark.stack, pytest.mark.criu, pytest.mark.timeout(600)]

ROUNDS = 60
LIFE_SECONDS = 4


@pytest.mark.row("Processes", "credentials of a job role, and task metadata, keep working in the next task")
def test_a_boto3_loop_outlives_a_reclaim_and_its_credentials(user: User) -> None:
    """With credentials that expire every few seconds, only what is fetched anew on the second node can be good."""
    libraries = Path(boto3.__file__).parents[1]
    client = boto3.client(
        "s3",
        endpoint_url=user.status["aws_endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="perdure",
        aws_secret_access_key="perdure",
    )
    client.create_bucket(Bucket="identity")
    assert user.cloud.post("/_local/credentials", json={"life_seconds": LIFE_SECONDS}).status_code == 200
    try:
        options = (
            "--job-role",
            "reader",
            "--mount",
            f"{libraries}:/opt/libraries",
            "--env",
            "PYTHONPATH=/opt/libraries",
        )
        script = "/opt/jobs/bucket.py"
        job_id = user.submit("/usr/bin/python3", "-B", script, "identity", str(ROUNDS), options=options)
        until(lambda: "round 5\n" in user.logs(job_id)[0], "the first rounds")
        first = user.placed(job_id)["node"]
        user.reclaim("--job", job_id, "--notice", "30")
        done = user.wait(job_id)
    finally:
        user.cloud.post("/_local/credentials", json={"life_seconds": 6 * 3600})
    out, err = user.logs(job_id)
    assert done["status"] == "SUCCEEDED" and done["attempts"] == 2, (done, err)
    assert out.splitlines() == [f"round {number}" for number in range(ROUNDS)]
    listed = client.list_objects_v2(Bucket="identity")["Contents"]
    assert len(listed) == ROUNDS
    assert user.placed(job_id)["node"] != first
