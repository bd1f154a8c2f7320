"""How the tests are spread over pytest's workers (`pytest -n N`; `make test` does it).

A lane is what stays together, in order, on one worker: a file, so that what a module sets up is set up once. Files that
share the session's local stack are one lane, so that one stack is started. Every worker takes the next lane when it has
come to the end of its own. Long lanes begin first, so that no worker is left alone with one at the end.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TOGETHER = {
    "stack": (
        "tests/e2e/test_spine.py",
        "tests/e2e/test_resume.py",
        "tests/e2e/test_identity.py",
        "tests/e2e/test_lost_checkpoint.py",
    ),
}
"""Lanes of several files."""

FIRST = (
    "stack",
    "tests/e2e",
    "tests/vm",
    "tests/integration",
    "tests/workflows",
)
"""Lanes, files and folders in the order in which they begin; what is not here comes last, in pytest's own order."""


def lane(nodeid: str) -> str:
    """The lane of a test."""
    file = nodeid.partition("::")[0]
    return next((name for name, files in TOGETHER.items() if file in files), file)


def place(nodeid: str) -> int:
    """Which lanes begin before this test's: by the longest entry of FIRST that names it."""
    own = lane(nodeid)
    names = {own, *map(str, PurePosixPath(own).parents)}
    named = [entry for entry in FIRST if entry in names]
    return FIRST.index(max(named, key=len)) if named else len(FIRST)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's scheduler for groups of tests, with lanes as groups, in the order in which pytest collected them."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)
