"""A job in diagnosis mode leaves its volume: listed with its price, owner and end, and deleted by a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.documents.book import arguments, block, filled
from tests.e2e.conftest import User, until

pytestmark = [pytest.mark.stack]


def test_a_kept_volume_is_listed_and_deleted(user: User, tmp_path: Path) -> None:
    diagnosis = ("--name", "examined", "--env", "PERDURE_CHECKPOINT_DIAGNOSIS=true", "--mount", f"{tmp_path}:/opt/go")
    job_id = user.submit("/bin/sh", "-c", "until [ -e /opt/go/flag ]; do sleep 0.1; done", options=diagnosis)
    volume_id = until(lambda: (user.page(job_id) or {}).get("volume_id"), "a volume")
    refused = user.run("volumes", "delete", volume_id, "--yes", status=1)
    assert "is not over" in refused.stderr, refused.stderr
    (tmp_path / "flag").touch()
    user.wait(job_id)
    until(lambda: any("is kept" in line for line in user.events(job_id)), "the workflow's last word")

    all_, kept, delete = block("docs/configuration.md", "perdure volumes  ")
    listed = json.loads(user.run(*arguments(kept)).stdout)
    (one,) = [each for each in listed["items"] if each["volume_id"] == volume_id]
    assert (one["job_id"], one["job_name"], one["kept"]) == (job_id, "examined", True)
    assert one["usd_per_month"] > 0 and one["age_seconds"] > 0 and one["kept_until"] > one["kept_since"]
    table = user.run(*arguments(all_)).stdout
    assert volume_id in table and "$" in table and one["kept_until"][:10] in table, table

    ec2 = user.aws("ec2")
    (before,) = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    assert before["State"] == "available", "a kept volume is attached to nothing"
    assert "is deleted" in user.run(*arguments(filled(delete, {"VOLUME": volume_id})), given="y\n").stdout
    left = ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume_id]}])["Volumes"]
    assert [each["State"] for each in left if each["State"] not in {"deleting", "deleted"}] == []
    assert volume_id not in user.run("volumes", "--json").stdout
    assert "is deleted" in user.events(job_id)[-1] and user.job(job_id)["volume_id"] is None
    assert "There is no volume" in user.run("volumes", "delete", volume_id, "--yes", status=3).stderr
    found, search = block("docs/configuration.md", "perdure volumes --orphans")
    again = json.loads(user.run(*arguments(search), "--json").stdout)
    assert volume_id not in {each["resource_id"] for each in again["items"]}
    assert "Nothing was deleted." in user.run(*arguments(search)).stdout
    assert volume_id not in user.run(*arguments(found)).stdout
