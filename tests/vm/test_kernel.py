"""The kernel that is meant is the one that runs."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


@pytest.mark.checks("basics:facts")
def test_the_kernel_has_cgroup_v2_alone_and_tracks_changed_memory(checked: dict[str, Any]) -> None:
    assert "cloud" in checked["kernel"]
    assert checked["unified"] and checked["mounts"] == ["cgroup2"]
    assert checked["soft_dirty"]
