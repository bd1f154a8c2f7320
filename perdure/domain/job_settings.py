"""What holds for one job, setting by setting, and where each value comes from in words."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from perdure.domain.configuration import (
    IMAGE_NAMES,
    LONGEST_VALUE,
    JobConfiguration,
    JobLevelValue,
    effective_configuration,
    job_level_values,
)
from perdure.domain.values import Frozen, format_duration

IMAGE_PATH_WHY = "where checkpoints are kept is set for all jobs at once, by store.kind and store.directory"


class JobSetting(Frozen):
    """One effective value. `source`: `environment` (of the job; `variable` says which), `system` or `default`."""

    field: str
    value: JsonValue
    source: str
    variable: str | None
    words: str


class WithoutEffect(Frozen):
    """A setting that is accepted and means nothing here, and why."""

    name: str
    value: JsonValue
    why: str


def job_settings(
    checkpoint_from: JobConfiguration, volume_from: JobConfiguration, environment: Mapping[str, str]
) -> list[JobSetting]:
    """Every setting of a job. Checkpoints go by `checkpoint_from`, the volume by what held when it was made."""
    effective, _ = effective_configuration(checkpoint_from, environment)
    job_level = {each.field: each for each in job_level_values(environment)}
    defaults = JobConfiguration()
    found: list[JobSetting] = []
    for section, values, by_default in (
        ("checkpoint", effective.checkpoint, defaults.checkpoint),
        ("job_volume", volume_from.job_volume, defaults.job_volume),
        ("store", volume_from.store, defaults.store),
    ):
        usual = by_default.model_dump(mode="json")
        for field, value in values.model_dump(mode="json").items():
            said = job_level.get(field) if section == "checkpoint" else None
            found.append(_setting(f"{section}.{field}", value, said, is_default=value == usual[field]))
    return found


def ignored_variables(environment: Mapping[str, str]) -> list[WithoutEffect]:
    """Variables of the reference product that the job has set and that mean nothing here."""
    return [
        WithoutEffect(name=name, value=environment[name][:LONGEST_VALUE], why=IMAGE_PATH_WHY)
        for name in IMAGE_NAMES
        if name in environment
    ]


def _setting(field: str, value: JsonValue, said: JobLevelValue | None, *, is_default: bool) -> JobSetting:
    shown = _shown(field, value)
    if said is not None and not said.problem:
        words = f"{shown}, from the job's environment ({said.variable})"
        return JobSetting(field=field, value=value, source="environment", variable=said.variable, words=words)
    source = "default" if is_default else "system"
    words = f"{shown}, the default" if is_default else f"{shown}, from the system's configuration"
    if said is not None:
        words += f", because the job's {said.variable} is not usable: {said.problem}"
    return JobSetting(field=field, value=value, source=source, variable=None, words=words)


def _shown(field: str, value: JsonValue) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if field.endswith("_seconds") and isinstance(value, int | float):
        return format_duration(value) if value or not field.endswith("interval_seconds") else "off"
    if isinstance(value, dict | list):
        return f"{len(value)} entries" if value else "none"
    return str(value)
