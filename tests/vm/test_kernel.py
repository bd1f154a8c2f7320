"""The kernel that is meant is the one that runs."""

from __future__ import annotations

import pytest

from tests.vm.conftest import Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1000)]


def test_the_kernel_has_cgroup_v2_alone_and_tracks_changed_memory(in_vm: Call) -> None:
    facts = in_vm("basics:facts")
    assert "cloud" in facts["kernel"]
    assert facts["unified"] and facts["mounts"] == ["cgroup2"]
    assert facts["soft_dirty"]
