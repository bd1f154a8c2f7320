"""Server and instances are one version apart while an upgrade runs, or after one of them went back: what one says and
asks must be understood by the other, whichever is the newer.

recorded/messages.json holds the messages and the questions of the version before. A release writes it anew:
`RECORD_MESSAGES=1 pytest tests/unit/test_version_skew.py`.
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from temporalio import activity, workflow

import perdure.contracts
import workflows
from perdure.domain.values import Frozen

RECORD = Path(__file__).parent / "recorded/messages.json"
Shape = dict[str, Any]
Record = dict[str, dict[str, Any]]
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
    "minLength": operator.ge,
    "maxLength": operator.le,
    "minItems": operator.ge,
    "maxItems": operator.le,
    "pattern": operator.eq,
}
"""Bounds of a value: how one bound or value must stand to another, for the second to admit the first."""

BORNE = {
    "JobVolumeConfiguration .size_gib: the newer sender may say what is beyond the older receiver's minimum 1": (
        "0 is the usual value: set job_volume.size_gib until all agents are new. Else jobs run unprotected on an older "
        "one, with a line on their timeline."
    ),
    "activity hear_notice: only the newer side knows it": (
        "NodeWatch asks again until the instance goes and logs a warning; an older agent looks at its metadata service."
    ),
    "workflow NodeWatch, signal announced: only the newer side knows it": (
        "It is sent by the control worker itself; one of an older version keeps it for the next one that plays the "
        "workflow."
    ),
}
"""What a newer side says or asks that an older one does not know: what happens then."""


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{found.name}")


def _messages() -> list[type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module in _modules(perdure.contracts):
        for name, one in vars(module).items():
            if isinstance(one, type) and issubclass(one, Frozen):
                found[name] = one
    return [found[name] for name in sorted(found)]


def _shapes() -> dict[str, Shape]:
    """Name → its fields with what each may hold, those that must be sent, an enumeration's words; what a message
    contains, too."""
    _, schema = models_json_schema([(one, "validation") for one in _messages()])
    return {
        name: {
            "fields": {field: _field(one) for field, one in shape.get("properties", {}).items()},
            "required": sorted(shape.get("required", [])),
            "words": shape.get("enum", []),
        }
        for name, shape in schema["$defs"].items()
    }


def _field(field: Shape) -> Shape:
    """Kinds of values, and their bounds."""
    parts = [field, *field.get("anyOf", [])]
    bounds = {key: part[key] for part in parts for key in _HOLDS if key in part}
    return {"kinds": sorted({kind for part in parts if (kind := _kind(part))}), **bounds}


def _kind(part: Shape) -> str:
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    inner = [part[key] for key in ("items", "additionalProperties") if isinstance(part.get(key), dict)]
    inner += part.get("prefixItems", [])
    words = [str(part.get("format") or part.get("type", "")), *(_kind(one) for one in inner)]
    return " of ".join(word for word in words if word)


def _questions() -> dict[str, list[str]]:
    """What one process asks another by name → kinds of what it gives: activities, and a workflow's signals, updates
    and queries."""
    found: dict[str, list[Any]] = {}
    for module in _modules(perdure.contracts):
        for holder in vars(module).values():
            for method in vars(holder).values() if isinstance(holder, type) else ():
                if callable(method) and (done := activity._Definition.from_callable(method)) is not None:
                    found[f"activity {done.name}"] = done.arg_types or []
    for module in _modules(workflows):
        for holder in vars(module).values():
            made = workflow._Definition.from_class(holder) if isinstance(holder, type) else None
            if made is not None:
                found[f"workflow {made.name}"] = made.arg_types or []
                for kind, handlers in (("signal", made.signals), ("update", made.updates), ("query", made.queries)):
                    for name, one in handlers.items():
                        found[f"workflow {made.name}, {kind} {name}"] = one.arg_types or []
    return {name: [getattr(one, "__name__", str(one)) for one in kinds] for name, kinds in sorted(found.items())}


def test_a_version_and_the_one_before_understand_each_other() -> None:
    now: Record = {"messages": _shapes(), "questions": _questions()}
    if os.environ.get("RECORD_MESSAGES"):
        RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    before: Record = json.loads(RECORD.read_text())
    assert len(before["messages"]) > 50 and len(before["questions"]) > 40
    wrong = set(_misunderstood(before, now))
    assert not wrong - BORNE.keys(), "\n".join(sorted(wrong - BORNE.keys()))
    assert not BORNE.keys() - wrong, "these are understood by now"


def _misunderstood(before: Record, now: Record) -> Iterator[str]:
    for name in before["messages"].keys() & now["messages"].keys():
        old, new = before["messages"][name], now["messages"][name]
        for sender, receiver, older, newer in ((old, new, "older", "newer"), (new, old, "newer", "older")):
            yield from (f"{name} {fault.format(older, newer)}" for fault in _refused(sender, receiver))
    for name in before["questions"].keys() | now["questions"].keys():
        asked, answered = before["questions"].get(name), now["questions"].get(name)
        if asked is None:
            yield f"{name}: only the newer side knows it"
        elif answered is None:
            yield f"{name}: only the older side knows it"
        elif asked != answered:
            yield f"{name}: {asked} became {answered}"


def _refused(sender: Shape, receiver: Shape) -> Iterator[str]:
    """What one may say and the other does not take. {0} is the sender, {1} the receiver."""
    sent, taken = sender["fields"], receiver["fields"]
    for field in sorted(set(receiver["required"]) - set(sender["required"])):
        yield f".{field}: the {{1}} receiver must have it, and the {{0}} sender may leave it out"
    for word in sender["words"]:
        if word not in receiver["words"]:
            yield f"{word!r}: the {{0}} sender may say it, and the {{1}} receiver does not know it"
    for field in sent.keys() & taken.keys():
        one, other = sent[field], taken[field]
        for kind in set(one["kinds"]) - set(other["kinds"]) - ({"integer"} if "number" in other["kinds"] else set()):
            yield f".{field}: the {{1}} receiver takes no {kind} of the {{0}} sender"
        for bound, admits in _HOLDS.items():
            if bound in other and (bound not in one or not _admitted(admits, one[bound], other[bound])):
                yield f".{field}: the {{0}} sender may say what is beyond the {{1}} receiver's {bound} {other[bound]}"


def _admitted(holds: Callable[[Any, Any], bool], bound: Any, of_receiver: Any) -> bool:
    """Whether everything within the one bound is within the other; an exclusive bound admits itself."""
    return bool(bound == of_receiver or holds(bound, of_receiver))


def _message(fields: dict[str, Shape], required: list[str], words: list[str]) -> Record:
    return {"messages": {"M": {"fields": fields, "required": required, "words": words}}, "questions": {}}


def test_what_would_be_misunderstood_is_found() -> None:
    number = {"kinds": ["integer"]}
    old = _message({"size": {**number, "minimum": 1, "maximum": 9}, "gone": number, "may": number}, ["gone"], ["a"])
    new = _message({"size": {**number, "minimum": 0, "maximum": 8}, "more": number}, ["more"], ["b"])
    new["messages"]["M"]["fields"]["may"] = {"kinds": ["null", "number"]}
    old["questions"] = {"activity kept": ["A"], "activity dropped": []}
    new["questions"] = {"activity kept": ["B"], "activity added": []}
    assert set(_misunderstood(old, new)) == {
        "M .more: the newer receiver must have it, and the older sender may leave it out",
        "M .gone: the older receiver must have it, and the newer sender may leave it out",
        "M 'a': the older sender may say it, and the newer receiver does not know it",
        "M 'b': the newer sender may say it, and the older receiver does not know it",
        "M .size: the newer sender may say what is beyond the older receiver's minimum 1",
        "M .size: the older sender may say what is beyond the newer receiver's maximum 8",
        "M .may: the older receiver takes no null of the newer sender",
        "M .may: the older receiver takes no number of the newer sender",
        "activity kept: ['A'] became ['B']",
        "activity dropped: only the older side knows it",
        "activity added: only the newer side knows it",
    }


def test_what_a_newer_sender_adds_is_ignored() -> None:
    strict = [one.__name__ for one in _messages() if one.model_config.get("extra") != "ignore"]
    assert not strict
