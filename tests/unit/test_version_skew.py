"""Server and instances are one version apart while an upgrade runs: their messages must be understood both ways.

recorded/messages.json holds the messages of the version before. A release writes it anew:
`RECORD_MESSAGES=1 pytest tests/unit/test_version_skew.py`.
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import perdure.contracts
from perdure.domain.values import Frozen

RECORD = Path(__file__).parent / "recorded/messages.json"
Shape = dict[str, Any]
_HOLDS = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}
"""Bounds of a number: how a value must stand to each."""


def _messages() -> list[type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module in pkgutil.iter_modules(perdure.contracts.__path__):
        for name, one in vars(importlib.import_module(f"perdure.contracts.{module.name}")).items():
            if isinstance(one, type) and issubclass(one, Frozen):
                found[name] = one
    return [found[name] for name in sorted(found)]


def _shapes() -> dict[str, Shape]:
    """Name → its fields, those that must be sent, bounds and usual values of numbers, an enumeration's words; what a
    message contains, too."""
    _, schema = models_json_schema([(one, "validation") for one in _messages()])
    return {
        name: {
            "fields": sorted(shape.get("properties", {})),
            "required": sorted(shape.get("required", [])),
            "words": shape.get("enum", []),
            "numbers": {field: found for field, one in shape.get("properties", {}).items() if (found := _numbers(one))},
        }
        for name, shape in schema["$defs"].items()
    }


def _numbers(field: Shape) -> dict[str, float]:
    parts = [field, *field.get("anyOf", [])]
    found = {key: part[key] for part in parts for key in _HOLDS if key in part}
    usual = field.get("default")
    return {**found, "usual": usual} if isinstance(usual, int | float) and not isinstance(usual, bool) else found


def test_messages_of_the_version_before_and_after_are_understood() -> None:
    now = _shapes()
    if os.environ.get("RECORD_MESSAGES"):
        RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    before: dict[str, Shape] = json.loads(RECORD.read_text())
    assert len(before) > 50
    wrong = [fault for name, old in before.items() if name in now for fault in _misunderstood(name, old, now[name])]
    assert not wrong, "\n".join(wrong)


def _misunderstood(name: str, old: Shape, new: Shape) -> Iterator[str]:
    yield from (f"{name}.{field}: an older sender has no such field" for field in _less(new, old, "required"))
    missing = set(old["required"]) - set(new["fields"])
    yield from (f"{name}.{field}: an older receiver must have it" for field in sorted(missing))
    yield from (f"{name} {word!r}: an older sender may say it" for word in _less(old, new, "words"))
    for field in old["numbers"].keys() & new["numbers"].keys():
        was, now = old["numbers"][field], new["numbers"][field]
        for key, holds in _HOLDS.items():
            if key in was and "usual" in now and not holds(now["usual"], was[key]):
                yield f"{name}.{field}: an older receiver refuses the usual value {now['usual']} ({key} {was[key]})"
            if key in now and (key not in was or not holds(was[key], now[key])) and was.get(key) != now[key]:
                yield f"{name}.{field}: an older sender may say what is beyond {key} {now[key]}"


def _less(one: Shape, other: Shape, key: str) -> list[Any]:
    return [word for word in one[key] if word not in other[key]]


def test_what_would_be_misunderstood_is_found() -> None:
    old: Shape = {"fields": ["size", "gone"], "required": ["gone"], "words": ["a"], "numbers": {}}
    new: Shape = {"fields": ["size", "more"], "required": ["more"], "words": [], "numbers": {}}
    old["numbers"] = {"size": {"minimum": 1, "maximum": 9, "usual": 5}, "same": {"exclusiveMinimum": 0}}
    new["numbers"] = {"size": {"minimum": 0, "maximum": 8, "usual": 0}, "same": {"exclusiveMinimum": 0}}
    assert list(_misunderstood("M", old, new)) == [
        "M.more: an older sender has no such field",
        "M.gone: an older receiver must have it",
        "M 'a': an older sender may say it",
        "M.size: an older receiver refuses the usual value 0 (minimum 1)",
        "M.size: an older sender may say what is beyond maximum 8",
    ]


def test_what_a_newer_sender_adds_is_ignored() -> None:
    strict = [one.__name__ for one in _messages() if one.model_config.get("extra") != "ignore"]
    assert not strict
