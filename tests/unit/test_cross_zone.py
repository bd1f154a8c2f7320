"""The cross-zone scenario: what it asks of both moves, and that its job says what is expected of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localcloud.demo.cross_zone import PROGRAM, CrossZone, Move, judge
from localcloud.demo.cross_zone_page import page
from localcloud.demo_jobs import rover

COLD = Move(120.0, {"attached": 100.0}, 1700 << 20, 0, ["us-east-1a", "us-east-1b"], "predicted: 115 s", True, True)
WARM = replace(COLD, outage_seconds=30.0, moved_bytes=60 << 20, before_bytes=1800 << 20)


def test_a_warm_move_as_it_should_be() -> None:
    assert judge(WARM, COLD) == []
    told = CrossZone(WARM, COLD, "documented", 1)
    answer = told.as_json()
    assert answer["ok"] is True
    assert (answer["warm_outage_s"], answer["cold_outage_s"]) == (30.0, 120.0)
    assert (answer["warm_bytes_moved"], answer["cold_bytes_moved"]) == (60 << 20, 1700 << 20)
    assert answer["phases"]["cold"] == {"attached": 100.0}
    assert page(told) is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outage_seconds": 37.0}, "the warm outage is 0.31"),
        ({"moved_bytes": 400 << 20}, "0.24 of the cold one's bytes"),
        ({"zones": ["us-east-1a", "us-east-1a"]}, "did not change its zone"),
        ({"identical": False}, "output is not that of an undisturbed run"),
        ({"one_process": False}, "started anew"),
    ],
)
def test_what_does_not_hold_is_said(changes: dict[str, object], words: str) -> None:
    (problem,) = judge(replace(WARM, **changes), COLD)  # type: ignore[arg-type]
    assert words in problem


def test_the_job_says_what_is_expected_of_it(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    argv = [sys.executable, str(PROGRAM), "--data", str(tmp_path / "data"), "--mib", "18", "--steps", "4"]
    done = subprocess.run([*argv, "--pause", "0", "--until", str(go)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1].endswith(f"digest {rover.expected(18, 4)}")
    assert len({line.partition("]")[0] for line in lines}) == 1 and "progress 4/5" in lines[-2]
    assert (tmp_path / "data").stat().st_size == 18 << 20
