"""Where jobs go: examples, and that a plan never promises what is not there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localcloud.aws.batch.placement import Need, Room, place
from localcloud.aws.cloud_config import SHAPES

USUAL = SHAPES[1]
BOTH = frozenset({"a", "b"})


def need(job_id: str, vcpus: float = 1, memory: int = 512, zones: frozenset[str] = BOTH) -> Need:
    return Need(job_id, vcpus, memory, zones)


def test_the_emptiest_ready_node_is_taken() -> None:
    plan = place([need("j")], [Room("i-1", "a", 1, 8192), Room("i-2", "b", 4, 8192)], USUAL, 99)
    assert plan.starts == [("j", "i-2")] and not plan.launches


def test_a_job_waits_for_the_node_that_is_being_launched() -> None:
    plan = place([need("j"), need("k")], [Room("i-1", "a", 4, 8192, ready=False)], USUAL, 99)
    assert not plan.starts and not plan.launches


def test_one_launch_serves_several_jobs_and_goes_to_the_emptier_zone() -> None:
    plan = place([need("j", 2), need("k", 2), need("l", 2)], [Room("i-1", "a", 0, 0)], USUAL, 99)
    assert plan.launches == [("b", USUAL), ("a", USUAL)]


def test_a_job_that_must_wait_does_not_hold_up_the_next() -> None:
    plan = place([need("big", 4, zones=frozenset({"b"})), need("small")], [Room("i-1", "a", 1, 512)], USUAL, 0)
    assert plan.starts == [("small", "i-1")] and not plan.launches


def test_no_capacity_anywhere() -> None:
    plan = place([need("j", zones=frozenset())], [Room("i-1", "a", 4, 8192)], USUAL, 99)
    assert not plan.starts and not plan.launches and not plan.impossible


def test_too_large_for_every_type() -> None:
    assert place([need("j", vcpus=1000)], [], USUAL, 9999).impossible == ["j"]


zones = st.sampled_from(["a", "b"])
needs = st.lists(
    st.builds(
        Need,
        st.uuids().map(str),
        st.sampled_from([0.25, 1, 2, 4, 8, 100]),
        st.sampled_from([128, 4096, 16384]),
        st.frozensets(zones),
    ),
    max_size=8,
)
rooms = st.lists(
    st.builds(Room, st.uuids().map(str), zones, st.sampled_from([0, 2, 4]), st.sampled_from([0, 8192]), st.booleans()),
    max_size=5,
)


@given(needs, rooms, st.sampled_from([0, 4, 256]))
def test_a_plan_never_promises_what_is_not_there(asked: list[Need], there: list[Room], launchable: float) -> None:
    plan = place(asked, there, USUAL, launchable)
    by_job, by_node = {each.job_id: each for each in asked}, {room.instance_id: room for room in there}
    assert len({job_id for job_id, _ in plan.starts}) == len(plan.starts)
    for instance_id, room in by_node.items():
        here = [by_job[job_id] for job_id, at in plan.starts if at == instance_id]
        assert sum(each.vcpus for each in here) <= room.vcpus
        assert sum(each.memory_mib for each in here) <= room.memory_mib
        assert all(room.ready and room.zone in each.zones for each in here)
    assert sum(shape.vcpus for _, shape in plan.launches) <= launchable
