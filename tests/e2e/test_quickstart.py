"""The quickstart, word for word."""

from __future__ import annotations

import re

import pytest

from tests.documents.book import block, typed
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack, pytest.mark.matrix]
_STACK = "quickstart-test"


def test_a_stack_of_your_own() -> None:
    begin = block("docs/quickstart.md", "perdure=.venv/bin/perdure")
    look = block("docs/quickstart.md", "$perdure jobs")
    assert begin[-1] == "$perdure local down"
    try:
        printed = typed([*begin[:-1], "echo --- looks", *look], seconds=500, PERDURE_STACK=_STACK)
    finally:
        typed([begin[0], begin[-1]], seconds=PATIENCE, PERDURE_STACK=_STACK)
    told, looks = printed.split("--- looks\n")
    counted = [line for line in told.splitlines() if line.isdigit()]
    assert counted == [str(number) for number in range(1, 31)], told[-3000:]
    assert re.search(r"protections +1\n", told), told[-3000:]
    assert "Succeeded" in looks and "1" in looks, looks
