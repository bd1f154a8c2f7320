"""Which jobs get a volume."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.volume_rules import RequestedJob, gets_volume

JOB = RequestedJob(queue="genomics-spot", name="align-7", vcpus=4, memory_mib=8192)


@pytest.mark.parametrize(("rules", "gets"), [
    ([], True),
    (["queue=genomics-*"], True),
    (["queue=genomics"], False),
    (["name=*lign*"], True),
    (["name=Align*"], False),
    (["vcpus>=4"], True),
    (["vcpus<=3.5"], False),
    (["memory>=8192 queue=genomics-*"], True),
    (["memory>=8193 queue=genomics-*"], False),
    (["queue=other", "memory<=8192"], True),
])  # fmt: skip
def test_one_rule_with_all_its_conditions_must_hold(rules: list[str], gets: bool) -> None:
    assert gets_volume(JobVolumeConfiguration(for_jobs=rules).for_jobs, JOB) == gets


def test_what_is_not_known_holds_no_condition() -> None:
    assert not gets_volume(["memory<=8192"], RequestedJob()) and not gets_volume(["vcpus>=0"], RequestedJob())


@pytest.mark.parametrize("rule", ["", "  ", "queue", "queue=", "memory=5", "vcpus>=", "name=a b", "gpu>=1", "name=[a]"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError, match="condition"):
        JobVolumeConfiguration(for_jobs=[rule])
