"""A part of CRIU's own tests as jobs: what they make up comes back after a power loss and after a notice.

All of them go through the stack at once, when the first result is asked for. Skipped where their source cannot be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from perdure.image.mounts import delete_tree
from tests.conformance import zdtm
from tests.conformance.courses import Courses, Outcome, Results, Way
from tests.conformance.own_stack import own_stack
from tests.conformance.sources import SourceMissing
from tests.conformance.subset import KNOWN, PASSING

pytestmark = [pytest.mark.conformance]

SIZE = 25
"""Tests to a job: with those that are known to fail in jobs of their own, one wave each way."""


@pytest.fixture(scope="session")
def suite() -> list[zdtm.Zdtm]:
    """The tests, built."""
    try:
        return zdtm.suite([*PASSING, *KNOWN])
    except SourceMissing as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def results(suite: list[zdtm.Zdtm]) -> Iterator[dict[Way, Results]]:
    """What became of all of them. Those that are known to fail go through a power loss alone: each is a job. They come
    after the others, because jobs of a node share its ports (socket_udp and socket_udp-corked bind the same)."""
    folder = Path(mkdtemp(prefix="perdure-conformance-", dir="/var/tmp"))
    good = [test for test in suite if test.name not in KNOWN]
    short = [test for test in suite if test.name in KNOWN]
    try:
        with own_stack() as client:
            courses = Courses(client, folder)
            found = {
                Way.POWER_LOSS: courses.run(good, Way.POWER_LOSS, size=SIZE)
                | courses.run(short, Way.POWER_LOSS, alone=KNOWN),
                Way.NOTICE: courses.run(good, Way.NOTICE, size=SIZE),
            }
        yield found
    finally:
        delete_tree(folder)


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("way", [Way.POWER_LOSS, Way.NOTICE])
def test_comes_back(results: dict[Way, Results], way: Way, name: str) -> None:
    found = results[way].get(name)
    assert found is not None, "it was not built"
    assert found.outcome is Outcome.PASS, f"{found.outcome}: {found.words}"


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_falls_short_as_known(results: dict[Way, Results], name: str) -> None:
    """Strict: one that passes now, or fails in another way, fails this list."""
    known, found = KNOWN[name], results[Way.POWER_LOSS].get(name)
    assert found is not None, "it was not built"
    assert found.outcome is known.outcome, f"{found.outcome} ({found.words}); the list says {known}"
    assert re.search(known.words, found.words), f"it says {found.words!r}; the list says {known}"
