"""The quickstart, word for word."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack, pytest.mark.matrix]
ROOT = Path(__file__).parents[2]
_STACK = "quickstart-test"


def _lines(beginning: str) -> list[str]:
    """The lines of code of the page's block that begins so."""
    text = (ROOT / "docs/quickstart.md").read_text()
    blocks = re.findall(r"(?:^ {4}.+\n)+", text, re.MULTILINE)
    [found] = [block for block in blocks if block.strip().startswith(beginning)]
    return [line.strip() for line in found.splitlines()]


def test_a_stack_of_your_own() -> None:
    begin, look = _lines("perdure=.venv/bin/perdure"), _lines("$perdure jobs")
    assert begin[-1] == "$perdure local down"
    script = "\n".join(["set -e", *begin[:-1], "echo --- looks", *look])
    environment = {**os.environ, "PERDURE_STACK": _STACK, "COLUMNS": "160"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    finally:
        down = ["bash", "-c", "\n".join([begin[0], begin[-1]])]
        subprocess.run(down, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE, check=True)
    told, looks = done.stdout.split("--- looks\n")
    counted = [line for line in told.splitlines() if line.isdigit()]
    assert counted == [str(number) for number in range(1, 31)], told[-3000:]
    assert re.search(r"protections +1\n", told), told[-3000:]
    assert "Succeeded" in looks and "1" in looks, looks
