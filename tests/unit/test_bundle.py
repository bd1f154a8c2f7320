"""config.json of a container: what Docker would write, and untrusted text that stays data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.node_link import Mount, Task
from localcloud.nodes.inside.bundle import container_config
from perdure.domain.errors import ConfigurationInvalid

ID = "ab" * 32


def config(**more: Any) -> dict[str, Any]:
    task = Task.model_validate({"container_id": ID, "job_id": "j", "attempt": 1, "command": ["true"], **more})
    made = container_config(task, cgroup=f"/perdure/s/i-1/containers/{ID}", host_name="ip-10-77-1-10")
    return dict(json.loads(json.dumps(made)))


hostile = st.one_of(
    st.sampled_from(
        ["../../../etc/passwd", "a\nb\r\n", ";rm -rf /", "$(id)`id`", "x" * 10_000, '"}],"', "%s", "\u202e"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200),
)
names = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(environment=st.dictionaries(names, hostile, max_size=5), words=st.lists(hostile, min_size=1, max_size=4))
def test_command_and_environment_arrive_as_they_are_and_change_nothing_else(
    environment: dict[str, str], words: list[str]
) -> None:
    made = config(environment=environment, command=words)
    process = made.pop("process")
    assert process["args"] == words
    assert dict(line.split("=", 1) for line in process["env"]) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": "ip-10-77-1-10",
        **environment,
    }
    plain = config()
    del plain["process"]
    assert made == plain


@pytest.mark.parametrize(
    "more",
    [
        {"command": []},
        {"command": ["a\0b"]},
        {"environment": {"A": "a\0b"}},
        {"environment": {"": "x"}},
        {"environment": {"A=B": "x"}},
        {"mounts": [Mount(source="relative", destination="/x")]},
        {"mounts": [Mount(source="/x", destination="relative")]},
        {"user": "nobody-of-that-name"},
        {"user": "root:wheel"},
    ],
)
def test_what_cannot_be_a_container_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationInvalid):
        config(**more)


def test_limits_and_namespaces_are_those_of_a_simple_ecs_task() -> None:
    made = config(memory_mib=256, vcpus=0.25)
    assert made["linux"]["resources"]["memory"]["limit"] == 256 * 1024 * 1024
    assert made["linux"]["resources"]["cpu"]["shares"] == 256
    assert {namespace["type"] for namespace in made["linux"]["namespaces"]} == {"mount", "uts", "ipc", "pid"}
    assert made["linux"]["cgroupsPath"].endswith(f"/containers/{ID}")
    assert "rlimits" not in made["process"]


def test_mounts_are_bound_and_declared_shared() -> None:
    made = config(mounts=[Mount(source="/data", destination="/in", read_only=True)])
    assert made["mounts"][-1] == {
        "destination": "/in",
        "type": "bind",
        "source": "/data",
        "options": ["rbind", "rprivate", "ro"],
    }
    assert json.loads(made["annotations"]["perdure.shared-mounts"]) == ["/in"]


def test_another_user_holds_no_capabilities_and_privileged_holds_more() -> None:
    assert config(user="1000:1000")["process"]["user"] == {"uid": 1000, "gid": 1000}
    assert config(user="1000:1000")["process"]["capabilities"]["effective"] == []
    plain, privileged = config(), config(privileged=True)
    assert set(plain["process"]["capabilities"]["bounding"]) < set(privileged["process"]["capabilities"]["bounding"])
    assert privileged["linux"]["maskedPaths"] == []
