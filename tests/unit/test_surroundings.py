"""What a container says of where it asks for credentials and metadata, and how that is led to another task's."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.checkpoints import Surroundings
from worker_agent.container.surroundings import exchange, paths_in, rewrite, same_network

CREDENTIALS = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
METADATA = "ECS_CONTAINER_METADATA_URI_V4"
OLD, NEW = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"


def test_paths_of_the_known_shapes_are_read() -> None:
    found = paths_in(
        {
            CREDENTIALS: f"/v2/credentials/{OLD}",
            METADATA: f"http://169.254.170.2/v4/{OLD}",
            "ECS_AGENT_URI": f"http://169.254.170.2/api/{OLD}",
            "PATH": "/bin",
        }
    )
    assert found == {
        CREDENTIALS: f"/v2/credentials/{OLD}",
        METADATA: f"/v4/{OLD}",
        "ECS_AGENT_URI": f"/api/{OLD}",
    }


@pytest.mark.parametrize(
    "value",
    [
        "/",
        "/v2/credentials/",
        "/v2/credentials/../../x",
        f"/v2/credentials/{OLD}/x",
        f"/v2/credentials/{OLD}\r\nHost: x",
        f"http://example.org/v4/{OLD}",
        f"http://169.254.170.2@example.org/v4/{OLD}",
        "/v2/credentials/" + "a" * 101,
    ],
)
def test_other_values_are_not_believed(value: str) -> None:
    assert paths_in({CREDENTIALS: value, METADATA: value}) == {}


def test_only_what_differs_is_exchanged() -> None:
    known = Surroundings(paths={CREDENTIALS: "/v2/credentials/a", METADATA: "/v4/same", "ECS_AGENT_URI": "/api/lost"})
    given_now = Surroundings(paths={CREDENTIALS: "/v2/credentials/b", METADATA: "/v4/same"})
    assert exchange(known, given_now) == {"/v2/credentials/a": "/v2/credentials/b"}
    assert exchange(known, known) == {}


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (f"/v4/{OLD}", f"/v4/{NEW}"),
        (f"/v4/{OLD}/task?x=1", f"/v4/{NEW}/task?x=1"),
        (f"/v4/{OLD}?x=1", f"/v4/{NEW}?x=1"),
        (f"/v4/{OLD}0/task", f"/v4/{OLD}0/task"),
        (f"/v2/credentials/{OLD}", f"/v2/credentials/{OLD}"),
        (f"/x/v4/{OLD}", f"/x/v4/{OLD}"),
    ],
)
def test_known_paths_are_replaced_whole(target: str, wanted: str) -> None:
    assert rewrite(target, {f"/v4/{OLD}": f"/v4/{NEW}"}) == wanted


@given(st.text())
def test_unknown_targets_pass_unchanged(target: str) -> None:
    assert rewrite(target, {}) == target


def test_this_network_is_known_and_others_are_not() -> None:
    assert same_network(f"/proc/{os.getpid()}/ns/net")
    assert not same_network("/nowhere") and not same_network("/proc/self/ns/mnt")
