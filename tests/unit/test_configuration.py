"""Job level wins over system level; a bad job-level value changes nothing and says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from perdure.domain.configuration import (
    IMAGE_NAMES,
    JOB_LEVEL_NAMES,
    CheckpointConfiguration,
    CognitoConfiguration,
    EffectiveConfiguration,
    JobConfiguration,
    JobVolumeConfiguration,
    LogConfiguration,
    ServerConfiguration,
    StoreConfiguration,
    SystemConfiguration,
    differences,
    effective_configuration,
)
from perdure.domain.job_settings import ignored_variables, job_settings

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


# Versions of it, and workflows


def test_workflows_get_no_section_of_the_server() -> None:
    assert set(JobConfiguration.model_fields) == {"checkpoint", "job_volume", "store"}
    assert set(SystemConfiguration.model_fields) > set(JobConfiguration.model_fields)


def test_messages_of_older_and_newer_programs_are_read() -> None:
    old = {"checkpoint": {"interval_seconds": 60.0}, "job_volume": {"size_gib": 5}, "interval_source": "system"}
    assert EffectiveConfiguration.model_validate(old).job_volume.enabled
    newer = {"checkpoint": {"keep": 3, "not_known_yet": 1}, "another": {}}
    assert JobConfiguration.model_validate(newer).checkpoint.keep == 3


def test_every_setting_says_what_it_is() -> None:
    for section in SystemConfiguration.model_fields.values():
        if isinstance(section.annotation, type):
            for name, field in section.annotation.model_fields.items():
                assert field.description and field.examples, f"{section.annotation.__name__}.{name}"


def test_differences_are_told_field_by_field() -> None:
    new = SystemConfiguration(
        checkpoint=CheckpointConfiguration(keep=3), without_effect={"ckpt.tcpClose": True}, log=LogConfiguration()
    )
    assert [(each.field, each.old, each.new) for each in differences(SYSTEM, new)] == [
        ("checkpoint.keep", 2, 3),
        ("without_effect.ckpt.tcpClose", None, True),
    ]
    assert differences(new, new) == []


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        (ServerConfiguration, {"cert_file": "/etc/x.crt"}),
        (ServerConfiguration, {"address": "0.0.0.0\n"}),
        (ServerConfiguration, {"cert_file": "/a\nb", "key_file": "/c"}),
        (CognitoConfiguration, {"enabled": True, "region": "us-east-1", "user_pool_id": "us-east-1_a"}),
        (CognitoConfiguration, {"domain": "javascript:alert(1)"}),
        (CognitoConfiguration, {"admin_groups": ["a\nb"]}),
        (JobVolumeConfiguration, {"tags": {f"tag{number}": "x" for number in range(41)}}),
        (JobVolumeConfiguration, {"tags": {"Perdure:Job": "x"}}),
        (LogConfiguration, {"level": "LOUD"}),
    ],
)
def test_what_cannot_be_is_refused(section: type[BaseModel], fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section.model_validate(fields)


# Where a value comes from


def test_words_for_a_jobs_settings() -> None:
    system = JobConfiguration(checkpoint=CheckpointConfiguration(keep=4), job_volume=JobVolumeConfiguration(size_gib=7))
    environment = {"MMC_CHECKPOINT_MODE": "none", "PERDURE_CHECKPOINT_INTERVAL": "0", "MMC_CHECKPOINT_DIAGNOSIS": "?"}
    found = {each.field: each.words for each in job_settings(system, system, environment)}
    assert found["checkpoint.enabled"] == "off, from the job's environment (MMC_CHECKPOINT_MODE)"
    assert found["checkpoint.interval_seconds"] == "off, from the job's environment (PERDURE_CHECKPOINT_INTERVAL)"
    assert found["checkpoint.keep"] == "4, from the system's configuration"
    assert found["job_volume.size_gib"] == "7, from the system's configuration"
    assert found["job_volume.tags"] == "none, the default"
    assert found["checkpoint.dump_limit_seconds"] == "1m50s, the default"
    assert "the default, because the job's MMC_CHECKPOINT_DIAGNOSIS is not usable" in found["checkpoint.diagnosis"]
    sections = (CheckpointConfiguration, JobVolumeConfiguration, StoreConfiguration)
    assert len(found) == sum(len(section.model_fields) for section in sections)


@given(st.dictionaries(st.sampled_from(JOB_LEVEL_NAMES), st.text(max_size=300)))
def test_what_is_told_of_a_job_is_what_holds(environment: dict[str, str]) -> None:
    effective, _ = effective_configuration(SYSTEM, environment)
    told = {each.field.removeprefix("checkpoint."): each.value for each in job_settings(SYSTEM, SYSTEM, environment)}
    for field, value in effective.checkpoint.model_dump().items():
        assert told[field] == value
    assert {each.name for each in ignored_variables(environment)} == set(environment) & set(IMAGE_NAMES)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "directory"}, "needs a directory"),
        ({"kind": "s3"}, "needs a bucket"),
        ({"kind": "tape"}, "none"),
        ({"directory": "relative"}, "pattern"),
        ({"directory": "/a/../b"}, r"without '\.\.'"),
        ({"bucket": "Capitals"}, "pattern"),
        ({"prefix": "no-slash"}, "pattern"),
        ({"prefix": "../"}, "pattern"),
        ({"bucket_owner": "12"}, "pattern"),
        ({"scratch_gib": 0}, "greater than or equal"),
    ],
)
def test_a_store_that_cannot_be_is_refused(section: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StoreConfiguration.model_validate(section)
