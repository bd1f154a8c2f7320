"""How many activities an agent works on at once."""

from __future__ import annotations

import pytest

from worker_agent.agent import activity_slots


@pytest.mark.parametrize("vcpus", [1, 2, 64, 96, 192, 448, 896])
def test_every_job_of_a_large_instance_has_its_activities_at_once(vcpus: int) -> None:
    """Fault: 64 slots on every instance. Above 64 vCPUs a final checkpoint's activity could wait for a free one."""
    jobs_of_one_vcpu = vcpus
    assert activity_slots(vcpus) >= 3 * jobs_of_one_vcpu + 8  # rhythm, a wish, the final one; and the node's own
