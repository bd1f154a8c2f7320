"""The metadata service, read as agents and botocore read it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from botocore.utils import InstanceMetadataFetcher

from localcloud.aws.imds import Identity, MetadataService
from tests.patience import PATIENCE

IDENTITY = Identity("i-0123456789abcdef0", "c5.xlarge", "us-east-1b", "us-east-1", "10.77.3.4", "ami-1")
TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"


@pytest.fixture
def service() -> Iterator[MetadataService]:
    service = MetadataService("127.0.0.1", IDENTITY)
    yield service
    service.close()


@pytest.fixture
def http(service: MetadataService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{service.url}/latest", timeout=PATIENCE) as client:
        client.headers[TOKEN] = client.put("/api/token", headers={TTL: "60"}).text
        yield client


def test_nothing_without_a_token(service: MetadataService, http: httpx.Client) -> None:
    assert httpx.get(f"{service.url}/latest/meta-data/instance-id").status_code == 401
    wrong = httpx.get(f"{service.url}/latest/meta-data/instance-id", headers={TOKEN: "wrong"})
    assert wrong.status_code == 401
    assert http.get("/meta-data/instance-id").text == IDENTITY.instance_id


def test_a_token_expires(service: MetadataService, http: httpx.Client) -> None:
    http.headers[TOKEN] = service.issue_token(0)
    assert http.get("/meta-data/instance-id").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 400), ({TTL: "0"}, 400), ({TTL: "21601"}, 400), ({TTL: "x"}, 400), ({TTL: "5", "X-Forwarded-For": "a"}, 403)],
)
def test_what_is_no_way_to_ask_for_a_token(service: MetadataService, headers: dict[str, str], status: int) -> None:
    assert httpx.put(f"{service.url}/latest/api/token", headers=headers).status_code == status


def test_what_an_instance_knows_of_itself(http: httpx.Client) -> None:
    assert http.get("/meta-data/placement/availability-zone").text == "us-east-1b"
    assert http.get("/meta-data/instance-type").text == "c5.xlarge"
    assert http.get("/meta-data/instance-life-cycle").text == "spot"
    document = http.get("/dynamic/instance-identity/document").json()
    assert document["instanceId"] == IDENTITY.instance_id and document["availabilityZone"] == "us-east-1b"
    assert "placement/" in http.get("/meta-data/").text.splitlines()
    assert http.get("/meta-data/iam/security-credentials/").text == "perdure-node"
    assert http.get("/meta-data/nothing").status_code == 404


def test_notices_are_404_until_there_is_one(service: MetadataService, http: httpx.Client) -> None:
    for item in ("spot/instance-action", "events/recommendations/rebalance", "spot/termination-time"):
        assert http.get(f"/meta-data/{item}").status_code == 404
    service.recommend_rebalance(datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC))
    assert http.get("/meta-data/events/recommendations/rebalance").json() == {"noticeTime": "2026-11-22T01:02:03Z"}
    assert http.get("/meta-data/spot/instance-action").status_code == 404
    service.give_notice(datetime(2026, 11, 22, 1, 4, 5, tzinfo=UTC))
    notice = http.get("/meta-data/spot/instance-action").json()
    assert notice == {"action": "terminate", "time": "2026-11-22T01:04:05Z"}


def test_botocore_finds_the_roles_credentials(service: MetadataService) -> None:
    patient = InstanceMetadataFetcher(timeout=int(PATIENCE), num_attempts=3, base_url=service.url + "/")
    found = patient.retrieve_iam_role_credentials()
    assert found["access_key"] == "perdure" and found["role_name"] == "perdure-node"


def test_the_service_ends_with_its_node() -> None:
    service = MetadataService("127.0.0.1", IDENTITY)
    service.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/latest/meta-data/instance-id")
