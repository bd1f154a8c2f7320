"""docs/mmbatch-compatibility.md: every row names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs/mmbatch-compatibility.md").read_text().splitlines()
    if line.startswith("| ") and "---" not in line and not line.startswith("| MMBatch")
]
_NAMED = re.compile(r"((?:unit|integration|workflows|e2e|browser)/\w+\.py)?(?:::(\w+))?")


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_row_is_proved(row: str) -> None:
    proof = row.strip().rstrip("|").rpartition("|")[2]
    if "not offered" in proof:
        return
    file, proved = "", 0
    for word in re.split(r"[,\s]+", proof):
        found = _NAMED.fullmatch(word)
        if word == "docs/compatibility.md":
            proved += 1
        elif found and word:
            file = found[1] or file
            assert (ROOT / "tests" / file).is_file(), word
            assert found[2] is None or found[2] in functions(file), word
            proved += 1
    assert proved, f"no test is named in {proof!r}"
