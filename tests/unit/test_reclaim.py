"""Notices, early ends, capacity by zone, and what cannot be reclaimed, on nodes whose part the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from activities.instances import read_instance
from localcloud.node_link import Exited, SetEcsAgent
from perdure.domain.nodes import InstanceState
from tests.patience import PATIENCE
from tests.unit.cloud_bed import ZONES, CloudBed, PlayedNode, cloud_bed, reclaim, running_job, wait_for

TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        yield bed


@pytest.fixture
def bed(shared: CloudBed) -> CloudBed:
    shared.refresh()
    return shared


def metadata(node: PlayedNode, item: str) -> httpx.Response:
    """What the node reads from its metadata service."""
    url = node.spec.imds_url
    token = httpx.put(f"{url}/latest/api/token", headers=TTL).text
    return httpx.get(f"{url}/latest/meta-data/{item}", headers={"X-aws-ec2-metadata-token": token})


def steps(told: dict[str, Any]) -> list[str]:
    return [step["what"] for step in told["steps"]]


def test_the_notice_is_in_the_metadata_and_the_node_ends_once_its_container_is_gone(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    assert metadata(node, "spot/instance-action").status_code == 404
    told = reclaim(bed, job_id=job_id, notice_seconds=600)
    notice = wait_for(lambda: answer if (answer := metadata(node, "spot/instance-action")).status_code == 200 else None)
    assert notice.json()["action"] == "terminate" and notice.json()["time"].endswith("Z")
    assert bed.http.get(f"/_local/nodes/{node.spec.instance_id}").json()["state"] == "noticed"
    again = bed.http.post("/_local/reclaim", json={"job_id": job_id})
    assert again.status_code == 409 and "already" in again.json()["error"]

    # The agent ends the container after the final checkpoint: 137, retried elsewhere, and the node has nothing left.
    task_id = bed.http.get(f"/_local/jobs/{job_id}").json()["container_id"]
    node.link.send(Exited(container_id=task_id, exit_code=137))
    done = bed.http.get(f"/_local/reclaims/{told['id']}", params={"wait": PATIENCE}).json()
    assert done["state"] == "done" and done["ended_early"]
    assert steps(done) == ["notice given", "handed over", "power lost", "terminated, volumes released"]
    assert not node.alive


def test_without_a_hand_over_the_power_goes_at_the_deadline(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    told = reclaim(bed, node_id=node.spec.instance_id, notice_seconds=0.2, wait=True)
    assert steps(told) == ["notice given", "power lost", "terminated, volumes released"]
    assert not told["ended_early"] and told["steps"][1]["at"] >= told["deadline"]
    wait_for(lambda: len(bed.job(job_id)["attempts"]) == 1)


def test_a_rebalance_recommendation_comes_before_the_interruption(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    told = reclaim(bed, job_id=job_id, rebalance=True, rebalance_lead_seconds=600, notice_seconds=0.1)
    recommended = wait_for(
        lambda: answer if (answer := metadata(node, "events/recommendations/rebalance")).status_code == 200 else None
    )
    assert recommended.json()["noticeTime"].endswith("Z")
    assert metadata(node, "spot/instance-action").status_code == 404
    assert steps(bed.http.get(f"/_local/reclaims/{told['id']}").json()) == ["rebalance recommended"]


def test_capacity_is_left_only_in_the_named_zone(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    other = next(zone for zone in ZONES if zone != node.spec.zone)
    reclaim(bed, job_id=job_id, no_notice=True, to_zone=other, wait=True)
    assert bed.status()["capacity_zones"] == [other]
    moved = bed.node_of(job_id, but=node)
    assert moved.spec.zone == other
    moved.started(moved.task())
    bed.wait_status(job_id, "RUNNING")
    # Back again: nobody is there, so a node is launched.
    reclaim(bed, job_id=job_id, no_notice=True, to_zone=node.spec.zone, wait=True)
    back = bed.node_of(job_id, but=moved)
    assert back.spec.zone == node.spec.zone and back is not node
    back.started(back.task())
    bed.wait_status(job_id, "RUNNING")
    told = bed.http.get(f"/_local/jobs/{job_id}").json()
    assert told["zones"] == [node.spec.zone, other, node.spec.zone]
    assert [attempt["number"] for attempt in told["attempts"]] == [1, 2, 3]


def test_two_reclaims_to_different_zones_do_not_mix(bed: CloudBed) -> None:
    """Each job goes where its own reclaim said, although the second took the capacity from the first one's zone."""
    first, _ = running_job(bed, containerOverrides={"resourceRequirements": [{"type": "VCPU", "value": "4"}]})
    second, _ = running_job(bed, containerOverrides={"resourceRequirements": [{"type": "VCPU", "value": "4"}]})
    reclaim(bed, job_id=first, no_notice=True, to_zone=ZONES[1])
    reclaim(bed, job_id=second, no_notice=True, to_zone=ZONES[0])
    for job_id, zone in ((first, ZONES[1]), (second, ZONES[0])):

        def placed(job_id: str = job_id) -> dict[str, Any] | None:
            told: dict[str, Any] = bed.http.get(f"/_local/jobs/{job_id}").json()
            return told if len(told["attempts"]) == 2 else None

        assert wait_for(placed)["zone"] == zone


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({"job_id": "no-such-job"}, 404, "There is no job no-such-job."),
        ({"node_id": "i-0"}, 404, "There is no node i-0."),
        ({}, 400, "one of the two"),
        ({"node_id": "i-0", "job_id": "x"}, 400, "one of the two"),
        ({"node_id": "i-0", "to_zone": "mars-1a"}, 400, "There is no zone mars-1a"),
        ({"node_id": "i-0", "notice_seconds": -5}, 400, "notice_seconds"),
        ({"node_id": "i-0", "notice_seconds": "banana"}, 400, "notice_seconds"),
        ({"node_id": "i-0", "unknown": 1}, 400, "unknown"),
    ],
)
def test_what_cannot_be_reclaimed(bed: CloudBed, request_: dict[str, Any], status: int, sentence: str) -> None:
    answer = bed.http.post("/_local/reclaim", json=request_)
    assert answer.status_code == status and sentence in answer.json()["error"]


