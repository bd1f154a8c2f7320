"""Which tests run beside which: tests/lanes.py."""

from __future__ import annotations

from pathlib import Path

from tests.lanes import FIRST, TOGETHER, lane, place

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_a_lane_unless_it_belongs_to_one() -> None:
    assert lane("tests/unit/test_x.py::test_y[a::b]") == "tests/unit/test_x.py"
    assert lane("tests/e2e/test_spine.py::test_y") == lane("tests/e2e/test_resume.py::test_z") == "stack"
    assert lane("tests/vm/test_kernel.py::test_y") == "vm"


def test_long_lanes_begin_first_and_what_is_not_listed_comes_last() -> None:
    tests = (
        "tests/e2e/test_spine.py::t",
        "tests/e2e/test_demo.py::t",
        "tests/vm/test_kernel.py::t",
        "tests/unit/a.py::t",
    )
    assert [place(test) for test in tests] == [
        FIRST.index("stack"),
        FIRST.index("tests/e2e"),
        FIRST.index("vm"),
        len(FIRST),
    ]


def test_what_is_listed_is_there() -> None:
    members = [member for members in TOGETHER.values() for member in members]
    assert [name for name in (*members, *FIRST) if name not in TOGETHER and not (ROOT / name).exists()] == []
