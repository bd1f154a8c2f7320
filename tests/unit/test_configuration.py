"""Job level wins over system level; a bad job-level value changes nothing and says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure.domain.configuration import (
    JOB_LEVEL_NAMES,
    CheckpointConfiguration,
    JobVolumeConfiguration,
    SystemConfiguration,
    effective_configuration,
)

SYSTEM = SystemConfiguration()


def test_the_job_level_interval_wins_and_names_its_source() -> None:
    effective, warnings = effective_configuration(SYSTEM, {"PERDURE_CHECKPOINT_INTERVAL": "5s"})
    assert effective.checkpoint.interval_seconds == 5
    assert effective.interval_source == "PERDURE_CHECKPOINT_INTERVAL"
    assert warnings == []


def test_our_spelling_wins_over_the_reference_products() -> None:
    environment = {"MMC_CHECKPOINT_INTERVAL": "1h", "PERDURE_CHECKPOINT_INTERVAL": "10s"}
    assert effective_configuration(SYSTEM, environment)[0].checkpoint.interval_seconds == 10


def test_the_reference_products_nanoseconds_are_read() -> None:
    effective, _ = effective_configuration(SYSTEM, {"MMC_CHECKPOINT_INTERVAL": "120000000000"})
    assert effective.checkpoint.interval_seconds == 120


def test_zero_turns_the_rhythm_off() -> None:
    assert effective_configuration(SYSTEM, {"PERDURE_CHECKPOINT_INTERVAL": "0"})[0].checkpoint.interval_seconds == 0


@pytest.mark.parametrize("value", ["-5m", "banana", "0.5s", "../../etc", "x" * 10_000, "5s\n6s", ";rm -rf /"])
def test_a_bad_interval_keeps_the_systems_and_warns(value: str) -> None:
    effective, warnings = effective_configuration(SYSTEM, {"PERDURE_CHECKPOINT_INTERVAL": value})
    assert effective.checkpoint.interval_seconds == SYSTEM.checkpoint.interval_seconds
    assert effective.interval_source == "system"
    assert len(warnings) == 1
    assert "PERDURE_CHECKPOINT_INTERVAL" in warnings[0]
    assert "\n" not in warnings[0]
    assert len(warnings[0]) < 400


@pytest.mark.parametrize(("value", "diagnosis"), [("true", True), ("ON", True), ("0", False), ("no", False)])
def test_booleans_as_people_write_them(value: str, diagnosis: bool) -> None:
    assert effective_configuration(SYSTEM, {"MMC_CHECKPOINT_DIAGNOSIS": value})[0].checkpoint.diagnosis is diagnosis


@given(st.dictionaries(st.sampled_from(JOB_LEVEL_NAMES), st.text(max_size=400)))
def test_no_environment_breaks_it(environment: dict[str, str]) -> None:
    effective, _ = effective_configuration(SYSTEM, environment)
    CheckpointConfiguration.model_validate(effective.checkpoint.model_dump())


@pytest.mark.parametrize("path", ["/", "/etc", "relative", "/a/../b", "/proc", "/mnt/x;rm", ""])
def test_a_mount_path_is_a_folder_of_its_own(path: str) -> None:
    with pytest.raises(ValidationError):
        JobVolumeConfiguration(mount_path=path)
