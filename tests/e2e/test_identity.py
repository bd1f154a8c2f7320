"""Who a job is, for AWS: its task's credentials keep working when the task has become another one."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from tests.e2e.conftest import User, until

pytestmark = [pytest.mark.stack, pytest.mark.criu, pytest.mark.timeout(600)]

ROUNDS = 40
LIFE_SECONDS = 4


@pytest.mark.row("Processes", "credentials of a job role, and task metadata, keep working in the next task")
def test_a_boto3_loop_outlives_a_reclaim_and_its_credentials(user: User) -> None:
    """With credentials that expire every few seconds, only what is fetched anew on the second node can be good."""
    addresses = run_through_a_reclaim(user, "shared")
    assert len(addresses) == 2, addresses


@pytest.mark.row("Network", "a network namespace of the job's own: the same address on every node, outside through NAT")
def test_a_job_with_a_network_of_its_own_keeps_its_address(user: User) -> None:
    (address,) = run_through_a_reclaim(user, "own", "--env", "PERDURE_CHECKPOINT_OWN_NETWORK=true")
    assert address.startswith(("198.18.", "198.19."))


def run_through_a_reclaim(user: User, bucket: str, *more: str) -> list[str]:
    """The job's addresses, in order, once it has done all its rounds on two nodes."""
    libraries = Path(boto3.__file__).parents[1]
    client = boto3.client(
        "s3",
        endpoint_url=user.status["aws_endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="perdure",
        aws_secret_access_key="perdure",
    )
    client.create_bucket(Bucket=bucket)
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
        job_id = user.submit("/usr/bin/python3", "-B", script, bucket, str(ROUNDS), options=(*options, *more))
        until(lambda: "round 5\n" in user.logs(job_id)[0], "the first rounds")
        first = user.placed(job_id)["node"]
        user.reclaim("--job", job_id, "--notice", "30")
        done = user.wait(job_id)
    finally:
        user.cloud.post("/_local/credentials", json={"life_seconds": 6 * 3600})
    out, err = user.logs(job_id)
    assert done["status"] == "SUCCEEDED" and done["attempts"] == 2, (done, err)
    assert out.splitlines() == [f"round {number}" for number in range(ROUNDS)]
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert len(listed) == ROUNDS
    assert user.placed(job_id)["node"] != first
    return [line.split()[1] for line in err.splitlines() if line.startswith("address ")]
