"""Who a job is, for AWS: its task's credentials keep working when the task has become another one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.e2e.conftest import User, until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.stack, pytest.mark.criu]

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


def rounds(user: User, job_id: str) -> int:
    """How many the job has done."""
    return user.printed(job_id).count("\n")


def run_through_a_reclaim(user: User, bucket: str, *more: str) -> list[str]:
    """The job's addresses, in order, once it has done rounds on two nodes."""
    libraries = Path(boto3.__file__).parents[1]
    client = boto3.client(
        "s3",
        endpoint_url=user.status["aws_endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="perdure",
        aws_secret_access_key="perdure",
    )
    with contextlib.closing(client):
        return _rounds_on_two_nodes(user, client, bucket, libraries, more)


def _rounds_on_two_nodes(
    user: User, client: S3Client, bucket: str, libraries: Path, more: tuple[str, ...]
) -> list[str]:
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
        job_id = user.submit("/usr/bin/python3", "-B", script, bucket, options=(*options, *more))
        until(lambda: rounds(user, job_id) > 5, "the first rounds")
        first = user.placed(job_id)["node"]
        user.reclaim("--job", job_id, "--notice", "120")
        until(lambda: user.job(job_id)["protections"], "the restore")
        seen = rounds(user, job_id)
        until(lambda: rounds(user, job_id) > seen + 5, "more rounds on another node")
        client.put_object(Bucket=bucket, Key="stop", Body=b"")
        done = user.wait(job_id)
    finally:
        user.cloud.post("/_local/credentials", json={"life_seconds": 6 * 3600})
    out, err = user.logs(job_id)
    assert done["status"] == "SUCCEEDED" and done["attempts"] == 2, (done, err)
    lines = out.splitlines()
    assert lines == [f"round {number}" for number in range(len(lines))]
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert len(listed) == len(lines) + 1
    assert user.placed(job_id)["node"] != first
    return [line.split()[1] for line in err.splitlines() if line.startswith("address ")]