def test_a_finished_or_waiting_job_has_no_node_to_reclaim(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    bed.http.post("/_local/capacity", json={"zones": []}).raise_for_status()
    waiting = bed.submit()
    answer = bed.http.post("/_local/reclaim", json={"job_id": waiting})
    assert answer.status_code == 409 and "wait until it runs" in answer.json()["error"]
    container_id = bed.http.get(f"/_local/jobs/{job_id}").json()["container_id"]
    node.link.send(Exited(container_id=container_id, exit_code=0))
    bed.wait_status(job_id, "SUCCEEDED")
    answer = bed.http.post("/_local/reclaim", json={"job_id": job_id})
    assert answer.status_code == 409 and "has finished (SUCCEEDED)" in answer.json()["error"]


def test_the_ecs_agent_is_stopped_by_hand(bed: CloudBed) -> None:
    node = bed.node_in(ZONES[0])
    answer = bed.http.post(f"/_local/nodes/{node.spec.instance_id}/ecs-agent", json={"running": False})
    assert answer.status_code == 200
    assert node.asked() == SetEcsAgent(running=False)


def test_terminate_instances_is_a_power_loss(bed: CloudBed) -> None:
    job_id, node = running_job(bed)
    told = bed.aws.ec2.terminate_instances(InstanceIds=[node.spec.instance_id])["TerminatingInstances"]
    assert told[0]["CurrentState"]["Name"] == "shutting-down"
    wait_for(lambda: not node.alive)
    wait_for(lambda: bed.job(job_id)["attempts"])

    def seen() -> InstanceState:
        found = bed.aws.ec2.describe_instances(InstanceIds=[node.spec.instance_id])
        return read_instance(dict(found["Reservations"][0]["Instances"][0]))

    wait_for(lambda: seen().gone)
    assert (seen().pay_type, seen().ended_by) == ("spot", "user")
    assert seen().ended_at is not None and seen().launched_at is not None
