"""The wrapper's JSON: Python's own, by a short cut that may be there, changed or missing in any Python of a machine."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_agent.runtime import perdure_runtime

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def _raise(problem: BaseException) -> Callable[..., Any]:
    def fail(*arguments: object, **named: object) -> Any:
        raise problem

    return fail


def _nothing(*arguments: object) -> None:
    return None


CHANGED: dict[str, dict[str, Any] | None] = {
    "it is gone": None,
    "its names are gone": {},
    "its scanner wants more": {
        "make_scanner": _raise(AttributeError("'Context' has no attribute 'memo'")),
        "encode_basestring_ascii": _raise(TypeError("wants two arguments")),
    },
    "it calls them otherwise": {"make_scanner": _nothing, "encode_basestring_ascii": _nothing},
    "its scanner fails later": {"make_scanner": lambda context: _raise(SystemError("NULL result"))},
    "its scanner answers otherwise": {"make_scanner": lambda context: lambda text, start: (None, "end")},
}


@pytest.mark.parametrize("names", CHANGED.values(), ids=CHANGED.keys())
def test_a_python_whose_private_json_is_another_is_served_by_the_public_one(
    names: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: `_from_json` uses private names of `json`, and only a missing one led to the public module."""
    private = None if names is None else types.ModuleType("_json")
    for name, value in (names or {}).items():
        setattr(private, name, value)
    monkeypatch.setitem(sys.modules, "_json", private)
    assert perdure_runtime._from_json(' {"process": {"env": ["A=\\u00e4"]}}\n') == {"process": {"env": ["A=ä"]}}
    for text in ("", "{", "{} {}", '{"a": nope}'):
        with pytest.raises(ValueError):
            perdure_runtime._from_json(text)
    fields: dict[str, object] = {"name": 'ä"\n', "pid": 7, "later": True, "none": None}
    assert json.loads(perdure_runtime._as_json(fields)) == fields


@given(value=values)
def test_it_reads_what_json_writes_and_json_reads_what_it_writes(value: object) -> None:
    assert perdure_runtime._from_json(json.dumps(value)) == value
    if isinstance(value, str):
        assert json.loads(perdure_runtime._as_json({"text": value})) == {"text": value}


def test_private_modules_that_are_gone_are_replaced_by_the_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kind of fault: `_socket` and `_signal` had no way back at all."""
    for private, public in (("_socket", "socket"), ("_signal", "signal")):
        monkeypatch.setitem(sys.modules, private, None)
        assert perdure_runtime._module(private, public) is sys.modules[public]
