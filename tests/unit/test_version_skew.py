"""Server and instances are one version apart while an upgrade runs: their messages must be understood both ways.

recorded/messages.json holds the messages of the version before. A release writes it anew:
`RECORD_MESSAGES=1 pytest tests/unit/test_version_skew.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import perdure.contracts
from perdure.domain.values import Frozen

RECORD = Path(__file__).parent / "recorded/messages.json"


def _messages() -> list[type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module in pkgutil.iter_modules(perdure.contracts.__path__):
        for name, one in vars(importlib.import_module(f"perdure.contracts.{module.name}")).items():
            if isinstance(one, type) and issubclass(one, Frozen):
                found[name] = one
    return [found[name] for name in sorted(found)]


def _shapes() -> dict[str, dict[str, list[Any]]]:
    """Name → its fields, those that must be sent, and an enumeration's words; what a message contains, too."""
    _, schema = models_json_schema([(one, "validation") for one in _messages()])
    return {
        name: {
            "fields": sorted(shape.get("properties", {})),
            "required": sorted(shape.get("required", [])),
            "words": shape.get("enum", []),
        }
        for name, shape in schema["$defs"].items()
    }


def test_messages_of_the_version_before_and_after_are_understood() -> None:
    now = _shapes()
    if os.environ.get("RECORD_MESSAGES"):
        RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    before: dict[str, dict[str, list[Any]]] = json.loads(RECORD.read_text())
    assert len(before) > 50
    wrong = []
    for name, old in before.items():
        if name in now:
            new = now[name]
            wrong += [f"{name}.{field}: an older sender has no such field" for field in _less(new, old, "required")]
            missing = set(old["required"]) - set(new["fields"])
            wrong += [f"{name}.{field}: an older receiver must have it" for field in sorted(missing)]
            wrong += [f"{name} {word!r}: an older sender may say it" for word in _less(old, new, "words")]
    assert not wrong, "\n".join(wrong)


def _less(one: dict[str, list[Any]], other: dict[str, list[Any]], key: str) -> list[Any]:
    return [word for word in one[key] if word not in other[key]]


def test_what_a_newer_sender_adds_is_ignored() -> None:
    strict = [one.__name__ for one in _messages() if one.model_config.get("extra") != "ignore"]
    assert not strict
