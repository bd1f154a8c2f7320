"""A saved configuration read back. The rules may have become stricter since it was saved; it must not shut the door to
its own repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import BaseModel, ValidationError

from perdure.domain.configuration import (
    CheckpointConfiguration,
    JobVolumeConfiguration,
    LogConfiguration,
    StoreConfiguration,
    SystemConfiguration,
)

log = structlog.get_logger(__name__)

_LENIENT: dict[str, type[BaseModel]] = {
    "checkpoint": CheckpointConfiguration,
    "job_volume": JobVolumeConfiguration,
    "store": StoreConfiguration,
    "log": LogConfiguration,
}
"""The other sections say who gets in: a default in place of what an administrator set could open the door."""
_told: set[int] = set()
"""Numbers of versions of which the log has been told."""


def read_stored(number: int, stored: Mapping[str, Any]) -> SystemConfiguration:
    """Version `number` as it was saved. A value that today's rules refuse has its default, and the log names it, once.
    ValidationError where the server's section or the sign-in is not valid."""
    try:
        return SystemConfiguration.model_validate(stored)
    except ValidationError:
        usable, refused = dict(stored), list[str]()
        for name, section in _LENIENT.items():
            usable[name], wrong = _usable(section, stored.get(name, {}))
            refused += [f"{name}.{field}" for field in wrong]
        read = SystemConfiguration.model_validate(usable)
    if number not in _told:
        _told.add(number)
        log.error(
            "Saved settings are refused by this release; they have their defaults: set them anew", settings=refused
        )
    return read


def _usable(section: type[BaseModel], stored: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those values that are valid together, and the names of the others."""
    usable, refused = dict(stored), list[str]()
    while problem := _problem(section, usable):
        wrong = {str(error["loc"][0]) for error in problem.errors() if error["loc"]} & usable.keys()
        if not wrong:  # each by itself is valid, together they are not
            wrong = {_alone_to_blame(section, usable)} - {""} or set(usable)
        refused += sorted(wrong)
        usable = {name: value for name, value in usable.items() if name not in wrong}
    return usable, refused


def _problem(section: type[BaseModel], values: Mapping[str, Any]) -> ValidationError | None:
    try:
        section.model_validate(values)
    except ValidationError as problem:
        return problem
    return None


def _alone_to_blame(section: type[BaseModel], values: Mapping[str, Any]) -> str:
    """A value without which the others are valid; empty: no single one."""
    without = ((name, {other: values[other] for other in values if other != name}) for name in values)
    return next((name for name, rest in without if _problem(section, rest) is None), "")
