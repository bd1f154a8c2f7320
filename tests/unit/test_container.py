"""Where a container's cgroup is, by the names that container engines give it in config.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_agent.engine import Container, Tools

NOWHERE = Path("/nowhere")


@pytest.mark.parametrize(
    ("named", "path"),
    [
        ("/docker/abc", "/docker/abc"),
        ("//docker//abc/../abd", "/docker/abd"),
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        (":docker:abc", "/system.slice/docker-abc.scope"),
        ("-.slice:docker:abc", "/docker-abc.scope"),
        ("a-b-c.slice:docker:abc", "/a.slice/a-b.slice/a-b-c.slice/docker-abc.scope"),
        ("ecstasks.slice:ecs:abc", "/ecstasks.slice/ecs-abc.scope"),
        ("system.slice::abc", "/system.slice/abc.scope"),
        ("", ""),
        ("/", ""),
        ("/..", ""),
        ("relative/to/runc", ""),
    ],
)
def test_the_cgroup_of_a_container(named: str, path: str) -> None:
    container = Container(
        id="abc",
        bundle=NOWHERE,
        runc_root="",
        job_root=NOWHERE,
        work_dir=NOWHERE,
        keeper_socket=NOWHERE,
        rootfs=NOWHERE,
        lower_layers=(),
        tools=Tools(criu=NOWHERE, path_first=NOWHERE),
        cgroups_path=named,
    )
    assert container.cgroup == path
